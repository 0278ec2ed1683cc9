"""Compares the modulations: the same data, seeds and training steps for each, evaluated on held-out images.

    python benchmarks/modulations.py --shards STORE --out FOLDER [--rrdb FILE] [--preset tiny] [--steps 2000] [--seeds 0 1 2]

Trains `none`, and `official`, `paper`, `joint` with each mean of the masks, then samples crops of the held-out images with every
compatible sampler. Settings are trained in rounds (`--rounds`), so that a table for fewer steps is available early; the same command resumes. Prints PSNR
on Y with its standard error over seeds (or, with one seed, over images), the paired difference to `none`, and LPIPS and DISTS of the
crops where their weights are in the cache (`--perceptual`). One line per setting and sampler goes to FOLDER/results.jsonl.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from samdiff import open_store
from samdiff.model.config import load_config
from samdiff.model.evaluation.metrics import psnr_y
from samdiff.model.evaluation.perceptual import choose_metrics, metrics_for
from samdiff.model.inference.upscaler import SuperResolver, load_model
from samdiff.model.losses.perceptual import PerceptualMetric
from samdiff.model.names import PERCEPTUAL
from samdiff.model.training.run import train
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.pipeline.shards.reader import Store
from samdiff.pipeline.stream.dataset import held_out_from
from samdiff.runtime import pick_device, setup_process

SETTINGS = [("none", "mask"), *((m, e) for m in ("official", "paper", "joint") for e in ("mask", "image"))]
ANY = [("ddpm", None), ("ddpm", 25), ("ddim", 10)]
SAMPLERS: dict[str, list[tuple[str, int | None]]] = {"paper": [("paper", None), ("paper-clipped", None)]}
Pair = tuple[np.ndarray, np.ndarray]
Scores = dict[str, list[float]]


def held_out_crops(store: Store, images: int, size: int) -> tuple[list[Pair], list[int]]:
    """(LR, HR) centre crops of all held-out tiles, and the index of the image of each."""
    rows = range(held_out_from(store, images), len(store))
    first = (store.tile - size) // 2 // store.scale * store.scale
    hr = store.read_tiles("hr", rows)[:, first : first + size, first : first + size]
    low, small = first // store.scale, size // store.scale
    lr = store.read_tiles("lr", rows)[:, low : low + small, low : low + small]
    return list(zip(lr, hr, strict=True)), store.table("tiles/place")[list(rows), 0].tolist()


def metrics(images: list[np.ndarray], pairs: list[Pair], scale: int, more: Mapping[str, PerceptualMetric]) -> Scores:
    """`psnr` (on Y), and the perceptual metrics by name: one value per crop."""
    values = {"psnr": [psnr_y(image, hr, scale) for image, (_, hr) in zip(images, pairs, strict=True)]}
    return values | {
        name: [metric(image, hr) for image, (_, hr) in zip(images, pairs, strict=True)] for name, metric in more.items()
    }


def score(model: SuperResolver, pairs: list[Pair], more: Mapping[str, PerceptualMetric]) -> dict[str, Scores]:
    """Sampler and steps -> metrics of each crop; `rrdb` is the RRDB's image alone."""
    made = {"rrdb": [np.asarray(model.regress(lr)) for lr, _ in pairs]}
    for sampler, steps in SAMPLERS.get(model.modulation.name, ANY):
        made[f"{sampler} {steps or 'all'}"] = [
            np.asarray(model.upscale(lr, sampler=sampler, steps=steps, seed=number)) for number, (lr, _) in enumerate(pairs)
        ]
    return {name: metrics(images, pairs, scale=model.scale, more=more) for name, images in made.items()}


