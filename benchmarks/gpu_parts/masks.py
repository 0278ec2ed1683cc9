"""Masks: images per second and stages of samdiff's generator, exact, fast and compiled, beside segment-anything's own.

MobileSAM has its real weights. The large segmenters have random encoders of their published sizes, for time does not depend on the weights;
after the encoder has run, MobileSAM's embedding takes the place of its result. MobileSAM was distilled to give vit_h's embeddings, and its
decoder is vit_h's, so about as many candidates pass as with real weights. MobileSAM's encoder is included in their time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.sam.load import Segmenter, build_segmenter, load_segmenter

from .common import Bench
from .training import top_kernels


def images_of(bench: Bench) -> list[np.ndarray]:
    """As many images as the part has, of 2K: those of the folder, enlarged, each mirrored or shifted a little differently."""
    files = sorted(path for path in bench.images.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not files:
        raise FileNotFoundError(f"{bench.images}: expected images (.png or .jpg); give a folder with --images")
    made = []
    for number in range(bench.sizes.images):
        image = cv2.imread(str(files[number % len(files)]))[..., ::-1]
        factor = bench.sizes.long_side / max(image.shape[:2])
        large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        turned = large[:, ::-1] if number // len(files) % 2 else large
        made.append(np.ascontiguousarray(np.roll(turned, 16 * number, axis=1)))
    return made


class LargeEncoder(nn.Module):
    """A large encoder's time, and MobileSAM's embeddings."""

    def __init__(self, large: nn.Module, real: nn.Module) -> None:
        super().__init__()
        self.large, self.real, self.img_size = large, real, real.img_size

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, 1024, 1024] -> [B, 256, 64, 64]."""
        self.large(pixels)
        return self.real(pixels)


def segmenter(bench: Bench, name: str) -> Segmenter:
    """MobileSAM with its weights; or with the encoder of a large segmenter."""
    real = load_segmenter("mobile_sam", bench.device, source="cache")
    if name == "mobile_sam":
        return real
    torch.manual_seed(0)
    large: Any = build_segmenter("vit_b" if bench.sizes.cut_encoder else name).image_encoder
    if bench.sizes.cut_encoder:
        large.blocks = large.blocks[:1]
    model = Sam(
        LargeEncoder(large.to(bench.device), real.model.image_encoder),
        real.model.prompt_encoder,
        real.model.mask_decoder,
        [123.675, 116.28, 103.53],
        [58.395, 57.12, 57.375],
    )
    return replace(real, model=model.to(bench.device).eval().requires_grad_(False))


