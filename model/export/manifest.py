"""The manifest of an exported network: everything needed to run it, inside the ONNX file and as a JSON file beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ...errors import ConfigError
from ..checkpoints.plain import read_object, whole_number
from ..names import SCALES

FORMAT = "samdiff-tile-network"
FORMAT_VERSION = 1
KEY = "samdiff"
"""Of the manifest in the metadata of an ONNX file."""
INPUT, OUTPUT = "lr", "image"
OVERLAP = 16
"""LR pixels that neighbouring tiles share."""
MOST_TILE = 1024


@dataclass(frozen=True)
class Manifest:
    """What an exported network is. All images are NCHW, RGB, float32 in [0, 1]."""

    network: str
    """rrdb or student."""
    scale: int
    """HR pixels per LR pixel."""
    tile: int
    """N: the network takes [1, 3, N, N] and gives [1, 3, s N, s N]."""
    overlap: int
    """LR pixels that neighbouring tiles should share."""
    receptive_field: int
    """LR pixels along one axis that an output pixel depends on."""
    precision: str
    """fp32, fp16 or int8."""
    opset: int
    """Of ONNX."""
    weights_sha256: str
    """Of the weights in the checkpoint."""
    licence: str = ""
    """Of the weights."""
    attribution: str = ""
    """The credit that the licence requires."""
    psnr_y: dict[str, float] | None = None
    """Measured on patches: `checkpoint` and `exported` in dB, their difference `loss`, and the number of `patches`. None: not measured."""

    def as_dict(self) -> dict[str, object]:
        """The manifest as JSON-serialisable values, with the shapes and the range of the tensors."""
        n, s = self.tile, self.scale
        tensors = {
            "input": {"name": INPUT, "shape": [1, 3, n, n], "range": [0, 1], "channels": "RGB"},
            "output": {"name": OUTPUT, "shape": [1, 3, s * n, s * n], "range": [0, 1], "channels": "RGB"},
        }
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self), **tensors}

    def text(self) -> str:
        """As JSON."""
        return json.dumps(self.as_dict(), sort_keys=True)


def read_manifest(text: str, where: str) -> Manifest:
    """The manifest in an untrusted file. ConfigError if it is not one, or its numbers are out of range."""
    try:
        values = read_object(text)
    except ValueError as error:
        raise ConfigError(f"{where}: its manifest is damaged ({error}); export the model again") from error
    if values.get("format") != FORMAT or values.get("format_version") != FORMAT_VERSION:
        raise ConfigError(f"{where}: expected a manifest {FORMAT} {FORMAT_VERSION}; export the model again with this samdiff")
    bounds = {"tile": MOST_TILE, "overlap": MOST_TILE, "receptive_field": 1 << 20, "opset": 1000}
    for name, most in bounds.items():
        value = values.get(name)
        if not whole_number(value) or not 0 <= value <= most:
            raise ConfigError(f"{where}: {name} of its manifest: expected a number of 0 to {most}")
    if values.get("scale") not in SCALES:
        raise ConfigError(f"{where}: scale of its manifest: expected one of {', '.join(map(str, SCALES))}")
    texts = {
        name: str(values.get(name, ""))[:1000] for name in ("network", "precision", "weights_sha256", "licence", "attribution")
    }
    numbers = {name: value for name in (*bounds, "scale") if isinstance(value := values[name], int)}
    return Manifest(**texts, **numbers)  # type: ignore[arg-type]
