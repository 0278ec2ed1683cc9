"""The automatic mask generator of segment-anything or SAM 2 against ours: same weights, image, points and threads, in turn in one process.

    python benchmarks/masks.py PHOTO --threads 2 --points-per-side 32 --stock-runs 2 --runs 3
    python benchmarks/masks.py PHOTO --threads 1 --points-per-side 16 --stock-runs 1 --runs 1 --clock cpu --sam sam2 --box-nms-thresh 1

`--sam sam2` is SAM 2.1's tiny architecture with random weights that make regions, not noise, and thresholds that half of the masks
pass. Their boxes cover most of the image: with `--box-nms-thresh 1` every stable mask is kept, more than of an image with real weights;
with 0.7 few are.

Prints medians per stage, the ratio, peak memory, and how well the masks agree. The stock generator runs once more with the C
library's own allocator settings, as its users have it: `setup_process` (what the command line calls) speeds up both sides.
"""

import argparse
import ctypes
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator

from samdiff.pipeline.encode.structure import encode_structure
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.sam.load import build_segmenter, load_segmenter
from samdiff.runtime import setup_process

STAGES = ("encoder", "decoder", "post-processing", "total")


@contextmanager
def timed(owner: Any, name: str, stage: str, seconds: dict[str, float], now: Callable[[], float]) -> Iterator[None]:
    """Add the time spent in `owner.name` to `seconds[stage]`."""
    inner = getattr(owner, name)

    def call(*args: Any, **more: Any) -> Any:
        start = now()
        try:
            return inner(*args, **more)
        finally:
            seconds[stage] += now() - start

    setattr(owner, name, call)
    try:
        yield
    finally:
        delattr(owner, name)


