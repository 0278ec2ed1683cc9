"""`samdiff evaluate` and `samdiff compare`: metrics and sheets that others can check."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...model.evaluate_config import EvaluateConfig
from ...model.infer_config import InferConfig
from ...settings import section
from ..common import COMMON, Checkpoint, Device, Threads, choose_checkpoint, finish, print_result, print_status, required
from ..document import Document, print_table, with_json_lines
from ..options import Chosen, configured, renamed

if TYPE_CHECKING:
    import numpy as np

    from ...model.evaluation.benchmark import LrRecipe
    from ...model.evaluation.evaluate import Row
    from ...model.inference.upscaler import Upscaler


@dataclass(frozen=True)
class EvaluateSettings:
    """All settings of `samdiff evaluate`."""

    evaluate: EvaluateConfig = section(EvaluateConfig)
    infer: InferConfig = section(InferConfig, panel="Sampling", without=("seed", "rrdb_only"))


@configured(EvaluateSettings)
@with_json_lines("image", items="pictures")
def evaluate(
    chosen: Chosen[EvaluateSettings],
    document: Document,
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=COMMON,
            help="A name (set5, set14, bsd100, urban100), a folder with HR/ and LRx4/, or a folder of HR images; may be repeated.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure a model on benchmarks.

    Compares a model, its RRDB and bicubic upsampling with HR: PSNR, SSIM, consistency with LR, artifacts (LDL).
    """
    config = chosen.config()
    required("evaluate", **{"--benchmark": benchmark})
    assert benchmark is not None
    import json
    from functools import partial

    from ...errors import ConfigError, printable
    from ...model.checkpoints.publish import checkpoint_files
    from ...model.evaluation.benchmark import benchmark_files, read_benchmark_folder
    from ...model.evaluation.evaluate import as_csv, as_json, as_markdown, lr_lines, methods, summarise, undefined_metrics
    from ...model.evaluation.evaluate import evaluate as run
    from ...model.evaluation.perceptual import load_measures
    from ...model.evaluation.unfinished import FILE, Unfinished
    from ...model.inference.batch import provenance
    from ...model.inference.image_io import save_image
    from ...model.inference.resolver import OneStepResolver
    from ...model.inference.upscaler import load_model
    from ...model.names import HR
    from ...model.samples.range_metrics import conventions
    from ...pipeline.download.benchmarks import find_benchmark
    from ...pipeline.scientific.view import range_view
    from ...pipeline.storage.outputs import claim_outputs, write_output
    from ...runtime import pick_device, progress, setup_process

    settings, chosen_metrics = config.infer, config.evaluate.metrics
    out, seeds, save, overwrite = config.evaluate.out, config.evaluate.seeds, config.evaluate.save, config.evaluate.overwrite
    benchmark = [find_benchmark(folder) for folder in benchmark]
    path = choose_checkpoint(checkpoint)
    inputs = [*checkpoint_files(path), *(file for folder in benchmark for file in benchmark_files(folder))]
    files = [out / name for name in ("figures.csv", "figures.json", "table.md")]
    claim_outputs([("--out", file) for file in files], inputs, overwrite)  # reported before hours of work
    setup_process(threads)
    model = load_model(path, pick_device(device))
    model.sampling_plan(settings)  # an error before the images are read
    one_step = isinstance(model, OneStepResolver)
    if one_step and seeds > 1:
        raise ConfigError(f"--seeds {seeds}: {printable(path)} is a network of one step, without noise; leave it out")
    _check_samples(config.evaluate, model)
    extras = load_measures([name for name in chosen_metrics.split(",") if name], model.device) if chosen_metrics else None
    skipped, models = (extras.skipped, extras.models) if extras else ({}, {})
    names = [folder.resolve().name for folder in benchmark]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--benchmark: two folders are named {twice[0]}, their metrics could not be told apart; rename one")
    recipe = _recipe(config.evaluate)
    read = {
        name: read_benchmark_folder(folder, model.scale, recipe=recipe, samples=model.samples)
        for name, folder in zip(names, benchmark, strict=True)
    }
    sets, lr_from = {name: found.pairs for name, found in read.items()}, {name: found.lr_from for name, found in read.items()}
    print_status(*lr_lines(lr_from))
    unused = {f"{name}/{image}": reason for name, found in read.items() for image, reason in found.skipped.items()}
    every = [(name, pair) for name, pairs in sets.items() for pair in pairs if model.samples.is_rgb8]
    small = {f"{name}/{pair.name}": undefined_metrics(pair, model.scale) for name, pair in every}
    skipped |= unused | {name: "; ".join(reason for _, reason in reasons) for name, reasons in small.items() if reasons}
    for what, reason in skipped.items():  # before hours of work; again at the end
        print_status(f"without {what}: {reason}")
    how = provenance(model, settings)
    measured = sorted([*extras.images, *extras.folders]) if extras else []
    decides = {"model": model.sha256, **how, "device": model.device.type, "seeds": seeds, "metrics": measured, "save": save}
    decides |= {} if recipe is None else {"blind_seed": recipe.seed} if recipe.kind == "blind" else {"lr": recipe.describe()}
    decides |= {"metric_models": models}
    claim_outputs([("--out", out / FILE)], inputs, overwrite=True)
    unfinished = Unfinished(out, decides)
    if save:
        made = [
            out / "pictures" / name / f"{pair.name}_{method}.png"
            for name, pairs in sets.items()
            for pair in pairs
            for method in (*methods(range(seeds), has_rrdb=not one_step), HR)
        ]
        claim_outputs([("--out", file) for file in made if not unfinished.is_ours(file)], inputs, overwrite)
    if unfinished.replaced:
        print_status(f"{out}: an evaluation with another model, settings or metrics was unfinished there; this one begins anew")
    rows = []

    def emit(row: Row) -> None:
        document.emit({"benchmark": row.benchmark, "image": row.image, "method": row.method, "seed": row.seed, **row.metrics})

    for name, pairs in sets.items():
        before = sum(unfinished.rows(name, pair) is not None for pair in pairs)
        if before:
            print_status(f"{name}: {before} of {len(pairs)} images were finished before")
        if save:
            for pair in pairs:
                file = out / "pictures" / name / f"{pair.name}_{HR}.png"
                if not unfinished.is_ours(file):
                    save_image(range_view(pair.hr, model.samples), file, overwrite=overwrite)
                    unfinished.saved(file)
        each = seeds + 2 - one_step
        bar = progress(desc=name, total=len(pairs) * each, initial=before * each, unit="image")

        def done(picture: str, method: str, found: object, name: str = name, bar: object = bar) -> None:
            if save:
                file = out / "pictures" / name / f"{picture}_{method}.png"
                save_image(range_view(found, model.samples), file, overwrite=overwrite or unfinished.is_ours(file))  # type: ignore[arg-type]
                unfinished.saved(file)
            bar.update()  # type: ignore[attr-defined]

        regress = None if one_step else partial(model.upscale, settings=settings, rrdb_only=True)
        rows += run(
            pairs,
            name,
            model.scale,
            regress=regress,
            upscale=lambda lr, seed: model.upscale(lr, settings) if one_step else model.upscale(lr, settings, seed=seed),
            seeds=range(seeds),
            extras=extras,
            on_image=done,
            unfinished=unfinished,
            samples=model.samples,
            on_row=emit,
        )
        bar.close()
    models = models | conventions(model.samples)
    table = as_markdown(summarise(rows), models)
    facts = {"checkpoint": printable(path), **how, "seeds": list(range(seeds)), "scale": model.scale, "metric_models": models}
    facts |= {"lr_from": {printable(name): printable(source) for name, source in lr_from.items()}}
    facts |= {"skipped": {printable(name): printable(reason) for name, reason in skipped.items()}}
    table = "\n".join([table, "", *lr_lines(lr_from)])
    as_document = as_json(rows, facts)
    document.content.update(json.loads(as_document), files=files)
    if not document.requested:  # before the files: it is not lost if they cannot be written
        _print_metrics(table)
    for file, text in zip(files, (as_csv(rows), as_document, table + "\n"), strict=True):
        write_output(file, text.encode(), overwrite)
    unfinished.remove()
    print_status("", f"{how['samdiff-settings'].split(', seed')[0]}; {out}/figures.csv, figures.json, table.md")
    finish(skipped)


