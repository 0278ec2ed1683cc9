"""Runs what `gpu_bundle.py` packed, on a machine with a GPU and no network: tests and benchmark, or training.

    python3 benchmarks/gpu_run.py check [--out out] [--minutes 9]     tests.txt, gpu.json
    python3 benchmarks/gpu_run.py train [--out out] [--minutes 9]     runs' folders as tar files in pieces of at most 15 MiB

`check` a second time resumes with the parts of the benchmark that are missing in --out/gpu.json, or in build/gpu/check/gpu.json. `train` a second
time resumes the runs of --work, or the pieces in --out or build/gpu/train: the flow and the RRDB of preset `small`, each for half of the time; the
first RRDB, which the flow needs as it is, is not trained further. The pieces of a run are put together by `cat NAME.tar.* | tar x`; `samdiff train`
with the command in `commands.txt` then resumes it, on any device.
`--device cpu --small` is a rehearsal.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIECE = 15 << 20
NEEDED = ("torch", "torchvision", "segment_anything", "numpy", "PIL", "cv2", "numcodecs", "google_crc32c", "safetensors")
NEEDED += ("platformdirs", "filelock", "tqdm", "typer", "pytest", "hypothesis", "pycocotools")
FLOW = ["--set", "diffusion.base=rrdb", "--set", "diffusion.process=flow", "--set", "diffusion.flow_prediction=velocity"]


class Runner:
    """The folder of results, the clock, and an environment in which `import samdiff` finds this checkout."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.out, self.end = arguments.out.resolve(), time.monotonic() + 60 * arguments.minutes
        self.work = (arguments.work or self.out.parent / "work").resolve()
        self.folder, self.device, self.small = folder, arguments.device, arguments.small
        for path in (self.out, self.work / "import"):
            path.mkdir(parents=True, exist_ok=True)
        if not (self.work / "import" / "samdiff").exists():
            (self.work / "import" / "samdiff").symlink_to(ROOT)
        paths = [str(self.work / "import"), str(self.work / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        if (folder / "cache").is_dir():
            self.environment["SAMDIFF_CACHE"] = str(folder / "cache")
        if (folder / "images").is_dir():
            self.environment["SAMDIFF_PHOTOS"] = str(folder / "images")

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def run(self, *command: str, seconds: float, log: str | None = None) -> int:
        """Run a command with Ctrl-C after so many seconds, and a kill 45 seconds later. Returns its exit status."""
        print(f"$ {' '.join(command)[:400]}  (at most {seconds:.0f} s)", flush=True)
        to = (self.out / log).open("a") if log else None
        child = subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdout=to, stderr=subprocess.STDOUT if to else None, start_new_session=True
        )
        try:
            return child.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGINT)
        try:
            return child.wait(45)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return child.wait()

    def install(self) -> None:
        """The wheels of the bundle into a folder of their own; then what is still missing is named."""
        wheels = sorted(map(str, (self.folder / "wheels").glob("*.whl")))
        if wheels and not (self.work / "packages").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
            subprocess.run([*pip, str(self.work / "packages"), *wheels], check=False)
        code = f"import importlib.util as u; print(*[n for n in {NEEDED!r} if u.find_spec(n) is None])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=self.environment, check=True)
        if done.stdout.strip():
            print(f"missing packages: {done.stdout.strip()}", flush=True)