def table(lines: list[dict[str, object]], step: int) -> str:
    """The metrics at one number of training steps, as a table."""
    chosen = [line for line in lines if line["step"] == step]
    rows = [
        f"after {step} steps",
        f"{'setting':<16} {'sampler':<18} {'seeds':>5} {'PSNR Y':>8} {'s.e.':>6} {'- none':>7} {'s.e.':>6}"
        + "".join(f" {name:>9}" for name in PERCEPTUAL if any(name in line for line in chosen)),
    ]
    base = {(line["seed"], line["sampler"]): line["psnr"] for line in chosen if line["modulation"] == "none"}
    for key in dict.fromkeys((line["modulation"], line["e_mean"], line["sampler"]) for line in chosen):
        same = [line for line in chosen if (line["modulation"], line["e_mean"], line["sampler"]) == key]
        psnr, error = mean_and_error([line["psnr"] for line in same], same[0]["photographs"])
        reference = key[2] if (0, key[2]) in base or any(k[1] == key[2] for k in base) else "ddpm all"
        pairs = [
            np.subtract(line["psnr"], base[line["seed"], reference]).tolist()
            for line in same
            if (line["seed"], reference) in base
        ]
        gain = "{:+7.2f} {:6.2f}".format(*mean_and_error(pairs, same[0]["photographs"])) if pairs else " " * 14
        more = [[line[name] for line in same if name in line] for name in PERCEPTUAL if any(name in line for line in chosen)]
        name = key[0] if key[0] in ("none", "bicubic") else f"{key[0]}/{key[1]}"
        rows.append(
            f"{name:<16} {key[2]:<18} {len(same):>5} {psnr:8.2f} {error:6.2f} {gain}"
            + "".join(f" {np.mean(values) if values else np.nan:9.4f}" for values in more)
        )
    return "\n".join(rows)


def mean_and_error(values: list[list[float]], image_indices: list[int]) -> tuple[float, float]:
    """Mean, and its standard error over seeds; with one seed, over images (crops of one image are not independent)."""
    whole = np.array(values)
    if len(whole) > 1:
        groups = whole.mean(axis=1)
    else:
        groups = np.array([whole[0][np.array(image_indices) == index].mean() for index in sorted(set(image_indices))])
    return float(whole.mean()), float(groups.std(ddof=1) / len(groups) ** 0.5)


def main() -> None:
    """Train and evaluate all settings, for several rounds and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rrdb", type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=8, help="images held out, at most a tenth of the store")
    parser.add_argument("--crop", type=int, default=96, help="HR pixels")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--perceptual", default="auto", help="perceptual metrics: auto (those in the cache), off, or names")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    setup_process(arguments.threads)
    store, device = open_store(arguments.shards), pick_device(arguments.device)
    pairs, image_indices = held_out_crops(store, arguments.images, arguments.crop)
    print(f"{len(pairs)} crops of {len(set(image_indices))} held-out images, {arguments.crop} px, x{store.scale}")
    results = arguments.out / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    more = metrics_for(choose_metrics(arguments.perceptual, device, report=print), arguments.crop)
    bicubic = metrics([imresize(lr, store.scale) for lr, _ in pairs], pairs, scale=store.scale, more=more)
    for seed in arguments.seeds:
        for part in range(1, arguments.rounds + 1):
            step = arguments.steps * part // arguments.rounds
            for modulation, e_mean in SETTINGS:
                about = {"modulation": modulation, "e_mean": e_mean, "seed": seed, "step": step, "photographs": image_indices}
                if any(all(line[key] == value for key, value in about.items()) for line in lines):
                    continue
                sets = [f"diffusion.modulation={modulation}", f"diffusion.e_mean={e_mean}", f"train.seed={seed}"]
                sets += [f"train.steps={step}", f"validate.images={arguments.images}", "validate.every=0", *arguments.set]
                config = load_config(arguments.preset, sets=sets, scale=store.scale)
                folder = arguments.out / f"{modulation}-{e_mean}-{seed}"
                model = load_model(train([store], folder, config, device=device, rrdb=arguments.rrdb), device)
                new = [{**about, "sampler": sampler, **values} for sampler, values in score(model, pairs, more).items()]
                if modulation == "none":
                    new.append({**about, "modulation": "bicubic", "sampler": "-", **bicubic})
                with open(results, "a") as file:
                    file.writelines(json.dumps(line) + "\n" for line in new)
                lines += new
            print(table(lines, step), flush=True)


if __name__ == "__main__":
    main()
