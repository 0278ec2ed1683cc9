"""The source `samples`: a few images that scikit-image ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ...errors import ImageError

SAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""Images in the wheel of scikit-image."""


def sample_files() -> list[Path]:
    """The paths of the samples.

    Raises:
        ImageError: scikit-image is not installed, or its version lacks one of them.
    """
    spec = importlib.util.find_spec("skimage")  # does not import it
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    missing = [name for name in SAMPLES if folder is None or not (folder / name).is_file()]
    if folder is None or missing:
        what = "scikit-image is not installed" if folder is None else f"scikit-image ships no {', '.join(missing)}"
        raise ImageError(f"samples: {what}; pip install 'samdiff[samples]', or use a folder of images")
    return [folder / name for name in SAMPLES]