def check(runner: Runner, arguments: argparse.Namespace) -> int:
    """The tests of tests/cuda, then the benchmark for the rest of the time. Returns the tests' exit status."""
    code = 0
    results = runner.out / "gpu.json"
    before = runner.folder / "gpu.json"
    if before.is_file() and not results.exists():
        shutil.copyfile(before, results)
    if not arguments.no_tests:
        runner.environment["SAMDIFF_TEST_DEVICE"] = runner.device
        pytest = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "--durations=15", "-v", "tests/cuda"]
        code = runner.run(*pytest, *arguments.pytest.split(), seconds=min(arguments.test_seconds, runner.left), log="tests.txt")
        lines = (runner.out / "tests.txt").read_text().splitlines()
        print(
            "\n".join(line for line in lines if line.startswith(("FAILED", "ERROR", "="))), f"\nexit status {code}", flush=True
        )
    bench = [sys.executable, "benchmarks/gpu.py", str(results), "--device", runner.device, "--work", str(runner.work)]
    bench += ["--images", str(runner.folder / "images")] if (runner.folder / "images").is_dir() else []
    bench += ["--small", "--patience", "6"] if runner.small else []
    bench += ["--only", arguments.only] if arguments.only else []
    runner.run(*bench, "--minutes", f"{runner.left / 60 - 0.1:.2f}", seconds=runner.left)
    return code


def speed(folder: Path, stage: str, lines_before: int) -> tuple[int, float]:
    """(last step, steps/s) in the log of a run, after so many lines."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()[lines_before:]]
    lines = [line for line in lines if line.get("stage") == stage and "samples_per_s" in line]
    batch = json.loads((folder / "config.json").read_text())["train"]["batch"]
    return lines[-1]["step"], sorted(line["samples_per_s"] for line in lines)[len(lines) // 2] / batch


def stage(runner: Runner, name: str, count: str, seconds: float, *options: str) -> None:
    """Train one stage for so long: first a fifth of the time at a constant rate, then a falling rate over the steps that still fit."""
    folder, kind = runner.work / name, "rrdb" if count == "--rrdb-steps" else "diffusion"
    store = runner.work / "store.zarr"
    log = folder / "log.jsonl"
    lines = len(log.read_text().splitlines()) if log.is_file() else 0
    command = [sys.executable, "-m", "samdiff.cli", "train", str(store), "--out", str(folder), "--device", runner.device]
    command += ["--modulation", "none", *options, "--set", "validate.every=0"]
    begin = time.monotonic()
    first = ["--set", "train.lr_schedule=step", "--set", "train.halve_every=1000000", count, "1000000"]
    runner.run(*command, *first, seconds=max(90.0 if runner.small else 25.0, 0.2 * seconds), log="training.txt")
    try:
        done, rate = speed(folder, kind, lines)
    except (OSError, LookupError, ValueError) as error:
        last = (runner.out / "training.txt").read_text().strip().rpartition("\n")[2]
        print(f"{name}: no step was logged ({error}); training.txt ends with: {last}", flush=True)
        return
    rest = seconds - (time.monotonic() - begin) - 15  # starting and saving
    steps = done + max(1, int(0.9 * rate * rest))
    last = [*command, "--set", "train.lr_schedule=cosine", count, str(steps)]
    runner.run(*last, seconds=rest + 10, log="training.txt")
    steps = finish(runner, folder, kind, last)
    with (runner.out / "commands.txt").open("a") as file:
        text = " ".join(last[3:]).replace(str(runner.work) + "/", "").replace(f"--device {runner.device} ", "")
        file.write(f"samdiff {text}\n# {name}: {rate:.2f} steps/s, {steps} steps done\n")


def finish(runner: Runner, folder: Path, kind: str, command: list[str]) -> int:
    """Steps done. A stage one that was stopped before its last step has a state but no rrdb.safetensors: it is ended at the state's step."""
    steps = max((int(file.stem.rpartition("-")[2]) for file in folder.glob(f"state-{kind}-*.safetensors")), default=0)
    if kind == "rrdb" and steps and not (folder / "rrdb.safetensors").exists():
        runner.run(*command[:-1], str(steps), seconds=60, log="training.txt")
    return steps


def unpack(runner: Runner, name: str) -> None:
    """The pieces of a run that an earlier call brought back, unless the run is there."""
    for place in (runner.out, runner.folder):
        pieces = sorted(place.glob(f"{name}.tar.*"), key=lambda piece: int(piece.suffix[1:]))
        if pieces and not (runner.work / name).exists():
            with tarfile.open(fileobj=io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))) as tar:
                tar.extractall(runner.work, filter="data")


