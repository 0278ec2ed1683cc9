"""The training step of stage two: precisions, compiled, a flow's, beside the plain step of `train_step.py`; the loader's share; a profile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import train_step
from torch.utils.flop_counter import FlopCounterMode

from samdiff import ShardDataset, ShardLoader, open_store
from samdiff.model.config import RunConfig, load_config

from .common import Bench, set_tf32

FLOW = ("diffusion.modulation=none", "diffusion.base=rrdb", "diffusion.process=flow", "diffusion.residual_scale=4")
Step = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def config_for(bench: Bench, *sets: str) -> RunConfig:
    """The preset with the part's batch and patch."""
    return load_config(bench.sizes.preset, sets=[f"train.batch={bench.sizes.batch}", f"train.patch={bench.sizes.patch}", *sets])


def no_waits() -> train_step.Parts:
    """Clocks that never wait for the device, so that a step runs as in training."""
    return train_step.Parts(torch.device("cpu"), time.perf_counter)


def make_step(bench: Bench, config: RunConfig, plain: bool, parts: train_step.Parts) -> tuple[Step, dict[str, torch.Tensor]]:
    """A training step and its batch on the device."""
    data = train_step.random_data(config.train.patch, config.scale)
    where = torch.device("cpu") if plain else bench.device  # the plain step takes its batch only from ours
    step, make = train_step.ours(config, data, where, parts=parts)
    if plain:
        step = train_step.plain(config, data, bench.device, parts=parts)
    return step, {name: value.to(bench.device) for name, value in make(0, config.train.batch).items()}


def step_flops(bench: Bench, *sets: str) -> float:
    """FLOPs of one sample's step, counted at a batch of one (a multiply-add is two)."""
    config = config_for(bench, *sets, "train.batch=1")
    step, batch = make_step(bench, config, plain=False, parts=no_waits())
    with FlopCounterMode(display=False) as counter:
        step(batch)
    return float(counter.get_total_flops())