def peak_memory(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the peak resident memory of the process during the call in GB (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    result = work()
    lines = Path("/proc/self/status").read_text().splitlines()
    return result, next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


Run = tuple[list[dict[str, object]], dict[str, float]]


def random_sam2(image: np.ndarray, *, spread: float = 8.0) -> torch.nn.Module:
    """SAM 2.1's tiny architecture with random weights, made so that its masks are regions of `image`.

    Plain random weights give noise. Without the fine features of the encoder, with four equal pixels per upsampled one, and without
    the part of the logits that all positions share, each mask has an outline; `spread` is the standard deviation of the logits.
    """
    torch.manual_seed(0)
    model = build_segmenter("sam2.1_t")
    decoder = model.sam_mask_decoder
    decoder.iou_prediction_head.layers[-1].weight.mul_(30)
    for fine in (decoder.conv_s0, decoder.conv_s1):
        fine.weight.zero_()
        fine.bias.zero_()
    for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        layer.weight.copy_(2 * layer.weight.mean(dim=(2, 3), keepdim=True).expand_as(layer.weight))
    logits, upscaled = probe(model, image)
    common = upscaled.flatten(2).double().mean((0, 2))
    other = torch.eye(len(common), dtype=torch.double) - torch.outer(common, common) / common.square().sum()
    for head in decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.copy_(other @ head.layers[-1].weight.double())
        head.layers[-1].bias.copy_(other @ head.layers[-1].bias.double())
    logits, _ = probe(model, image)
    for head in decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.mul_(spread / logits.std())
        head.layers[-1].bias.mul_(spread / logits.std())
    return model


def probe(model: torch.nn.Module, image: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Logits [27, 256, 256] of nine points, and the upscaled features [9, 32, 256, 256] that they are products of."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    features: list[torch.Tensor] = []
    hook = model.sam_mask_decoder.output_upscaling[4].register_forward_hook(lambda *call: features.append(call[2]))
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(image)
    where = np.stack(np.meshgrid([0.2, 0.5, 0.8], [0.2, 0.5, 0.8]), axis=-1).reshape(9, 1, 2)
    points = (where * image.shape[1::-1]).astype(np.float32)
    logits = predictor.predict(points, np.ones((9, 1), np.int32), multimask_output=True, return_logits=True)[2]
    hook.remove()
    return logits.reshape(-1, *logits.shape[-2:]), torch.cat(features)


def median_predicted_iou(model: torch.nn.Module, image: np.ndarray) -> float:
    """Of all masks of 4 x 4 points."""
    everything = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    return float(np.median(MaskGenerator(model, points_per_side=4, **everything).masks(image).predicted_iou))


def run_stock(model: torch.nn.Module, image: np.ndarray, settings: dict[str, Any], now: Callable[[], float]) -> Run:
    """Records and seconds per stage of the stock generator."""
    if hasattr(model, "sam_mask_decoder"):
        from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

        generator, decoder = SAM2AutomaticMaskGenerator(model, output_mode="coco_rle", **settings), model.sam_mask_decoder
    else:
        generator, decoder = SamAutomaticMaskGenerator(model, output_mode="coco_rle", **settings), model.mask_decoder
    return staged(lambda: generator.generate(image), (generator.predictor, "set_image"), (decoder, "forward"), now)


def run_ours(generator: MaskGenerator, image: np.ndarray, now: Callable[[], float]) -> Run:
    """Records and seconds per stage of our generator."""
    engine = generator.engine
    return staged(lambda: generator.generate(image), (engine, "encode"), (engine, "candidates"), now)


def staged(work: Callable[[], Any], encoder: tuple[Any, str], decoder: tuple[Any, str], now: Callable[[], float]) -> Run:
    """The result and seconds per stage; time outside of encoder and decoder counts as post-processing."""
    seconds: dict[str, float] = defaultdict(float)
    with timed(*encoder, "encoder", seconds, now), timed(*decoder, "decoder", seconds, now):
        start = now()
        result = work()
        seconds["total"] = now() - start
    seconds["post-processing"] = seconds["total"] - seconds["encoder"] - seconds["decoder"]
    return result, seconds


def agreement(ours: list[dict[str, object]], theirs: list[dict[str, object]]) -> str:
    """Number of matching masks, and differences of E_SAM."""
    overlap = coco.iou([r["segmentation"] for r in theirs], [r["segmentation"] for r in ours], [0] * len(ours))
    best = np.asarray(overlap).reshape(len(theirs), len(ours)).max(1, initial=0)
    height, width = theirs[0]["segmentation"]["size"]
    a, b = (encode_structure([r["segmentation"] for r in side], height, width).e_sam() for side in (theirs, ours))
    difference = np.abs(a - b).mean() / a.std()
    return (
        f"{len(ours)} masks for {len(theirs)}; {(best > 0.9).sum()} matched at IoU > .9, {(best >= 0.999).sum()} at IoU >= .999; "
        f"mean |E_SAM difference| {difference:.2%} of its standard deviation"
    )


def report(name: str, runs: list[dict[str, float]], peak: float) -> dict[str, float]:
    """Print the medians of one generator."""
    medians = {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
    columns = "".join(f"{medians[stage]:>17.2f}" for stage in STAGES)
    print(f"{name:<34}{columns}{peak:>10.2f}{len(runs):>6}", flush=True)
    return medians


def main() -> None:
    """Run all generators alternately."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--stock-runs", type=int, default=2, help="runs of segment-anything; 0: compare our modes with exact")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sam", default="mobile_sam", help="a segmenter's name, or sam2: random weights")
    parser.add_argument("--box-nms-thresh", type=float, default=0.7)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: CPU time, for a busy machine; with one thread"
    )
    options = parser.parse_args()
    now = time.perf_counter if options.clock == "wall" else time.process_time
    setup_process(options.threads, keep_memory=False)
    image = np.ascontiguousarray(cv2.imread(str(options.photo))[..., ::-1])
    points = options.points_per_side
    settings: dict[str, Any] = {"points_per_side": points, "box_nms_thresh": options.box_nms_thresh}
    if options.sam == "sam2":
        model = random_sam2(image)
        settings |= {"stability_score_thresh": 0.8, "pred_iou_thresh": median_predicted_iou(model, image)}
    else:
        model = load_segmenter(options.sam, torch.device("cpu")).model
    modes = {mode: MaskGenerator(model, mode=mode, **settings) for mode in ("exact", "fast")}
    print(
        f"{image.shape[1]} x {image.shape[0]}, {points} x {points} points, {options.threads} threads, {options.sam}; seconds, GB"
    )
    print(f"{'':<34}" + "".join(f"{stage:>17}" for stage in STAGES) + f"{'peak GB':>10}{'runs':>6}")
    theirs, plain, stock = [], {}, {}
    if options.stock_runs:
        (_, seconds), peak = peak_memory(lambda: run_stock(model, image, settings, now))
        plain = report("stock, default allocator", [seconds], peak)
    setup_process(options.threads)
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    peaks: dict[str, float] = defaultdict(float)
    results = {}
    for turn in range(max(options.runs, options.stock_runs)):
        sides: dict[str, Callable[[], Any]] = {}
        if turn < options.stock_runs:
            sides["stock"] = lambda: run_stock(model, image, settings, now)
        if turn < options.runs:
            sides |= {mode: (lambda mode=mode: run_ours(modes[mode], image, now)) for mode in modes}
        for name, work in sides.items():
            (results[name], seconds), peak = peak_memory(work)
            runs[name].append(seconds)
            peaks[name] = max(peaks[name], peak)
            print(f"  turn {turn}: {name} {seconds['total']:.1f} s", flush=True)
    if options.stock_runs:
        theirs, stock = results["stock"], report("stock", runs["stock"], peaks["stock"])
    for mode in modes:
        ours = report(mode, runs[mode], peaks[mode])
        if stock:
            ratios = "".join(f"{stock[stage] / ours[stage]:>16.1f}x" for stage in STAGES)
            print(f"{'  faster than stock':<34}{ratios}")
            ratios = "".join(f"{plain[stage] / ours[stage]:>16.1f}x" for stage in STAGES)
            print(f"{'  than stock, default allocator':<34}{ratios}")
        print(f"  {agreement(results[mode], theirs or results['exact'])}")


if __name__ == "__main__":
    main()
