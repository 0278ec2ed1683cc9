"""Sampling: megapixels of output per second, by number of steps and precision."""

from __future__ import annotations

import numpy as np
import torch

from samdiff import load_model
from samdiff.model.checkpoints.format import Checkpoint
from samdiff.model.config import load_config
from samdiff.model.inference.upscaler import SuperResolver
from samdiff.model.networks.build import build_rrdb, build_unet

from .common import Bench


def random_model(preset: str, device: torch.device) -> SuperResolver:
    """An untrained model of a preset."""
    torch.manual_seed(0)
    config = load_config(preset)
    parts = {"rrdb": build_rrdb(config), "unet": build_unet(config)}
    tensors = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}
    return SuperResolver(Checkpoint("diffusion", tensors, config.as_dict()), "random", device)


def sampling(bench: Bench) -> None:
    """Preset `paper` with random weights (time does not depend on them), 1, 5 and 100 steps; then the model that comes with samdiff."""
    side = bench.sizes.lr_side
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    model = random_model(bench.sizes.preset, bench.device)
    bench.record("setting", f"preset {bench.sizes.preset}, {side} x {side} -> {4 * side} x {4 * side}")
    for amp in ("bf16", "off"):
        for steps in (5, 1, bench.sizes.most_steps):
            bench.start_memory()
            few = steps > 5
            work = lambda s=steps, a=amp: model.upscale(image, steps=s, amp=a)  # noqa: E731
            seconds = bench.median(work, 1 if few else 3, warm=0 if few else 1)
            megapixels = 16 * side * side / 1e6
            values = {"megapixels/s": round(megapixels / seconds, 3), "s": round(seconds, 3), "peak GB": bench.peak_gb()}
            bench.record(f"{steps} steps, {'fp32' if amp == 'off' else amp}", values)
    shipped = load_model("shipped", bench.device)
    for amp in ("off", "bf16"):
        seconds = bench.median(lambda a=amp: shipped.upscale(image, amp=a), 3)
        bench.record(
            f"the model that comes with samdiff, as recommended, {'fp32' if amp == 'off' else amp}",
            {"megapixels/s": round(16 * side * side / 1e6 / seconds, 3), "s": round(seconds, 3)},
        )