def measure(bench: Bench, name: str, *sets: str, plain: bool = False, tf32: bool = False) -> float | None:
    """Record samples/s, memory and share of peak of one kind of step; then its parts, with waits between them."""
    set_tf32(tf32)
    config, parts = config_for(bench, *sets), no_waits()
    bench.start_memory()
    try:
        step, batch = make_step(bench, config, plain=plain, parts=parts)
        seconds = bench.median(lambda: step(batch), warm=3)
        peak = bench.peak_gb()
        parts.device = bench.device
        parts.seconds.clear()
        bench.seconds(lambda: step(batch), rounds=3)
    except torch.cuda.OutOfMemoryError as error:
        bench.record(name, {"error": str(error).split("\n")[0][:200]})
        return None
    finally:
        set_tf32(False)
    rate, flops = config.train.batch / seconds, step_flops(bench, *sets)
    medians = {part: round(1e3 * sorted(values)[len(values) // 2], 2) for part, values in parts.seconds.items()}
    bench.record(
        name,
        {
            "samples/s": round(rate, 2),
            "ms": round(1e3 * seconds, 2),
            "peak GB": peak,
            "TFLOP/s": float(f"{rate * flops / 1e12:.3g}"),
            "share of bf16 peak": bench.share_of_peak(rate * flops),
            "ms by part, with waits": medians,
        },
    )
    return rate


def steps(bench: Bench) -> None:
    """Plain fp32 and bf16 steps, and ours in fp32, TF32 and bf16."""
    sizes = bench.sizes
    bench.record("setting", f"preset {sizes.preset}, batch {sizes.batch}, {sizes.patch} px, stage two")
    measure(bench, "ours, bf16", "train.amp=bf16")
    plain = measure(bench, "plain, fp32", "train.amp=off", plain=True)
    best = measure(bench, "ours, fp32", "train.amp=off")
    measure(bench, "ours, TF32", "train.amp=off", tf32=True)
    measure(bench, "plain, bf16", "train.amp=bf16", plain=True)
    if plain and best:
        bf16 = bench.record.values["ours, bf16"]
        assert isinstance(bf16, dict)
        bench.record("ours bf16 against plain fp32", round(bf16["samples/s"] / plain, 2) if "samples/s" in bf16 else None)


def flow(bench: Bench) -> None:
    """A flow from the RRDB's image, whose RRDB runs in float32."""
    measure(bench, "flow, bf16", "train.amp=bf16", *FLOW)
    measure(bench, "flow, bf16, TF32 elsewhere", "train.amp=bf16", *FLOW, tf32=True)


def compiled(bench: Bench) -> None:
    """The network compiled, as `train.compile` does it."""
    config = config_for(bench, "train.amp=bf16")
    data = train_step.random_data(config.train.patch, config.scale)
    from samdiff.model.networks.build import build_rrdb, build_unet
    from samdiff.model.training.optimizer import Guard, average, make_optimiser, update
    from samdiff.model.training.tasks import DiffusionTask

    torch.manual_seed(0)
    task = DiffusionTask(data, build_unet(config), build_rrdb(config), config=config, device=bench.device)
    optimiser, guard = make_optimiser(task.network, config.train), Guard.new(config.train.amp, bench.device)
    ema = {name: value.detach().clone() for name, value in task.network.state_dict().items()}
    task.forward = torch.compile(task.network)
    task.network.train()
    batch = {name: value.to(bench.device) for name, value in task.make_batch(0, config.train.batch).items()}

    def step() -> None:
        loss = task.loss(batch)
        loss.backward()
        update(optimiser, guard, loss.detach(), settings=config.train)
        optimiser.zero_grad(set_to_none=True)
        average(ema, task.network, 0.999)

    bench.start_memory()
    start = time.perf_counter()
    step()
    bench.synchronize()
    bench.record("seconds to compile", round(time.perf_counter() - start, 1))
    seconds = bench.median(step, warm=3)
    rate, flops = config.train.batch / seconds, step_flops(bench, "train.amp=bf16")
    values = {"samples/s": round(rate, 2), "ms": round(1e3 * seconds, 2), "peak GB": bench.peak_gb()}
    bench.record("ours, bf16, compiled", {**values, "share of bf16 peak": bench.share_of_peak(rate * flops)})


def make_store(bench: Bench) -> Path:
    """A store of the part's images, made by `samdiff prepare` with few points."""
    path = bench.work / "loader.zarr"
    if not path.exists():
        few = ["--points-per-side", "2", "--sam", "mobile_sam", "--weights-source", "cache", "--device", str(bench.device)]
        many = ["--tile", "192", "--stride", "48"]  # overlapping tiles, so that there are more of them than a batch holds
        command = [sys.executable, "-m", "samdiff.cli", "prepare", str(bench.images), "--out", str(path), *few, *many]
        subprocess.run(command, check=True)
    return path


def loader(bench: Bench) -> None:
    """How long the step waits for its batch, and how fast the loader's threads are alone."""
    config = config_for(bench, "train.amp=bf16")
    data = ShardDataset(open_store(make_store(bench)), min(config.train.patch, 160))
    config = config_for(bench, "train.amp=bf16", f"train.batch={min(config.train.batch, len(data))}")
    step, make = train_step.ours(config, data, bench.device, parts=no_waits())
    waited, rounds = [], bench.sizes.rounds
    batches = iter(ShardLoader(make, config.train.batch, workers=config.train.num_workers, device=bench.device))
    for _ in range(3):
        step(next(batches))
    bench.synchronize()
    begin = time.perf_counter()
    for _ in range(rounds):
        start = time.perf_counter()
        batch = next(batches)
        waited.append(time.perf_counter() - start)
        step(batch)
        bench.synchronize()  # otherwise the host runs ahead, and its wait says nothing
    whole = time.perf_counter() - begin
    batches.close()  # type: ignore[attr-defined]
    share, of = {"share waiting": round(sum(waited) / whole, 4), "batch": config.train.batch}, f"{len(data)} tiles"
    bench.record("step with loader", {**share, "samples/s": round(rounds * config.train.batch / whole, 2), "store": of})
    alone = ShardLoader(make, config.train.batch, steps=3 * rounds, workers=config.train.num_workers, device=bench.device)
    start = time.perf_counter()
    for _ in alone:
        pass
    rate = 3 * rounds * config.train.batch / (time.perf_counter() - start)
    bench.record("loader alone", {"samples/s": round(rate, 1), "threads": config.train.num_workers})


def profile(bench: Bench) -> None:
    """The ten kernels that take most of a bf16 step."""
    config = config_for(bench, "train.amp=bf16")
    step, batch = make_step(bench, config, plain=False, parts=no_waits())
    bench.record("training step, bf16", top_kernels(bench, lambda: step(batch)))


def top_kernels(bench: Bench, work: Callable[[], object]) -> list[dict[str, object]]:
    """Name, share of the device's time and calls of the ten most expensive kernels (operators on a CPU) of three calls."""
    cuda = bench.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CUDA] if cuda else []
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, *kinds]) as profiler:
        bench.seconds(work, rounds=3, warm=0)
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    averages = [event for event in profiler.key_averages() if not cuda or event.device_type == torch.autograd.DeviceType.CUDA]
    events = sorted(((getattr(event, name), event) for event in averages), key=lambda pair: pair[0], reverse=True)
    total = sum(spent for spent, _ in events) or 1
    return [
        {"kernel": event.key[:120], "share": round(spent / total, 4), "ms": round(spent / 3e3, 3), "calls": event.count // 3}
        for spent, event in events[:10]
    ]
