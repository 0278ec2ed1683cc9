"""The benchmarks' instructions work as written, as far as that takes seconds."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import samdiff

ROOT = Path(samdiff.__file__).resolve().parent


def run(*command: object, **environment: str) -> str:
    """stdout of a child without this process' PYTHONPATH, as a user's shell has none; its stderr if it fails."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=plain | environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_peers_environment_imports_samdiff_and_the_shared_packages(tmp_path):
    """`loader.py --make-peer` (without pip here), then what its child processes do first: import the loaders, and samdiff with PyTorch."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import argparse, loader
from pathlib import Path
python = loader.make_peer("mosaicml", Path({str(tmp_path / "peers")!r}), with_pip=False)
loader.__file__ = {str(tmp_path / "child.py")!r}
arguments = argparse.Namespace(store="s.zarr", work=Path({str(tmp_path / "work")!r}), seconds=1.0)
print(python)
print(loader.child(python, "mosaicml", "--measure", arguments))
"""
    (tmp_path / "child.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "import peers, samdiff, torch\n"
        "print(samdiff.ShardDataset.__name__, samdiff.__file__, sys.prefix != sys.base_prefix, sys.argv[-2:])\n"
    )
    link = tmp_path / "import"
    link.mkdir()
    (link / "samdiff").symlink_to(ROOT)  # this environment may not have samdiff installed
    python, line = run(sys.executable, "-c", code, PYTHONPATH=str(link)).splitlines()[-2:]
    assert python == str(tmp_path / "peers/mosaicml/bin/python")
    assert line.startswith(f"ShardDataset {tmp_path / 'work/import/samdiff/__init__.py'} True ['--measure', 'mosaicml']")


