"""Time and memory of inference.

    python benchmarks/infer.py speed [--side 128] [--steps 5]          against a plain sampler, one network, equal steps
    python benchmarks/infer.py memory [--size 2000x1500] [--steps 5]   peak memory of one image

Weights are random: neither time nor memory depends on them. `--preset tiny|small|paper`, `--set model.width=8` as for train.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from samdiff.model.checkpoints.format import Checkpoint
from samdiff.model.config import RunConfig, load_config
from samdiff.model.diffusion.residual import from_residual, to_model_range, to_pixels, upsample
from samdiff.model.inference.upscaler import SuperResolver
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.networks.rrdb import condition


def random_model(config: RunConfig) -> SuperResolver:
    """An untrained model of a configuration."""
    torch.manual_seed(0)
    parts = {"rrdb": build_rrdb(config), "unet": build_unet(config)}
    tensors = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}
    return SuperResolver(Checkpoint("diffusion", tensors, config.as_dict()), "random", torch.device("cpu"))


@torch.no_grad()
def plain(model: SuperResolver, image: np.ndarray, steps: int) -> np.ndarray:
    """DDPM as a plain loop: fp32, PyTorch's default memory format, one pass of the RRDB, as in the official code."""
    schedule = model.modulation.schedule
    lr = to_model_range(torch.from_numpy(image)[None]).contiguous()
    given, lr_up = condition(model.rrdb.features(lr)), upsample(lr, model.scale)
    x: Tensor = torch.randn(lr_up.shape)
    times = torch.linspace(len(schedule) - 1, 0, steps).round().long().tolist()
    for t, s in zip(times, [*times[1:], -1], strict=True):
        a_t, a_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
        x_0 = ((x - (1 - a_t) ** 0.5 * model.unet(x, torch.tensor([t]), given)) / a_t**0.5).clamp(-1, 1)
        a = a_t / a_s
        mean = a_s**0.5 * (1 - a) / (1 - a_t) * x_0 + a**0.5 * (1 - a_s) / (1 - a_t) * x
        x = mean + ((1 - a) * (1 - a_s) / (1 - a_t)) ** 0.5 * torch.randn_like(x)
    return to_pixels(from_residual(x, lr_up))[0].numpy()


def speed(config: RunConfig, side: int, steps: int, runs: int = 3) -> None:
    """Medians of several alternating runs."""
    fast, slow = random_model(config), random_model(config)
    slow.rrdb, slow.unet = (net.to(memory_format=torch.contiguous_format) for net in (slow.rrdb, slow.unet))
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ways = {
        "plain": lambda: plain(slow, image, steps),
        "fp32": lambda: fast.upscale(image, steps=steps, tile=0),
        "bf16": lambda: fast.upscale(image, steps=steps, tile=0, amp="bf16"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:6s}{value:8.2f} s   {medians['plain'] / value:.2f} times the plain sampler's speed")


def memory(config: RunConfig, size: str, steps: int) -> None:
    """One image; peak resident memory of the process."""
    width, height = map(int, size.split("x"))
    model = random_model(config)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before, start = _peak(), time.perf_counter()
    result = model.upscale(image, steps=steps)
    print(
        f"{width} x {height} -> {result.shape[1]} x {result.shape[0]}, {steps} steps: {time.perf_counter() - start:.0f} s, ",
        end="",
    )
    print(f"peak {_peak():.2f} GB (before the image {before:.2f} GB)")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--preset", default="small")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--size", default="2000x1500")
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    config = load_config(given.preset, sets=given.sets)
    print(f"{given.preset} {' '.join(given.sets)} threads {torch.get_num_threads()}")
    if given.what == "speed":
        speed(config, given.side, given.steps)
    else:
        memory(config, given.size, given.steps)


if __name__ == "__main__":
    main()
