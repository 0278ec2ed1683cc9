"""docs/gpu.md, made from a file of results. Pure: JSON -> Markdown."""

from __future__ import annotations

from typing import Any

TITLES = {
    "machine": "The GPU itself",
    "masks mobile_sam": "Masks: MobileSAM, real weights",
    "masks vit_h": "Masks: vit_h, random encoder weights",
    "masks vit_b": "Masks: vit_b, random encoder weights",
    "masks compiled": "Masks: MobileSAM, compiled",
    "host work": "Masks: the host's work for each image",
    "training step": "Training step",
    "training step flow": "Training step of a flow",
    "training step compiled": "Training step, compiled",
    "loader": "The loader's share of a training step",
    "sampling": "Sampling",
    "copies": "Copies from pinned and pageable memory",
    "profile masks": "Profile: masks",
    "profile training": "Profile: training step",
}
GOALS = (
    ("masks, vit_h's size, fast, images of 2K per second", 40.0, ("masks vit_h", "fast", "images/s"), False),
    ("masks, MobileSAM, fast, images of 2K per second", 85.0, ("masks mobile_sam", "fast", "images/s"), False),
    (
        "masks, MobileSAM, fast, times segment-anything's generator",
        10.0,
        ("masks mobile_sam", "times the stock generator", "fast"),
        False,
    ),
    (
        "masks, vit_h's size, fast, times segment-anything's generator",
        10.0,
        ("masks vit_h", "times the stock generator", "fast"),
        False,
    ),
    ("training step in bf16, times the plain fp32 step", 2.5, ("training step", "ours bf16 against plain fp32"), False),
    ("share of a training step that waits for the loader", 0.02, ("loader", "step with loader", "share waiting"), True),
)
"""(what, goal, where in the results, whether less is better)."""

HOW = """
## How to measure

On a machine with a GPU, in a checkout:

    make gpu-test
    make gpu-bench
    python benchmarks/gpu.py --report build/gpu/gpu.json > docs/gpu.md

`make gpu-test` compares masks, loader, training, inference and export on the GPU with the CPU (`tests/cuda`). `make gpu-bench` makes the measurements of this page
within nine minutes; each has a time limit. Run again, it resumes with the missing ones. MobileSAM's weights must be in
the cache (`samdiff weights mobile_sam`). Both can be tried on a CPU at small sizes:
`SAMDIFF_TEST_DEVICE=cpu python -m pytest -m cuda tests/cuda` and `python benchmarks/gpu.py FILE.json --device cpu --small`.

### Without a network

    make gpu-bundle PHOTOS="FOLDER …"

makes two files of at most 45 MiB: `build/gpu/check.tar` (code, tests, benchmark, wheels, MobileSAM's weights, three images) and `build/gpu/train.tar` (code, wheels, a store of at most 30 MiB). The store is made of as many images of the folders
as fit, without those that `docs/shipped/held_out.txt` names; `REUSE=STORE` takes their masks from another store, and `STORE=…` packs a store of yours. The wheels are for Linux on x86-64 and Python 3.12; the machine must have PyTorch with
torchvision, NumPy, OpenCV, Pillow, safetensors, typer, tqdm, filelock, pytest and hypothesis. Run on that machine:

    tar xf check.tar && python3 samdiff-gpu/benchmarks/gpu_run.py check --out results
    tar xf train.tar && python3 samdiff-gpu/benchmarks/gpu_run.py train --out results

Each ends within nine minutes (`--minutes`). The first writes `tests.txt` and `gpu.json`; it resumes with a `gpu.json` that `results` already contains. The second trains an RRDB of preset
`tiny`, a flow on it, and an RRDB of preset `small`, in bf16. It packs each run's folder into `NAME.tar.0`, `NAME.tar.1`, …, of at most 15 MiB each.
`cat NAME.tar.* | tar x` unpacks it, and the command in `commands.txt` resumes the run on any device. A second call resumes the flow from the pieces in `results`; the state of `small` is too large to be packed, so on another machine that run starts again.
"""