@contextmanager
def timed(bench: Bench, owner: Any, name: str, stage: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the time spent in `owner.name`, the device's work included, to `seconds[stage]`."""
    inner = getattr(owner, name)

    def call(*args: Any, **more: Any) -> Any:
        bench.synchronize()
        start = time.perf_counter()
        try:
            return inner(*args, **more)
        finally:
            bench.synchronize()
            seconds[stage] += time.perf_counter() - start

    setattr(owner, name, call)
    try:
        yield
    finally:
        delattr(owner, name)


def rate(bench: Bench, name: str, work: Callable[[], int], count: int) -> float:
    """Record images/s and peak memory of one run over `count` images, after a warm-up."""
    bench.start_memory()
    bench.synchronize()
    start = time.perf_counter()
    masks = work()
    bench.synchronize()
    seconds = time.perf_counter() - start
    value = round(count / seconds, 3)
    bench.record(
        name,
        {
            "images/s": value,
            "s per image": round(seconds / count, 4),
            "masks per image": round(masks / count, 1),
            "peak GB": bench.peak_gb(),
        },
    )
    return value


def stages(bench: Bench, generator: MaskGenerator, images: list[np.ndarray]) -> dict[str, float]:
    """ms per image of resizing on the host, encoder, decoder with thresholds, and everything after it; with waits between them."""
    seconds: dict[str, float] = defaultdict(float)
    engine = generator.engine
    with (
        timed(bench, engine, "_to_model", "resize and copy", seconds),
        timed(bench, engine, "encode", "encoder", seconds),
        timed(bench, engine, "candidates", "decoder", seconds),
    ):
        start = time.perf_counter()
        for _ in generator.generate_batch(images):
            pass
        bench.synchronize()
        whole = time.perf_counter() - start
    seconds["encoder"] -= seconds["resize and copy"]
    seconds["after the decoder"] = whole - sum(seconds.values())
    return {stage: round(1e3 * value / len(images), 2) for stage, value in seconds.items()}


def measure(bench: Bench, ours: Segmenter, images: list[np.ndarray]) -> None:
    """segment-anything's generator on two of the images; fast, exact, and fast with a bf16 encoder on all."""
    points, record, count = bench.sizes.points, bench.record, len(images)
    rates: dict[str, float] = {}
    stock = SamAutomaticMaskGenerator(ours.model, points_per_side=points, output_mode="coco_rle")
    few = images[:2]
    if bench.device.type == "cuda":
        stock.generate(few[0])  # warm-up
    rates["stock"] = rate(
        bench, "segment-anything's generator", lambda: sum(len(stock.generate(image)) for image in few), len(few)
    )
    for name in ("fast", "exact", "fast, encoder in bf16 (not an option of samdiff yet)"):
        generator = MaskGenerator(ours, mode=name.split(",")[0], points_per_side=points)
        if "encoder in bf16" in name:
            generator.engine.encoder = in_bf16(generator.engine.encoder, bench.device)
        list(generator.generate_batch(images[: generator.engine.encoder_batch]))  # warm-up
        rates[name] = rate(bench, name, lambda g=generator: sum(len(t.counts) for t in g.generate_batch(images)), count)
        record("times the stock generator", {mode: round(value / rates["stock"], 2) for mode, value in rates.items()})
        record(f"{name}: ms per image by stage, with waits", stages(bench, generator, images[:8]))
    generator = MaskGenerator(ours, mode="fast", points_per_side=points)
    generator.engine.encoder_batch = 1  # otherwise it is filled up to a whole batch
    pixels = torch.zeros(1, 3, 1024, 1024, device=bench.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        generator.engine.encoder(pixels)
    encoder = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        generator.masks(images[0])
    total = counter.get_total_flops()
    record("GFLOP per image", {"encoder": round(encoder / 1e9, 1), "all": round(total / 1e9, 1)})
    record("fast: share of bf16 peak", bench.share_of_peak(rates["fast"] * total))


def in_bf16(encoder: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """The encoder under autocast: what a bf16 encoder would bring, as a measurement only."""

    def call(pixels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return encoder(pixels).float()

    return call


def mobile_sam(bench: Bench) -> None:
    """MobileSAM, real weights."""
    measure(bench, segmenter(bench, "mobile_sam"), images_of(bench))


def vit_b(bench: Bench) -> None:
    """vit_b's size."""
    measure(bench, segmenter(bench, "vit_b"), images_of(bench)[: max(2, bench.sizes.images // 2)])


def vit_h(bench: Bench) -> None:
    """vit_h's size."""
    measure(bench, segmenter(bench, "vit_h"), images_of(bench)[: max(2, bench.sizes.images // 2)])


def compiled(bench: Bench) -> None:
    """Mode fast with compile, MobileSAM; the time to compile apart."""
    images = images_of(bench)
    generator = MaskGenerator(segmenter(bench, "mobile_sam"), mode="fast", compile=True, points_per_side=bench.sizes.points)
    start = time.perf_counter()
    list(generator.generate_batch(images[: generator.engine.encoder_batch]))
    bench.record("seconds to compile", round(time.perf_counter() - start, 1))
    rate(bench, "fast, compiled", lambda: sum(len(t.counts) for t in generator.generate_batch(images)), len(images))


def host_work(bench: Bench) -> None:
    """What a CPU core must do for each image before the device can begin: decoding and resizing, images/s of one core."""
    image = images_of(bench)[0]
    engine = MaskGenerator(segmenter(bench, "mobile_sam"), points_per_side=2).engine
    files = {kind: cv2.imencode(f".{kind}", image[..., ::-1])[1] for kind in ("jpg", "png")}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    works: dict[str, Callable[[], object]] = {f"decode {k}": lambda f=f: cv2.imdecode(f, 1) for k, f in files.items()}
    works["resize, normalise, copy to the device"] = lambda: engine.model.pixels(engine.model.resized(image))
    bench.record("images/s of one thread", {name: round(1 / bench.median(work), 1) for name, work in works.items()})
    cv2.setNumThreads(threads)


def profile(bench: Bench) -> None:
    """The ten kernels that take most of mode fast."""
    generator = MaskGenerator(segmenter(bench, "mobile_sam"), mode="fast", points_per_side=bench.sizes.points)
    images = images_of(bench)[:8]
    bench.record("MobileSAM, fast", top_kernels(bench, lambda: list(generator.generate_batch(images))))


def folder_of_images(given: Path | None, work: Path) -> Path:
    """The folder that was given, or one with two of scikit-image's images."""
    if given is not None:
        return given
    from skimage import data

    folder = work / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("astronaut", "coffee"):
        cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(getattr(data, name)()[..., ::-1]))
    return folder
