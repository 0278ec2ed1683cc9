"""`samdiff evaluate` and `samdiff compare`: figures and sheets that others can check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import Device, Threads, choose_checkpoint, finish, print_result, print_status


def evaluate(
    benchmark: Annotated[list[Path], typer.Option(help="A folder with HR/ and LRx4/, or of HR pictures; may be repeated.")],
    checkpoint: Annotated[Path | None, typer.Option(help="model.safetensors or a run's folder [as for infer].")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for figures.csv, figures.json and table.md.")] = Path(
        "evaluation"
    ),
    steps: Annotated[int | None, typer.Option(help="Sampling steps [all].")] = None,
    sampler: Annotated[str | None, typer.Option(help="As for infer.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of samples per picture: seeds 0, 1, …")] = 1,
    average: Annotated[int, typer.Option(help="Each result is the mean of so many samples.")] = 1,
    start: Annotated[str, typer.Option(help="noise or rrdb.")] = "noise",
    consistent: Annotated[bool, typer.Option(help="Make results consistent with LR first.")] = False,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    metrics: Annotated[str, typer.Option(help="More figures through pyiqa: lpips,dists,maniqa,fid,… (samdiff[iqa]).")] = "",
    save: Annotated[bool, typer.Option(help="Keep the pictures in OUT/pictures.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the figures of an earlier evaluation.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """PSNR, SSIM, consistency and artifacts of a model beside bicubic and its RRDB, by named protocols."""
    from functools import partial

    from ...errors import ConfigError
    from ...model.checkpoints.publish import checkpoint_files
    from ...model.evaluation.evaluate import as_csv, as_json, as_markdown, benchmark_files, methods, read_pairs, summarise
    from ...model.evaluation.evaluate import evaluate as run
    from ...model.evaluation.perceptual import load_measures
    from ...model.evaluation.unfinished import FILE, Unfinished
    from ...model.inference.batch import provenance
    from ...model.inference.image_io import save_picture
    from ...model.inference.upscaler import InferConfig, load_model
    from ...pipeline.storage.outputs import claim_outputs, write_output
    from ...runtime import pick_device, progress, setup_process

    path = choose_checkpoint(checkpoint)
    inputs = [*checkpoint_files(path), *(file for folder in benchmark for file in benchmark_files(folder))]
    files = [out / name for name in ("figures.csv", "figures.json", "table.md")]
    claim_outputs([("--out", file) for file in files], inputs, overwrite)  # reported before hours of work
    setup_process(threads)
    model = load_model(path, pick_device(device))
    settings = InferConfig(steps, 0, sampler, average, start, consistent=consistent, precision=precision)
    model.check(settings)
    extras = load_measures([name for name in metrics.split(",") if name], model.device) if metrics else None
    skipped = extras.skipped if extras else {}
    for metric, reason in skipped.items():  # before hours of work; again at the end
        print_status(f"without {metric}: {reason}")
    names = [folder.resolve().name for folder in benchmark]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--benchmark: two folders are named {twice[0]}, their figures could not be told apart; rename one")
    sets = {name: read_pairs(folder, model.scale) for name, folder in zip(names, benchmark, strict=True)}
    how = provenance(model, settings)
    measured = sorted([*extras.pictures, *extras.folders]) if extras else []
    decides = {"model": model.sha256, **how, "device": model.device.type, "seeds": seeds, "metrics": measured, "save": save}
    claim_outputs([("--out", out / FILE)], inputs, overwrite=True)
    unfinished = Unfinished(out, decides)
    if unfinished.replaced:
        print_status(f"{out}: an evaluation with another model, settings or metrics was unfinished there; this one begins anew")
    if save:
        made = [
            out / "pictures" / name / f"{pair.name}_{method}.png"
            for name, pairs in sets.items()
            for pair in pairs
            for method in methods(range(seeds))
        ]
        claim_outputs([("--out", file) for file in made if not unfinished.is_ours(file)], inputs, overwrite)
    rows = []
    for name, pairs in sets.items():
        before = sum(unfinished.rows(name, pair) is not None for pair in pairs)
        if before:
            print_status(f"{name}: {before} of {len(pairs)} images were finished before")
        each = seeds + 2
        bar = progress(desc=name, total=len(pairs) * each, initial=before * each, unit="picture")

        def done(picture: str, method: str, found: object, name: str = name, bar: object = bar) -> None:
            if save:
                file = out / "pictures" / name / f"{picture}_{method}.png"
                save_picture(found, file, overwrite=overwrite or unfinished.is_ours(file))  # type: ignore[arg-type]
                unfinished.saved(file)
            bar.update()  # type: ignore[attr-defined]

        regress = partial(model.upscale, settings=settings, regress=True)
        rows += run(
            pairs,
            name,
            model.scale,
            regress,
            lambda lr, seed: model.upscale(lr, settings, seed=seed),
            range(seeds),
            extras,
            done,
            unfinished,
        )
        bar.close()
    table = as_markdown(summarise(rows))
    facts = {"checkpoint": str(path), **how, "seeds": list(range(seeds)), "scale": model.scale, "skipped": skipped}
    print_result(*table.splitlines())  # first: it is not lost if the files cannot be written
    for file, text in zip(files, (as_csv(rows), as_json(rows, facts), table + "\n"), strict=True):
        write_output(file, text.encode(), overwrite)
    unfinished.remove()
    print_status("", f"{how['samdiff-settings'].split(', seed')[0]}; {out}/figures.csv, figures.json, table.md")
    finish(skipped)


def compare(
    pictures: Annotated[list[Path], typer.Argument(help="Results of one input; the file's name is its label.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The sheet.")] = Path("comparison.png"),
    reference: Annotated[Path | None, typer.Option(help="HR: adds figures and difference maps.")] = None,
    crop: Annotated[
        list[str] | None, typer.Option(help="x,y,width,height; may be repeated [the most detailed square].")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="One per picture, in their order.")] = None,
    crop_border: Annotated[
        int,
        typer.Option("--crop-border", "--shave", min=0, help="Border left out of the metrics, in pixels; usually the scale."),
    ] = 4,
    width: Annotated[int, typer.Option(min=32, help="Of a panel in pixels.")] = 240,
    overwrite: Annotated[bool, typer.Option(help="Replace the sheet if it exists.")] = False,
) -> None:
    """Pictures side by side: zoomed crops, labels, figures, difference maps."""
    from ...errors import ConfigError
    from ...model.evaluation.comparison import comparison
    from ...model.inference.image_io import FORMATS, open_picture, save_picture
    from ...pipeline.storage.outputs import claim_outputs

    if out.suffix.lower() not in FORMATS:  # reported before the work
        raise ConfigError(f"--out {out}: expected a file ending in {', '.join(FORMATS)}")
    claim_outputs([("--out", out)], [*pictures, *([reference] if reference is not None else [])], overwrite)
    if label and len(label) != len(pictures):
        raise ConfigError(f"--label: expected one per picture, got {len(label)} for {len(pictures)}")
    boxes = [_box(text) for text in crop or []]
    named = list(zip(label or [path.stem for path in pictures], map(open_picture, pictures), strict=True))
    truth = None
    if reference is not None:
        height, full_width = named[0][1].shape[:2]
        truth = open_picture(reference)[:height, :full_width]  # an HR that is no multiple of the scale is cut, as LR was
    save_picture(comparison(named, truth, boxes, crop_border, width=width), out, overwrite=overwrite)
    print_status(f"{out}")


def _box(text: str) -> tuple[int, int, int, int]:
    from ...errors import ConfigError

    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--crop: expected x,y,width,height, got {text!r}") from error
    return x, y, width, height
