"""The machine itself: matrix products, memory bandwidth, copies from pinned and ordinary memory."""

from __future__ import annotations

import torch

from .common import Bench, set_tf32


def machine(bench: Bench) -> None:
    """FLOP/s of large matrix products (the practical peak of this card) and bytes/s of a copy inside the device."""
    n, record = bench.sizes.matrix, bench.record
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp32", torch.float32, False),
        ("TF32", torch.float32, True),
    ):
        set_tf32(tf32)
        a, b = (torch.randn(n, n, device=bench.device, dtype=dtype) for _ in range(2))
        record(f"matrix product {name}, TFLOP/s", round(2 * n**3 / bench.median(lambda a=a, b=b: a @ b) / 1e12, 2))
    set_tf32(False)
    source = torch.empty(bench.sizes.copy_bytes, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.median(lambda: target.copy_(source))
    record("copy inside the device, GB/s read and written", round(2 * bench.sizes.copy_bytes / seconds / 1e9, 1))


def copies(bench: Bench) -> None:
    """Batches of preset `paper` and masks' runs, to the device and back, pinned and not; pinning itself counted and not."""
    record, sizes = bench.record, bench.sizes
    pin = torch.Tensor.pin_memory
    if bench.device.type != "cuda":
        record("note", "a CPU has no pinned memory: copies in pageable memory")
        pin = torch.Tensor.clone
    shapes = {
        "batch (HR, uint8)": (sizes.batch, sizes.patch, sizes.patch, 3),
        "batch (noise, float32 as bytes)": (sizes.batch, sizes.patch, sizes.patch, 12),
        "large": (sizes.copy_bytes,),
    }
    for name, shape in shapes.items():
        host = torch.zeros(shape, dtype=torch.uint8)
        pinned, on_device = pin(host), torch.zeros(shape, dtype=torch.uint8, device=bench.device)
        ways = {
            "to the device, ordinary": lambda host=host, on_device=on_device: on_device.copy_(host),
            "to the device, pinned before": lambda p=pinned, on_device=on_device: on_device.copy_(p, non_blocking=True),
            "to the device, pinned in the call": lambda host=host, on_device=on_device: on_device.copy_(
                pin(host), non_blocking=True
            ),
            "to the host, ordinary": lambda host=host, on_device=on_device: host.copy_(on_device),
            "to the host, pinned": lambda p=pinned, on_device=on_device: p.copy_(on_device, non_blocking=True),
        }
        rates = {way: round(host.numel() / bench.median(work, 20) / 1e9, 2) for way, work in ways.items()}
        record(f"{name}, {host.numel() / 1e6:.1f} MB, GB/s", rates)