def _recipe(settings: EvaluateConfig) -> LrRecipe | None:
    """How LR is made from HR; None: the benchmark's own, else bicubic."""
    from ...model.evaluation.benchmark import LrRecipe
    from ...pipeline.degrade.kinds import gains_of

    if settings.degradation == "bicubic":
        return None
    gains = gains_of(settings.mtf_gains) if settings.degradation == "mtf" else ()
    return LrRecipe(settings.degradation, settings.degradation_seed, gains)


def _check_samples(settings: EvaluateConfig, model: Upscaler) -> None:
    """ConfigError for settings that are defined for 8-bit RGB, with a model of other samples."""
    from ...errors import ConfigError

    if model.samples.is_rgb8:
        return
    for name, given in (("--metrics", settings.metrics), ("--degradation blind", settings.degradation == "blind")):
        if given:
            raise ConfigError(f"{name}: defined for 8-bit RGB, the model has {model.samples.describe()}; leave it out")


def _print_metrics(table: str) -> None:
    """Print the Markdown table, and the lines below it."""
    lines = table.splitlines()
    head = [line for line in lines if line.startswith("|")]
    columns, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in head)
    print_table("metrics", columns, rows, plain=lines)
    if sys.stdout is not None and sys.stdout.isatty():
        print_result(*lines[len(head) :])


