"""A study of seconds: two settings, two seeds, three steps, on a store of `make_store`."""

from pathlib import Path

from .models import SMALL_RUN
from .stores import make_store


def write_study(folder: Path, *lines: str, more: str = "", steps: int = 3, store: bool = True) -> Path:
    """`folder/study.toml` and its store of 20 images; `lines` are keys at its top, `more` tables at its end."""
    if store:
        make_store(folder / "a.zarr", n=60, masks=(2, 1) * 10)
    common = "\n".join(line for line in SMALL_RUN if not line.startswith("train.checkpoint_every"))
    text = f"""
name = "micro"
store = "{folder / "a.zarr"}"
rrdb_steps = 2
steps = {steps}
seeds = [0, 1]
images = 2
tiles = 2
metrics = ["psnr_y", "ssim_y", "psnr_boundary", "psnr_inside"]
bootstrap = 200
{chr(10).join(lines)}

[primary]
steps = 2
metrics = ["psnr_y"]

[[sampling]]
sampler = "ddpm"
steps = [1, 2]

[common]
{common}
train.checkpoint_every = 1
train.num_workers = 0

[[setting]]
name = "none"

[[setting]]
name = "official"
overrides.diffusion.modulation = "official"
{more}
"""
    file = folder / "study.toml"
    file.write_text(text)
    return file