@pytest.fixture
def gpu(monkeypatch):
    """benchmarks/gpu.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_the_gpu_page_is_the_one_that_its_script_makes(gpu):
    """Until a GPU was measured it says so; afterwards it is made of a file of results, which this test then names."""
    from gpu_parts.report import page

    made = page(None, [part.name for part in gpu.PARTS])
    assert (ROOT / "docs" / "gpu.md").read_text() == made
    assert "Nothing has been measured on a GPU yet" in made


def test_every_part_of_the_gpu_benchmark_exists_and_has_a_title(gpu):
    from gpu_parts.report import TITLES

    assert [part.name for part in gpu.PARTS if part.name not in TITLES] == []
    assert len({part.name for part in gpu.PARTS}) == len(gpu.PARTS)
    for part in gpu.PARTS:
        module, _, function = part.where.partition(":")
        text = (ROOT / "benchmarks" / "gpu_parts" / f"{module}.py").read_text()
        assert f"def {function}(bench: Bench) -> None:" in text, part
        assert "," not in part.name


def test_the_gpu_report_shows_what_was_measured_and_what_was_not(gpu):
    """Values of every shape, a part that failed, one that was stopped halfway, and all others as not run."""
    from gpu_parts.report import page

    parts = {
        "masks vit_h": {"status": "done", "results": {"fast": {"images/s": 41.5, "peak GB": None}, "setting": "a|b"}},
        "profile masks": {
            "status": "stopped",
            "error": "stopped after 45 s",
            "results": {"x": [{"kernel": "<gemm>", "ms": 1.5}]},
        },
        "sampling": {"status": "failed", "error": "Traceback\nValueError: broken", "results": {}},
    }
    parts = {name: {**part, "seconds": 1.0, "date": f"2026-01-0{k}"} for k, (name, part) in enumerate(parts.items(), 1)}
    machine = {"card": "NVIDIA X", "torch": "2.11.0", "python": "3.12", "cores": 16, "commit": "abc"}
    text = page({"format": 1, "small": False, "machine": machine, "parts": parts}, [part.name for part in gpu.PARTS])
    assert "NVIDIA X, PyTorch 2.11.0, Python 3.12, 16 CPU cores; 2026-01-01 to 2026-01-03; commit abc" in text
    assert "| masks, vit_h's size, fast, images of 2K per second | at least 40 | 41.5 |" in text
    assert "| masks, MobileSAM, fast, images of 2K per second | at least 85 | not measured |" in text
    assert "| fast | 41.5 |  |" in text
    assert "- setting: a\\|b" in text
    assert "| 1 | &lt;gemm> | 1.5 |" in text
    assert "- Sampling: failed (ValueError: broken)" in text
    assert "- Profile: masks: stopped, in part measured (stopped after 45 s)" in text
    assert "- Training step: not run" in text
    assert "these numbers mean nothing" not in text


def fake_parts(gpu, monkeypatch, tmp_path, **status: str) -> list[str]:
    """Replace the processes of the parts; the names of those that ran."""
    ran: list[str] = []

    def part(chosen, arguments, limit):
        ran.append(chosen.name)
        how = status.get(chosen.name, "done")
        return {"status": how, "seconds": 0.1, "date": "2026-01-01", "results": {"n": len(ran)}, "error": "e"}

    monkeypatch.setattr(gpu, "run_part", part)
    monkeypatch.setattr(gpu, "machine_facts", lambda device: {"card": device, "torch": "1", "samdiff": "1"})
    return ran


def test_a_later_run_of_the_gpu_benchmark_goes_on(gpu, monkeypatch, tmp_path):
    """Missing parts first, then those that failed; finished ones stay. Numbers of another card are refused."""
    file = tmp_path / "gpu.json"
    names = [part.name for part in gpu.PARTS]
    ran = fake_parts(gpu, monkeypatch, tmp_path, machine="failed")
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(file), "--only", "machine,sampling"])
    gpu.main()
    assert ran == ["machine", "sampling"]
    ran = fake_parts(gpu, monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(file)])
    gpu.main()
    assert ran == [*(name for name in names if name not in ("machine", "sampling")), "machine"]
    assert {part["status"] for part in json.loads(file.read_text())["parts"].values()} == {"done"}
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(file), "--device", "cuda:1"])
    with pytest.raises(SystemExit, match="expected numbers of card cuda:1, got cuda"):
        gpu.main()


def test_a_part_of_the_gpu_benchmark_keeps_what_it_measured(gpu, tmp_path, monkeypatch):
    """A child that is stopped after its first value, and one that fails: value and error are in the record."""
    script = tmp_path / "child.py"
    script.write_text(
        "import json, os, sys, time\nfrom pathlib import Path\n"
        "Path(sys.argv[1]).write_text(json.dumps({'first': 1}))\n"
        "if sys.argv[3] == 'machine': time.sleep(60)\n"
        "Path(os.environ['GPU_BENCH_ERRORS']).write_text('ValueError: x'); sys.exit(1)\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    arguments = argparse.Namespace(device="cpu", work=tmp_path, small=True, images=None)
    stopped, failed = (gpu.run_part(part, arguments, limit=5) for part in gpu.PARTS[:2])
    assert (stopped["status"], stopped["results"], stopped["error"]) == ("stopped", {"first": 1}, "stopped after 5 s")
    assert (failed["status"], failed["results"], failed["error"]) == ("failed", {"first": 1}, "ValueError: x")


def test_the_training_bundle_holds_what_fits_and_no_held_out_image(monkeypatch, tmp_path, capsys):
    """Of two folders, in an order that mixes them; what is no image is passed over."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_bundle
    from PIL import Image

    for folder, count in (("a", 6), ("b", 3)):
        (tmp_path / folder).mkdir()
        for k in range(count):
            Image.new("RGB", (100, 100)).save(tmp_path / folder / f"{k}.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "held_out.txt").write_text("a/0.png\nb/1.png\n")
    folders = [tmp_path / "a", tmp_path / "b"]
    monkeypatch.setattr(gpu_bundle, "STORE_MIB", 6 * 30000 * gpu_bundle.STORE_BYTES / 2**20 + 0.01)
    gpu_bundle.choose_photos(tmp_path / "chosen", folders, tmp_path / "held_out.txt", None)
    chosen = sorted(str(path.relative_to(tmp_path / "chosen")) for path in tmp_path.glob("chosen/*/*"))
    assert len(chosen) == 6
    assert {"a", "b"} == {name[0] for name in chosen}
    assert not {"a/0.png", "b/1.png"} & set(chosen)
    assert capsys.readouterr().out.startswith("training store: 6 of 7 images; 3 are held out, or no images")


def test_a_run_comes_back_in_pieces_and_is_resumed_from_them(monkeypatch, tmp_path):
    """The newest state only, no stale piece of a longer earlier run; a run that is there is left alone. Speed is that of the last call."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_run

    monkeypatch.setattr(gpu_run, "PIECE", 10_000)
    runner = argparse.Namespace(out=tmp_path / "out", work=tmp_path / "work", folder=tmp_path / "bundle")
    run = runner.work / "flow"
    for folder in (run, runner.out, runner.folder):
        folder.mkdir(parents=True)
    (run / "state-diffusion-00000009.safetensors").write_bytes(b"old")
    (run / "state-diffusion-00000010.safetensors").write_bytes(os.urandom(35_000))
    (run / "config.json").write_text('{"train": {"batch": 4}}')
    lines = [{"stage": "diffusion", "step": step, "samples_per_s": rate} for step, rate in ((1, 4.0), (2, 4.0), (3, 8.0))]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    gpu_run.bring_back(runner, "flow", "state-diffusion-*")
    assert sorted(path.name for path in runner.out.iterdir()) == [
        f"flow.tar.{k}" for k in range(len(list(runner.out.iterdir())))
    ]
    assert all(path.stat().st_size <= 10_000 for path in runner.out.iterdir())
    before = {path.name: path.read_bytes() for path in run.iterdir() if "00000009" not in path.name}
    run.rename(tmp_path / "gone")
    gpu_run.unpack(runner, "flow")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert gpu_run.speed(run, "diffusion", 0) == (3, 1.0)
    assert gpu_run.speed(run, "diffusion", 2) == (3, 2.0)
    (run / "state-diffusion-00000010.safetensors").write_bytes(b"short")
    gpu_run.unpack(runner, "flow")  # changes nothing
    gpu_run.bring_back(runner, "flow", "state-diffusion-*")
    assert (run / "state-diffusion-00000010.safetensors").read_bytes() == b"short"
    assert len(list(runner.out.iterdir())) == 2
