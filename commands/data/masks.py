"""`samdiff masks`: what the segmenter sees in images, drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError, ImageError, printable
from ...pipeline.masks.settings import MaskConfig, SegmenterConfig
from ...settings import section
from ..common import COMMON, RUN, Device, Threads, finish, print_error, print_status, required
from ..document import Document, with_json_lines
from ..options import Chosen, configured
from .confirm import confirm_weights


@dataclass(frozen=True)
class MasksSettings:
    """All settings of `samdiff masks`."""

    segmenter: SegmenterConfig = section(SegmenterConfig, panel="Masks")
    masks: MaskConfig = section(MaskConfig, panel="Masks")


@configured(MasksSettings)
@with_json_lines("image", items="images")
def masks(
    chosen: Chosen[MasksSettings],
    document: Document,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Images, folders of images, zip or tar archives.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            rich_help_panel=COMMON,
            show_default="NAME_masks.png in this folder",
            help="Output file; for several images, output folder.",
        ),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            rich_help_panel=COMMON,
            help="Also write the masks as JSON in amg.py's format (COCO RLE): a file; for several images, a folder.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", rich_help_panel=COMMON, help="Also search subfolders.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(rich_help_panel=COMMON, help="Replace files that exist.")] = False,
    yes: Annotated[bool, typer.Option("--yes", rich_help_panel=RUN, help="Download large weights without asking.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Draw the masks of images.

    Draws the image, its masks in colour, and its E_SAM map, which training uses.
    """
    settings = chosen.config()
    required("masks", IMAGE=images)
    assert images is not None
    images, records = _former_json(images, records, document)
    from ...model.inference.image_io import FORMATS
    from ...model.sheets.mask_sheets import SUFFIX, MaskJob, MaskResult, draw_masks, list_mask_inputs, plan_mask_files, unused
    from ...pipeline.storage.outputs import claim_outputs
    from ...runtime import activity, pick_device, setup_process

    segmenter = settings.segmenter
    weights = [] if segmenter.sam_weights is None else [segmenter.sam_weights]
    files, single = list_mask_inputs(images, recursive=recursive, out=out)
    if single:
        target = out or Path(f"{Path(images[0]).stem}{SUFFIX}.png")
        if target.suffix.lower() not in FORMATS:  # reported before the work, not after it
            raise ConfigError(f"--out {target}: expected a file ending in {', '.join(FORMATS)}")
        outputs = [("--out", target), *([("--records", records)] if records is not None else [])]
        claim_outputs(outputs, [images[0], files[0].path, *weights], overwrite)
        if files[0].problem:
            raise ImageError(f"{printable(files[0].path)}: {files[0].problem}")
        jobs = [MaskJob(files[0], target, records)]
    else:
        jobs = plan_mask_files(files, out, records, read=weights, overwrite=overwrite)
    document.content.update(segmenter=None, mode=settings.masks.mode, device=None)

    def emit(result: MaskResult) -> None:
        document.emit(asdict(result))

    if all(job.problem for job in jobs):  # such as a second run of the same command: no weights are loaded
        results = [unused(job) for job in jobs]
        for result in results:
            emit(result)
    else:
        from ...pipeline.segmenters.by_name import make_segmenter

        where = pick_device(device)
        name = segmenter.sam or ("vit_h" if where.type == "cuda" else "mobile_sam")
        confirm_weights(name, file=segmenter.sam_weights, source=segmenter.weights_source, yes=yes)
        setup_process(threads)
        with activity(f"loading {name}"):
            generator = make_segmenter(
                name, where, weights=segmenter.sam_weights, source=segmenter.weights_source, settings=settings.masks
            )
        how = f"{generator.describe()['name']}, {settings.masks.mode}, {where}"
        engine = getattr(generator, "engine", None)  # of the mask engine's segmenters
        group = 1 if engine is None else engine.encoder_batch
        results = draw_masks(generator, jobs, how=how, group=group, overwrite=overwrite, report=print_status, on_result=emit)
        document.content.update(segmenter=generator.describe(), device=str(where))
    document.content["images"] = list(map(asdict, results))
    finish({result.source: result.reason for result in results if result.status == "skipped"})


def _former_json(images: list[str], records: Path | None, document: Document) -> tuple[list[str], Path | None]:
    """The images, and the file of the records: `--json FILE` of earlier releases is taken as `--records FILE`, with a warning.

    Raises:
        ConfigError: a .json file among the images in another way.
    """
    files = [given for given in images if given.lower().endswith(".json")]
    if not files:
        return images, records
    if document.requested and document.lines is None and records is None and len(files) == 1 and len(images) > 1:
        print_error(f"--json {files[0]}: taken as --records {files[0]}; --json without a file prints a document")
        document.requested = False
        return [given for given in images if given != files[0]], Path(files[0])
    raise ConfigError(
        f"{printable(files[0])}: expected an image; `--records FILE` writes the records, `--json` prints a document and takes no file"
    )