TRIED = """
## What was tried without a GPU

On one busy core of a 2.5 GHz Xeon without a GPU (PyTorch 2.14, Python 3.11), on 2026-11-28:

- `make gpu-bundle` with CID22's training part and CLIC 2025: `check.tar` is 42.5 MiB; `train.tar` is 32.9 MiB, with a store of 21 of 167 images (115 tiles).
- `train.tar` was unpacked in an empty folder and run with `--device cpu --small --minutes 10`, in a Python environment with only the packages named above. The carried wheels are pure Python, or built for CPython 3.12 on Linux from glibc 2.17 on; those were replaced by the
  same packages' wheels for Python 3.11. First call: 339 steps of the RRDB and 162 of the flow, six files. Second call, after the runs' folders were removed: it resumed the flow from the pieces, and trained `small`; seven files, the largest of 15 MiB. In an empty folder, the unpacked
  flow was resumed with the command in `commands.txt` by `samdiff train`.
- `torch.compile` of encoder and decoder, with the static shapes of CUDA: a small SAM with random weights has as many masks compiled as not, with predicted IoU within 1e-4 and areas within 0.2 % (`tests/pipeline/masks/test_compiled.py`, `pytest -m slow`).
- The tests of masks in `tests/cuda`, except the golden images and the compiled segmenter; among them images that are resized in another thread. The tests of training and inference were tried earlier.
- The parts `host work` and `copies`, the latter with pageable memory instead of pinned memory. The other parts were run earlier in the same way, except `masks compiled`.
- Two and four processes of `torchrun` with gloo give the losses of one process (`tests/model/training/test_parallel.py`).

Not tried, since it needs a GPU: pinned memory, copies on a side stream, Triton kernels of `torch.compile`, bfloat16 on tensor cores, NCCL. FSDP is not used; [Training](training.md) says why it is not needed.
"""
"""Shown until there are results."""


def page(whole: dict[str, Any] | None, names: list[str]) -> str:
    """The page for the results of `gpu.py`; None: for no results at all."""
    head = "# On a GPU\n\nThis page is made by `benchmarks/gpu.py --report`.\n"
    if whole is None:
        nothing = (
            "\n**Nothing has been measured on a GPU yet, and the tests of `tests/cuda` have not been run on one.** Most of these "
            "measurements and tests were tried on a CPU at small sizes (see below); those numbers mean nothing and are not shown.\n"
        )
        places = "\n".join(f"- {TITLES[name]}" for name in names)
        return f"{head}{nothing}{HOW}{TRIED}\n## What will be measured\n\n{places}\n"
    parts: dict[str, Any] = whole["parts"]
    text = head + _conditions(whole) + _goals(parts)
    for name in names:
        if parts.get(name, {}).get("results"):
            text += f"\n## {TITLES[name]}\n{_part(parts[name])}"
    missing = [f"- {TITLES[name]}{_reason(parts.get(name))}" for name in names if parts.get(name, {}).get("status") != "done"]
    if missing:
        text += "\n## What was not measured\n\n" + "\n".join(missing) + "\n"
    return text + HOW


def _conditions(whole: dict[str, Any]) -> str:
    machine = whole["machine"]
    dates = sorted({part["date"] for part in whole["parts"].values()})
    text = f"\nMeasured on: {machine['card']}, PyTorch {machine['torch']}, Python {machine['python']}, {machine['cores']} CPU cores"
    text += f"; {' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}; commit {machine.get('commit') or 'not known'}.\n"
    if whole["small"]:
        text += "\n**A rehearsal at small sizes: these numbers mean nothing.**\n"
    return text


def _goals(parts: dict[str, Any]) -> str:
    rows = ["", "## Goals", "", "| | goal | measured |", "|---|---|---|"]
    for what, goal, (part, *keys), less in GOALS:
        value: Any = parts.get(part, {}).get("results", {})
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        sign = "at most" if less else "at least"
        rows.append(f"| {what} | {sign} {goal:g} | {'not measured' if value is None else f'{value:g}'} |")
    return "\n".join(rows) + "\n"


def _reason(part: dict[str, Any] | None) -> str:
    if part is None:
        return ": not run"
    last = str(part.get("error", "")).strip().splitlines()[-1:] or [""]
    return f": {part['status']}{', in part measured' if part['results'] else ''} ({_cell(last[0][:200])})"


def _part(part: dict[str, Any]) -> str:
    """Lines for single values, one table for rows of values with the same first column, one for each list."""
    lines, rows, lists = [], {}, []
    for name, value in part["results"].items():
        if isinstance(value, dict):
            rows[name] = value
        elif isinstance(value, list):
            lists.append((name, value))
        else:
            lines.append(f"- {name}: {_cell(value)}")
    blocks = ["\n".join(lines)] if lines else []
    blocks += [_table(same) for same in _alike(rows)]
    blocks += [f"{name}:\n\n{_table({str(k + 1): row for k, row in enumerate(value)})}" for name, value in lists]
    return "\n" + "\n\n".join(blocks) + "\n"


def _alike(rows: dict[str, dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """Rows in groups that share their first column."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, row in rows.items():
        groups.setdefault(next(iter(row), ""), {})[name] = row
    return list(groups.values())


def _table(rows: dict[str, dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    made = [f"| | {' | '.join(map(_cell, columns))} |", "|---" * (len(columns) + 1) + "|"]
    made += [f"| {_cell(name)} | {' | '.join(_cell(row.get(key)) for key in columns)} |" for name, row in rows.items()]
    return "\n".join(made)


def _cell(value: object) -> str:
    """A value as a table's cell."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
