"""The time of a training step by part, compared with a plain implementation.

    python benchmarks/train_step.py --threads 2 [--preset paper] [--batch 2] [--shards STORE]

Stage two, one device. Plain: Mish as x * tanh(softplus(x)), default memory format, x_0 and the posterior computed in the loss as well (no
further pass of the network), Adam tensor by tensor, no average of the weights. Ours: the loop's own pieces, average included. Both start from the
same weights and see the same batch; rounds alternate and medians are printed. Without `--shards` the batch is random and loading is not timed.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from samdiff import ShardDataset, open_store
from samdiff.model.config import RunConfig, load_config
from samdiff.model.diffusion.residual import base_image, to_model_range, to_residual
from samdiff.model.diffusion.schedule import gather
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.networks.rrdb import condition
from samdiff.model.training.optimizer import Guard, average, make_optimiser, update
from samdiff.model.training.tasks import DiffusionTask
from samdiff.pipeline.stream.dataset import e_sam
from samdiff.runtime import pick_device, setup_process

Batch = dict[str, Tensor]
CODES = 50  # masks of the synthetic image


class Parts:
    """Seconds by part, one list per part."""

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self.device, self.clock, self.seconds = device, clock, defaultdict[str, list[float]](list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure the time of the block."""
        start = self.clock()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name].append(self.clock() - start)


