"""Files in, files out: what `samdiff infer` does around a model. The nature of a picture (grey, alpha) is kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import CheckpointError, ConfigError, ImageError
from ..pipeline.keystore import write_atomic
from ..runtime import progress
from .infer import SuperResolver, eight_bits

MAX_PIXELS = 50_000_000  # of an input; a bound against decompression bombs
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}


def plan_outputs(inputs: Sequence[Path], out: Path | None, scale: int, overwrite: bool) -> list[tuple[Path, Path]]:
    """(input, output) pairs, decided before anything is computed.

    Args:
        inputs: picture files.
        out: a file for one input, a folder for several; None: NAME_x4.png beside each input.
        scale: names the outputs.
        overwrite: allow outputs that exist.

    Raises:
        ConfigError: several inputs for one file, two inputs for one name, an unknown format, or an output that exists.
    """
    single = out is not None and out.suffix.lower() in FORMATS and not out.is_dir()
    if single and len(inputs) > 1:
        raise ConfigError(f"--out: {len(inputs)} pictures cannot go to one file {out}; give a folder")
    if out is not None and not single and out.suffix and not out.is_dir():
        raise ConfigError(f"--out: expected a folder or a file ending in {', '.join(FORMATS)}, got {out}")
    jobs = [(path, out if single and out else (out or path.parent) / f"{path.stem}_x{scale}.png") for path in inputs]
    targets = [target for _, target in jobs]
    double = next((target for target in targets if targets.count(target) > 1), None)
    if double is not None:
        raise ConfigError(f"--out: two of the pictures would both become {double}; rename one, or run them apart")
    present = [target for target in targets if target.exists()]
    if present and not overwrite:
        raise ConfigError(f"{present[0]}: exists already; give --overwrite, or another --out")
    return jobs


def upscale_files(
    model: SuperResolver,
    jobs: Sequence[tuple[Path, Path]],
    *,
    scale: int | None,
    steps: int | None,
    seed: int,
    sampler: str | None,
    regress: bool,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Do what `plan_outputs` planned; returns name -> reason of the inputs that could not be read.

    Raises:
        CheckpointError: `scale` is given and the model was trained for another.
        ImageError: the only input cannot be read.
    """
    if scale is not None and scale != model.scale:
        raise CheckpointError(f"{model.name}: trained for x{model.scale}, x{scale} was asked for; give another checkpoint")
    failed: dict[str, str] = {}
    for path, target in jobs:
        try:
            image = open_picture(path)
        except ImageError as error:
            if len(jobs) == 1:
                raise
            failed[str(path)] = str(error)
            continue
        total = steps or len(model.modulation.grid)
        bar = progress(desc=path.name, total=1 if regress else total + 1, unit="step")
        if regress:
            result = model.regress(image)
        else:
            result = model.upscale(image, steps=steps, seed=seed, sampler=sampler, on_step=partial(_advance, bar))
        bar.close()
        assert isinstance(result, np.ndarray)
        save_picture(result, target)
        say(f"{path} {image.shape[1]} x {image.shape[0]} -> {target} {result.shape[1]} x {result.shape[0]}")
    return failed


def _advance(bar: Any, _: int) -> None:
    bar.update()


def open_picture(path: Path) -> np.ndarray:
    """uint8 [H, W], [H, W, 2], [H, W, 3] or [H, W, 4] as the file shows it, EXIF orientation applied.

    Raises:
        ImageError: there is no such file, it is no picture, it is damaged, or larger than 50 megapixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: {image.width} x {image.height} pixels, more than {MAX_PIXELS / 1e6:.0f} megapixels; crop it first"
                )
            turned = ImageOps.exif_transpose(image)
            return np.asarray(eight_bits(turned))
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not a picture in a known format") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: cannot be read ({error})") from error


def save_picture(image: np.ndarray, path: Path) -> None:
    """Write a picture whole or not at all; the suffix names the format.

    Raises:
        ImageError: the format cannot hold alpha, or the file cannot be written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: expected a file ending in {', '.join(FORMATS)}")
    if kind == "JPEG" and image.ndim == 3 and image.shape[2] in (2, 4):
        raise ImageError(f"{path}: JPEG cannot hold the picture's transparency; write a PNG")
    data = io.BytesIO()
    Image.fromarray(image).save(data, kind, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data.getvalue())
