"""Everything that is worth knowing of samdiff on a GPU, measured in one go and written into one JSON file.

    python benchmarks/gpu.py out/gpu.json [--images FOLDER] [--minutes 9] [--only NAME,…]
    python benchmarks/gpu.py out/gpu.json --device cpu --small       rehearsal: the same code at small sizes; its numbers mean nothing
    python benchmarks/gpu.py --report out/gpu.json > docs/gpu.md

Parts run in the order of their worth, each in a process of its own with a time limit. The file is rewritten after each part; the same command
resumes with the parts that are missing or failed. MobileSAM's weights must be in the cache (`samdiff weights
mobile_sam`). Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

FORMAT = 1
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Part:
    """One part: `module:function` of `gpu_parts`, and the most seconds that it may take."""

    name: str
    where: str
    limit: int


PARTS = (
    Part("machine", "system:machine", 40),
    Part("masks mobile_sam", "masks:mobile_sam", 100),
    Part("training step", "training:steps", 110),
    Part("masks vit_h", "masks:vit_h", 100),
    Part("sampling", "sampling:sampling", 75),
    Part("profile masks", "masks:profile", 45),
    Part("profile training", "training:profile", 45),
    Part("training step flow", "training:flow", 60),
    Part("loader", "training:loader", 75),
    Part("training step compiled", "training:compiled", 120),
    Part("copies", "system:copies", 30),
    Part("host work", "masks:host_work", 30),
    Part("masks vit_b", "masks:vit_b", 60),
    Part("masks compiled", "masks:compiled", 150),
)


def machine_facts(device: str) -> dict[str, object]:
    """Card, versions, date: what the numbers belong to."""
    import torch

    import samdiff

    facts: dict[str, object] = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    facts |= {"samdiff": samdiff.__version__, "cores": os.cpu_count(), "commit": commit()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts |= {"card": properties.name, "memory GB": round(properties.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    else:
        facts["card"] = f"none: {platform.processor() or platform.machine()}"
    return facts


def commit() -> str | None:
    """The commit that is measured: from git, or from a bundle's file; None: not known."""
    if (ROOT / ".git").exists():
        done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or None
    file = ROOT / "build" / "gpu" / "check" / "COMMIT"
    return file.read_text().strip() if file.is_file() else None


def load(file: Path, machine: dict[str, object], small: bool) -> dict[str, object]:
    """What the file holds already; SystemExit if that is of another card or size."""
    if not file.exists():
        return {"format": FORMAT, "small": small, "machine": machine, "parts": {}}
    whole: dict[str, object] = json.loads(file.read_text())
    before = whole["machine"]
    assert isinstance(before, dict)
    for name in ("card", "torch", "samdiff"):
        if before.get(name) != machine.get(name):
            sys.exit(f"{file}: expected numbers of {name} {machine.get(name)}, got {before.get(name)}; give another file")
    if whole.get("small") != small:
        sys.exit(f"{file}: holds {'a rehearsal' if whole.get('small') else 'real sizes'}; give another file")
    return whole


def save(file: Path, whole: dict[str, object]) -> None:
    """The whole file anew, never half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(whole, indent=1) + "\n")
    new.replace(file)


def run_part(part: Part, arguments: argparse.Namespace, limit: float) -> dict[str, object]:
    """One part in a process of its own: status, seconds, results as far as they came, and the error."""
    with tempfile.TemporaryDirectory() as folder:
        results, errors = Path(folder) / "results.json", Path(folder) / "error.txt"
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            str(results),
            "--child",
            part.name,
            "--device",
            arguments.device,
        ]
        command += ["--work", str(arguments.work), *(["--small"] if arguments.small else [])]
        command += ["--images", str(arguments.images)] if arguments.images else []
        start = time.perf_counter()
        status: dict[str, object] = {"status": "done"}
        try:
            subprocess.run(command, timeout=limit, check=True, env=os.environ | {"GPU_BENCH_ERRORS": str(errors)})
        except subprocess.TimeoutExpired:
            status = {"status": "stopped", "error": f"stopped after {limit:.0f} s"}
        except subprocess.CalledProcessError as error:
            text = errors.read_text() if errors.exists() else f"exit status {error.returncode}"
            status = {"status": "failed", "error": text[-1500:]}
        found = json.loads(results.read_text()) if results.exists() else {}
        return {**status, "seconds": round(time.perf_counter() - start, 1), "date": time.strftime("%Y-%m-%d"), "results": found}


def child(arguments: argparse.Namespace) -> None:
    """Run one part here; its error goes to a file."""
    import importlib

    import torch
    from gpu_parts.common import SMALL, Bench, Record, Sizes
    from gpu_parts.masks import folder_of_images

    from samdiff.runtime import setup_process

    part = next(part for part in PARTS if part.name == arguments.child)
    setup_process(1 if arguments.small else None)
    sizes, device = SMALL if arguments.small else Sizes(), torch.device(arguments.device)
    images = folder_of_images(arguments.images, arguments.work)
    bench = Bench(device, sizes, images, work=arguments.work, record=Record(arguments.file))
    module, _, function = part.where.partition(":")
    try:
        getattr(importlib.import_module(f"gpu_parts.{module}"), function)(bench)
    except Exception:  # noqa: BLE001  any failure of a part becomes its record, and the next part runs
        traceback.print_exc()
        Path(os.environ["GPU_BENCH_ERRORS"]).write_text(traceback.format_exc())
        sys.exit(1)


def measure(arguments: argparse.Namespace) -> None:
    """Run the parts that are missing, as long as there is time."""
    end = time.monotonic() + 60 * arguments.minutes
    whole = load(arguments.file, machine_facts(arguments.device), arguments.small)
    parts = whole["parts"]
    assert isinstance(parts, dict)
    chosen = [part for part in PARTS if not arguments.only or part.name in arguments.only.split(",")]
    new = [part for part in chosen if part.name not in parts]
    again = [part for part in chosen if parts.get(part.name, {}).get("status", "done") != "done"]
    for part in [*new, *again]:
        left = end - time.monotonic()
        if left < 15:
            print(f"no time left for: {part.name}", flush=True)
            continue
        print(f"{part.name} (at most {min(part.limit, left):.0f} s)", flush=True)
        found = run_part(part, arguments, min(part.limit * arguments.patience, left))
        before = parts.get(part.name, {})
        if found["status"] == "done" or len(found["results"]) >= len(before.get("results", {})):  # type: ignore[arg-type]
            parts[part.name] = found
        save(arguments.file, whole)
        print(f"{part.name}: {found['status']} in {found['seconds']} s", flush=True)


def main() -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="the JSON file, made or continued")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="print docs/gpu.md for a file of results (none: for no results), and do nothing else",
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes: a rehearsal")
    parser.add_argument("--images", type=Path, help="folder of images for the masks; default: two of scikit-image's")
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole run's time")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of each part's time limit")
    parser.add_argument("--only", default="", help=f"parts, separated by commas, of: {'; '.join(part.name for part in PARTS)}")
    parser.add_argument("--work", type=Path, help="folder for the parts' own files; default: beside the JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.report:
        from gpu_parts.report import page

        whole = None if str(arguments.report) == "none" else json.loads(arguments.report.read_text())
        print(page(whole, [part.name for part in PARTS]), end="")
        return
    if arguments.file is None:
        parser.error("expected the JSON file")
    if arguments.work is None:
        arguments.work = arguments.file.resolve().parent / "work"
    if arguments.child:
        child(arguments)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
