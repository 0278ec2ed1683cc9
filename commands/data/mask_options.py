"""The mask generator's parameters as options, for every command that has them."""

from __future__ import annotations

from typing import Annotated

import typer

_SAM = "segment-anything"

Mode = Annotated[str, typer.Option(help=f"exact: {_SAM}'s masks; fast: bf16 decoding, which changes masks a little.")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="torch.compile the segmenter, for many pictures; with --mode fast only, changes masks a little."
    ),
]
PointsPerSide = Annotated[int, typer.Option(min=1, help="Prompts per side of the image.")]
PointsPerBatch = Annotated[int, typer.Option(min=1, help="Prompts decoded together: memory, not masks.")]
PredIou = Annotated[float, typer.Option(help="Drop masks whose predicted IoU is not above it.")]
Stability = Annotated[float, typer.Option(help="Drop masks whose stability is below it.")]
StabilityOffset = Annotated[float, typer.Option(help="Stability is |logit > offset| / |logit > -offset|.")]
BoxNms = Annotated[float, typer.Option(help="Of two masks whose boxes have a higher IoU, the better stays.")]
CropLayers = Annotated[int, typer.Option(min=0, help="Also segment 4, 16, … crops of the image.")]
CropNms = Annotated[float, typer.Option(help="As --box-nms-thresh, between crops.")]
CropOverlap = Annotated[float, typer.Option(help="Overlap of crops as a fraction of the shorter side.")]
CropPoints = Annotated[int, typer.Option(min=1, help="Layer i has fewer points per side by its i-th power.")]
RegionArea = Annotated[int, typer.Option(min=0, help="Remove holes and islands of fewer pixels.")]