def random_data(patch: int, scale: int) -> Any:
    """The interface of `ShardDataset`, with random data."""

    def batch(first: int, size: int) -> dict[str, object]:
        generator = torch.Generator().manual_seed(first)
        hr = torch.randint(0, 256, (size, patch, patch, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, CODES, (size, patch, patch), dtype=torch.int32, generator=generator)
        made = {"hr": hr, "lr": hr[:, ::scale, ::scale].contiguous(), "labels": labels, "position": torch.arange(size)}
        return {name: value.numpy() for name, value in {**made, "image": torch.zeros(size, dtype=torch.int64)}.items()}

    codes = torch.linspace(-1, 1, CODES).numpy(), torch.zeros(1, dtype=torch.int64).numpy()
    return SimpleNamespace(patch=patch, batch=batch, codes=lambda mean: codes)


def ours(config: RunConfig, data: Any, device: torch.device, parts: Parts) -> Any:
    """A function that makes one training step of samdiff."""
    torch.manual_seed(0)
    task = DiffusionTask(data, build_unet(config), build_rrdb(config), config=config, device=device)
    optimiser, guard = make_optimiser(task.network, config.train), Guard.new(config.train.amp, device)
    ema = {name: value.detach().clone() for name, value in task.network.state_dict().items()}
    task.network.train()

    def step(batch: Batch) -> Tensor:
        with parts.part("RRDB"), task.autocast():
            given = task.condition(task.images(batch)[1])
        with parts.part("U-Net forward"), mock.patch.object(task, "condition", return_value=given):
            loss = task.loss(batch)
        with parts.part("backward"):
            loss.backward()
        with parts.part("optimiser"):
            update(optimiser, guard, loss.detach(), settings=config.train)
            optimiser.zero_grad(set_to_none=True)
            average(ema, task.network, 0.999)
        return loss.detach()

    return step, task.make_batch


def plain(config: RunConfig, data: Any, device: torch.device, parts: Parts) -> Any:
    """A function that makes one plain training step."""
    torch.manual_seed(0)
    unet, rrdb = build_unet(config).to(device).train(), build_rrdb(config).to(device).eval().requires_grad_(False)
    process, schedule = config.diffusion.build(), config.diffusion.build().schedule
    adam = torch.optim.Adam(unet.parameters(), lr=config.train.lr, betas=(0.9, 0.99), foreach=False, fused=False)
    table, offset = (torch.from_numpy(values).to(device) for values in data.codes("mask"))
    low = nullcontext() if config.train.amp == "off" else torch.autocast(device.type, torch.bfloat16)

    def step(batch: Batch) -> Tensor:
        with mock.patch.object(F, "mish", lambda x, inplace=False: x * torch.tanh(F.softplus(x))):
            hr, lr, t = to_model_range(batch["hr"]).contiguous(), to_model_range(batch["lr"]).contiguous(), batch["t"]
            with parts.part("RRDB"), torch.no_grad(), low:
                given = condition(rrdb.features(lr))
            with parts.part("U-Net forward"):
                e = e_sam(batch["labels"], batch["image"], table, offset)
                x_0 = to_residual(hr, base_image(lr, config.scale))
                x_t, target = process.q_sample(x_0, e, t, batch["noise"]), process.target(e, t, batch["noise"])
                with low:
                    predicted = unet(x_t, t, given)
                loss = F.l1_loss(predicted.float(), target)
                x_0_hat = process.x_0(x_t, predicted.float(), t).clamp(-1, 1)
                mean = (
                    gather(schedule.posterior_mean_x0, t, x_0_hat) * x_0_hat
                    + gather(schedule.posterior_mean_xt, t, x_0_hat) * x_t
                )
                mean + gather(schedule.posterior_variance, t, x_0_hat).sqrt() * batch["noise"]
            with parts.part("backward"):
                adam.zero_grad()
                loss.backward()
            with parts.part("optimiser"):
                torch.nn.utils.clip_grad_norm_(unet.parameters(), config.train.grad_clip, foreach=False)
                adam.step()
        return loss.detach()

    return step


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--amp", nargs="+", default=["off", "bf16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU seconds of the process: fair on a busy machine, with one thread"
    )
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    setup_process(arguments.threads)
    device, clock = pick_device(arguments.device), time.process_time if arguments.cpu_time else time.perf_counter
    reference = None
    for amp in arguments.amp:
        config = load_config(arguments.preset, sets=[*arguments.set, f"train.amp={amp}"])
        patch = config.train.patch
        data = ShardDataset(open_store(arguments.shards), patch) if arguments.shards else random_data(patch, config.scale)
        times = {name: Parts(device, clock) for name in ("plain", "ours")}
        step, make = ours(config, data, device, parts=times["ours"])
        steps = {"plain": plain(config, data, device, parts=times["plain"]), "ours": step}
        losses: dict[str, list[float]] = {"plain": [], "ours": []}
        for number in range(arguments.rounds + 1):  # the first is a warm-up
            with times["ours"].part("load"):
                made = make(number * arguments.batch, arguments.batch)
            for name, function in steps.items():
                batch = {key: value.to(device) for key, value in made.items()}
                with times[name].part("step"):
                    losses[name].append(float(function(batch)))
        medians = {
            name: {key: statistics.median(values[1:]) for key, values in parts.seconds.items()} for name, parts in times.items()
        }
        reference = reference or medians["plain"]["step"]
        print(f"{arguments.preset}, {amp}, batch {arguments.batch}, {patch} px, {torch.get_num_threads()} threads, {device}")
        print(f"{'ms':<16}{'plain':>8}{'ours':>8}{'ratio':>7}")
        for key in ("load", "RRDB", "U-Net forward", "backward", "optimiser", "step"):
            a, b = medians["plain"].get(key), medians["ours"].get(key)
            if key == "load" and not arguments.shards:
                continue
            print(
                f"{key:<16}{'' if a is None else f'{1e3 * a:.0f}':>8}{1e3 * (b or 0):>8.0f}"
                + ("" if a is None else f"{(b or 0) / a:>7.2f}")
            )
        speed = arguments.batch / medians["ours"]["step"]
        print(f"samples/s {speed:.2f}; against the plain fp32 step {medians['ours']['step'] / reference:.2f}")
        print(
            f"losses: plain {losses['plain'][0]:.5f} … {losses['plain'][-1]:.5f}, ours {losses['ours'][0]:.5f} … {losses['ours'][-1]:.5f}\n"
        )


if __name__ == "__main__":
    main()
