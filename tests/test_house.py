"""The house itself: what the wheel holds, what imports what, and that the README says what the code says."""

import ast
import logging
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import samdiff
from samdiff.cli import app, main
from samdiff.pipeline.shards.schema import stage_table

from .helpers.models import write_model

ROOT = Path(samdiff.__file__).parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines()]


def test_import_is_light():
    """`import samdiff`, and the whole list of commands, load none of the heavy libraries."""
    heavy = "torch cv2 numpy zarr dask h5py segment_anything PIL"
    done = run("-c", f"import sys, samdiff, samdiff.cli; print([m for m in {heavy.split()!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_looking_at_a_store_loads_no_pytorch():
    """`info`, `verify` and `open_store` answer in under a second; PyTorch alone takes longer to load."""
    modules = "samdiff.pipeline.prepare.info, samdiff.pipeline.shards.verify, samdiff.pipeline.export.export, samdiff.pipeline.stream.dataset"
    done = run("-c", f"import sys, {modules}; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stdout + done.stderr


@pytest.mark.parametrize("name", samdiff.__all__)
def test_public_name(name: str):
    assert callable(getattr(samdiff, name))


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="public names are MaskGenerator"):
        samdiff.MaskGenerater  # noqa: B018


def test_pipeline_never_imports_model():
    for file in sorted((ROOT / "pipeline").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any("model" in name.split(".") and "segment_anything" not in name for name in names), (file.name, names)


def test_readme_shows_the_stage_table():
    assert stage_table() in (ROOT / "README.md").read_text(), "README.md: paste the output of contract.stage_table()"


def test_readme_links_lead_somewhere():
    import re

    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_wheel_holds_the_package_alone(tmp_path: Path):
    """Built from the tracked files: modules, presets, registry, type marker, shipped data; no tests, no docs."""
    pytest.importorskip("setuptools", minversion="68", reason="the build backend is installed with `make install`")
    source = tmp_path / "source"
    for file in tracked("*"):
        copy = source / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    done = run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("samdiff-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert all(name.startswith("samdiff/") for name in inside), sorted(inside)
    assert not [name for name in inside if name.startswith(("samdiff/tests/", "samdiff/docs/", "samdiff/benchmarks/"))]
    folders = ("pipeline", "model", "commands")
    modules = {
        f"samdiff/{f.relative_to(ROOT).as_posix()}" for f in tracked("*.py") if f.parent == ROOT or f.parent.name in folders
    }
    data = {
        f"samdiff/{f.relative_to(ROOT).as_posix()}"
        for pattern in ("*/presets/*.toml", "pipeline/registry.toml")
        for f in tracked(pattern)
    }
    assert modules | data | {"samdiff/py.typed"} <= inside


def test_version_and_help(capsys: pytest.CaptureFixture[str]):
    for arguments, expected in ((["--version"], samdiff.__version__), (["train", "--help"], "--shards")):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code in (0, None)
        assert expected in capsys.readouterr().out


def test_exit_statuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """2 for wrong usage, 1 and one line for what the user can put right."""
    for arguments, status in ((["prepair"], 2), (["weights", "vit_x"], 2), (["info", str(tmp_path / "no.zarr")], 1)):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("samdiff: ")
    assert "there is no such store" in last


@pytest.mark.parametrize("words", [["-q", "infer"], ["infer", "-q"], ["infer"]])
def test_quiet_before_and_after_the_command(words, tmp_path, monkeypatch, capsys):
    """No line on what happens; what is skipped and errors stay; `-v` after the command too."""
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    model = str(write_model(tmp_path / "model.safetensors"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "b.png")
    with pytest.raises(SystemExit) as stopped:
        main([*words, str(tmp_path / "in"), "--checkpoint", model, "--regress", "-v"])
    said = capsys.readouterr()
    assert stopped.value.code == 3
    assert "a.png: no image of a known format" in said.err
    assert ("-> " in said.out) == ("-q" not in words)
    assert logging.getLogger().level == logging.INFO


def test_quiet_keeps_results(monkeypatch, capsys):
    """A list that was asked for; every command takes `-q` and says so."""
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    main_status(["download", "-q"])
    assert "div2k" in capsys.readouterr().out
    for command in app.registered_commands:
        main_status([command.name or command.callback.__name__.replace("_", "-"), "--help"])
        assert "-q, --quiet" in capsys.readouterr().out


def main_status(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code in (0, None)


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr("samdiff.pipeline.sam.weights.find_weights", interrupted)
    monkeypatch.setattr("samdiff.pipeline.shards.reader.open_store", interrupted)
    monkeypatch.setattr("samdiff.pipeline.shards.verify.verify_store", interrupted)
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    for words, promise in (
        (["weights", "vit_b"], "goes on"),
        (["-q", "export", "a", "b", "--to", "hdf5"], "begins anew"),
        (["verify", "--deep", "a"], "begins anew"),
        (["info", "a"], "begins anew"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 130
        assert f"the same command {promise}" in capsys.readouterr().err