@renamed("--shave")
def compare(
    images: Annotated[list[Path], typer.Argument(help="Results of the same input; the file name is the label.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The sheet.")] = Path("comparison.png"),
    reference: Annotated[Path | None, typer.Option(help="HR image: adds metrics and difference maps.")] = None,
    lr: Annotated[Path | None, typer.Option(help="LR image: adds a panel and crops, enlarged by nearest neighbour.")] = None,
    crop: Annotated[
        list[str] | None,
        typer.Option(show_default="the most detailed square", help="Crop to enlarge: x,y,width,height; may be repeated."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Label of an image: one per image, in the same order.")] = None,
    crop_border: Annotated[
        int,
        typer.Option("--crop-border", "--shave", min=0, help="Pixels of the border that metrics ignore; usually the scale."),
    ] = 4,
    width: Annotated[int, typer.Option(min=32, max=4096, help="Width of a panel in pixels.")] = 240,
    metrics: Annotated[
        str, typer.Option(help="Metrics in the captions: auto (lpips,dists if their weights are in the cache), off, or names.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace the sheet if it exists.")] = False,
) -> None:
    """Draw results side by side.

    Draws a sheet with enlarged crops, labels, metrics and difference maps.
    """
    from ...errors import ConfigError, printable
    from ...model.evaluation.perceptual import choose_metrics, metrics_for
    from ...model.inference.image_io import FORMATS, open_image, save_image
    from ...model.sheets.comparison import comparison
    from ...pipeline.storage.outputs import claim_outputs
    from ...runtime import pick_device

    if out.suffix.lower() not in FORMATS:  # reported before the work
        raise ConfigError(f"--out {printable(out)}: expected a file ending in {', '.join(FORMATS)}")
    claim_outputs([("--out", out)], [*images, *(file for file in (reference, lr) if file is not None)], overwrite)
    if label and len(label) != len(images):
        raise ConfigError(f"--label: expected one per image, got {len(label)} for {len(images)}")
    boxes = [_box(text) for text in crop or []]
    named = list(zip(label or [path.stem for path in images], map(open_image, images), strict=True))
    truth = None if reference is None else _cut(open_image(reference), *named[0][1].shape[:2])
    more = {}
    if truth is not None:
        chosen = choose_metrics(metrics, pick_device("auto"), report=lambda text: print_status(f"captions {text}"))
        more = metrics_for(chosen, min(truth.shape[:2]))
    low = None if lr is None else open_image(lr)
    sheet = comparison(named, truth, boxes, crop_border=crop_border, width=width, metrics=more, lr=low)
    save_image(sheet, out, overwrite=overwrite)
    print_status(printable(out))


def _cut(hr: np.ndarray, height: int, width: int) -> np.ndarray:
    """HR cut to the size of its results, as `degrade` cuts it before reducing: to a multiple of the scale."""
    from ...errors import ConfigError
    from ...model.names import SCALES

    if hr.shape[0] - height >= max(SCALES) or hr.shape[1] - width >= max(SCALES):
        raise ConfigError(
            f"--reference: expected the HR of images of {width} x {height} pixels, at most {max(SCALES) - 1} larger per side, got "
            f"{hr.shape[1]} x {hr.shape[0]}"
        )
    return hr[:height, :width]


def _box(text: str) -> tuple[int, int, int, int]:
    from ...errors import ConfigError

    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--crop: expected x,y,width,height, got {text!r}") from error
    return x, y, width, height