def bring_back(runner: Runner, name: str, *patterns: str) -> None:
    """A run's folder with the newest states, as a tar file in pieces."""
    for old in runner.out.glob(f"{name}.tar.*"):
        old.unlink()  # of an earlier call, which `unpack` has read
    folder, whole = runner.work / name, runner.work / f"{name}.tar"
    files = [sorted(folder.glob(pattern))[-1:] for pattern in (*patterns, "config.json", "log.jsonl")]
    with tarfile.open(whole, "w") as tar:
        for file in [file for some in files for file in some]:
            tar.add(file, f"{name}/{file.name}")
    data = whole.read_bytes()
    for number, start in enumerate(range(0, len(data), PIECE)):
        (runner.out / f"{name}.tar.{number}").write_bytes(data[start : start + PIECE])


def train(runner: Runner, arguments: argparse.Namespace) -> int:
    """RRDB of preset `tiny`, a flow on it, then RRDB of preset `small`; at most eight files come back."""
    source = arguments.store or runner.folder / "store.zarr"
    if not (runner.work / "store.zarr").exists():
        shutil.copytree(source, runner.work / "store.zarr")
    size = ["train.patch=32", "train.batch=2"] if runner.small else ["train.patch=96", "train.batch=32"]
    amp = "off" if runner.device == "cpu" else "bf16"
    common = [*size, f"train.amp={amp}", "train.keep=1", "train.num_workers=8", f"train.log_every={1 if runner.small else 20}"]
    common += ["train.checkpoint_every=100000"]
    options = [text for value in common for text in ("--set", value)]
    total = runner.left - 15
    rate = ["--set", "train.lr=5e-4"]
    for name in ("rrdb-tiny", "flow-tiny"):  # the state of `small` is too large to come back
        unpack(runner, name)
    begun = any((runner.work / "flow-tiny").glob("state-diffusion-*"))
    if not begun:
        stage(runner, "rrdb-tiny", "--rrdb-steps", 0.45 * total, "--preset", "tiny", *options, *rate, "--steps", "0")
    bring_back(runner, "rrdb-tiny", "rrdb.safetensors", "state-rrdb-*")
    rrdb = ["--rrdb", str(runner.work / "rrdb-tiny" / "rrdb.safetensors")]
    if not (runner.work / "rrdb-tiny" / "rrdb.safetensors").exists():
        return 1
    stage(runner, "flow-tiny", "--steps", (0.5 if begun else 0.25) * total, "--preset", "tiny", *options, *rate, *FLOW, *rrdb)
    bring_back(runner, "flow-tiny", "model.safetensors", "state-diffusion-*")
    if runner.left > 60:
        stage(runner, "rrdb-small", "--rrdb-steps", runner.left - 15, "--preset", "small", *options, *rate, "--steps", "0")
        bring_back(runner, "rrdb-small", "rrdb.safetensors")
    return int(not (runner.work / "flow-tiny" / "model.safetensors").exists())


def main() -> None:
    """Install, then run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "train"))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "out"), help="default: $OUT, or ./out")
    parser.add_argument("--work", type=Path, help="folder for everything else; default: work beside --out")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a rehearsal")
    parser.add_argument("--no-tests", action="store_true", help="check: the benchmark alone")
    parser.add_argument("--test-seconds", type=float, default=150.0, help="check: most seconds for the tests")
    parser.add_argument("--pytest", default="", help="check: more options of pytest")
    parser.add_argument("--only", default="", help="check: parts of the benchmark, see gpu.py")
    parser.add_argument("--store", type=Path, help="train: the store; default: the bundle's")
    arguments = parser.parse_args()
    runner = Runner(arguments, ROOT / "build" / "gpu" / arguments.what)
    runner.install()
    code = (check if arguments.what == "check" else train)(runner, arguments)
    for file in sorted(runner.out.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 2**20:.2f} MiB", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
