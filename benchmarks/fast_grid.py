"""Mode fast: how many points are prompted against how many of the exact masks are found, for several shares and for coarser grids.

    python benchmarks/fast_grid.py IMAGE... --threads 1 --plot curve.png

Each image is decoded once, with every point, in mode exact. For each share, the candidates of the chosen points go through the
selection of masks again, so a share costs nothing. What mode fast changes besides (padding is merged; bfloat16 where the CPU has it)
is not in the curve: `benchmarks/masks.py` compares the modes as they are. `--plot` needs matplotlib.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco

from samdiff.pipeline.encode.coco import to_string
from samdiff.pipeline.encode.structure import encode_structure
from samdiff.pipeline.fast_grid.choice import choose_points
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.masks.nms import Pool, choose
from samdiff.runtime import setup_process

SHARES = (0, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 7 / 16, 1 / 2, 5 / 8, 3 / 4)


@dataclass(frozen=True)
class Agreement:
    """Masks of some points against those of all, in one image."""

    kind: str
    """`contrast`, as mode fast, or `uniform`: a coarser grid."""
    share: float
    points: int
    found: int
    """Exact masks with a twin at IoU > .9."""
    exact: int
    e_sam: float
    """Mean |E_SAM difference|, in standard deviations of the exact E_SAM."""
    labels: float
    """Share of pixels with the same label: the two masks that own the pixel overlap at IoU > .9, or it has none in both label maps."""
    paired: float
    """The same where masks are paired one to one, by IoU > .5. Lower, because exact masks have near duplicates, of which one is paired."""


def compare(theirs: list[np.ndarray], ours: list[np.ndarray], size: tuple[int, int]) -> dict[str, float]:
    """`found`, `e_sam`, `labels` and `paired` of masks as runs, see `Agreement`."""
    a, b = (encode_structure(runs, *size) for runs in (theirs, ours))
    difference = float(np.abs(a.e_sam() - b.e_sam()).mean() / a.e_sam().std())
    coded = [[{"size": list(size), "counts": to_string(runs).encode()} for runs in side] for side in (theirs, ours)]
    overlap = np.asarray(coco.iou(coded[0], coded[1], [0] * len(ours))).reshape(len(theirs), len(ours))
    label = np.full(len(ours) + 1, -1)
    label[0], left = 0, overlap.copy()
    while left.size and left.max() > 0.5:
        k, n = np.unravel_index(left.argmax(), left.shape)
        label[n + 1], left[k], left[:, n] = k + 1, 0, 0
    same = np.pad(overlap > 0.9, ((1, 0), (1, 0)))
    same[0, 0] = True
    return {
        "found": int((overlap.max(1, initial=0) > 0.9).sum()),
        "e_sam": difference,
        "labels": float(same[a.labels, b.labels].mean()),
        "paired": float((label[b.labels] == a.labels).mean()),
    }


def subset(pool: Pool, use: np.ndarray, index: Sequence[int]) -> list[np.ndarray]:
    """Runs of the masks selected among the candidates of some points; `use` bool [n], `index`: the point of each candidate."""
    some = [k for k, point in enumerate(index) if use[point]]
    parts = {name: [getattr(pool, name)[k] for k in some] for name in ("candidates", "predicted_iou", "points")}
    return choose(replace(pool, **parts)).counts


def curve(generator: MaskGenerator, image: np.ndarray) -> list[Agreement]:
    """All shares and coarser grids for one image; the generator is in mode exact, with a square grid of points."""
    engine, size = generator.engine, image.shape[:2]
    engine.pool_bytes = 1  # candidates are measured at once, and the stable ones are kept as runs
    crop, grid = (0, 0, size[1], size[0]), engine.grids[0]
    embedding = engine.encode([image])[0]
    with torch.inference_mode():
        pool = engine.candidates(embedding, crop, layer=0, size=size)
        values = engine.contrast(embedding, grid, engine.frame(*size))
    places = {tuple(point): k for k, point in enumerate(grid * np.array([size[1], size[0]]))}
    index = [places[tuple(point)] for point in pool.points]
    side = round(len(grid) ** 0.5)
    y, x = np.divmod(np.arange(len(grid)), side)
    sets = [("contrast", share, np.isin(np.arange(len(grid)), choose_points(grid, values, share))) for share in SHARES]
    sets += [
        ("uniform", float(use.mean()), use)
        for use in ((y % 4 == 1) & (x % 4 == 1), (y % 3 == 1) & (x % 3 == 1), (y % 2 == 0) & (x % 2 == 0), (y + x) % 2 == 0)
    ]
    exact = subset(pool, np.ones(len(grid), bool), index)
    out = []
    for kind, share, use in sets:
        agreement: dict[str, Any] = compare(exact, subset(pool, use, index), size)
        out.append(Agreement(kind, share, int(use.sum()), exact=len(exact), **agreement))
    return out


def summary(rows: list[Agreement]) -> list[tuple[str, float, float, float, float, float]]:
    """Over all images: (kind, mean points, share of masks found, mean E_SAM difference, mean labels, mean paired)."""
    out = []
    for kind, share in dict.fromkeys((row.kind, row.share) for row in rows):
        some = [row for row in rows if (row.kind, row.share) == (kind, share)]
        found = sum(row.found for row in some) / max(1, sum(row.exact for row in some))
        means = (float(np.mean([getattr(row, name) for row in some])) for name in ("e_sam", "labels", "paired"))
        out.append((kind, float(np.mean([row.points for row in some])), found, *means))
    return out


def plot(lines: list[tuple[str, float, float, float, float, float]], file: Path, *, images: int, masks: int) -> None:
    """Three curves over the number of points, for both kinds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    titles = ("exact masks found (IoU > .9), %", "mean |E_SAM difference|, % of std", "pixels with the same label, %")
    for column, (panel, title, bar) in enumerate(zip(panels, titles, (95, 2, 97), strict=True)):
        for kind, mark in (("contrast", "o-"), ("uniform", "s--")):
            some = [line for line in lines if line[0] == kind]
            panel.plot([line[1] for line in some], [100 * line[2 + column] for line in some], mark, ms=4, label=kind)
        panel.axhline(bar, color="grey", lw=0.8, ls=":")
        panel.set(title=title, xlabel="points prompted of 1024", xlim=(0, None))
        panel.title.set_fontsize(10)
    panels[0].legend(title=f"{images} images, {masks} masks", fontsize=8, title_fontsize=8)
    figure.savefig(file, dpi=90)


def main() -> None:
    """Print the table, image by image, then over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--sam", default="mobile_sam")
    parser.add_argument("--plot", type=Path, help="file of the plot, PNG")
    options = parser.parse_args()
    setup_process(options.threads)
    generator = MaskGenerator(options.sam, points_per_side=options.points_per_side)
    rows: list[Agreement] = []
    for file in options.images:
        made = curve(generator, np.ascontiguousarray(cv2.imread(str(file))[..., ::-1]))
        rows += made
        print(f"{file.name}: {made[0].exact} masks; " + ", ".join(f"{row.points}: {row.found}" for row in made), flush=True)
    lines = summary(rows)
    print(f"{'':<10}{'points':>8}{'found':>9}{'E_SAM':>9}{'labels':>9}{'paired':>9}")
    for kind, points, found, e_sam, labels, paired in lines:
        print(f"{kind:<10}{points:>8.0f}{found:>9.1%}{e_sam:>9.2%}{labels:>9.1%}{paired:>9.1%}")
    if options.plot:
        masks = sum(row.exact for row in rows) // len(lines)
        plot(lines, options.plot, images=len(options.images), masks=masks)


if __name__ == "__main__":
    main()
