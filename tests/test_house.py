"""The house itself: what the wheel holds, what imports what, and that the map shows every file."""

import ast
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from PIL import Image

import samdiff
from samdiff.cli import app, main

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
    modules += ", samdiff.report.write"
    done = run("-c", f"import sys, {modules}; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stdout + done.stderr


@pytest.mark.parametrize("name", samdiff.__all__)
def test_public_name(name: str):
    assert callable(getattr(samdiff, name))


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="did you mean 'MaskGenerator'.; the public names are BusyError"):
        samdiff.MaskGenerater  # noqa: B018


ROOMS = {
    "pipeline": [
        "workers",
        "prepare",
        "mask_files",
        "segmenters",
        "masks",
        "sam",
        "fast_grid",
        "point_models",
        "embeddings",
        "export",
        "stream",
        "shards",
        "download",
        "images",
        "scientific",
        "volumes",
        "decoding",
        "degrade",
        "encode",
        "storage",
    ],
    "model": [
        "study",
        "distillation",
        "training",
        "objectives",
        "sheets",
        "export",
        "evaluation",
        "inference",
        "samples",
        "losses",
        "checkpoints",
        "networks",
        "diffusion",
    ],
}
"""The rooms of each half from the top: a room imports only itself and rooms below it."""
BESIDE = {"pipeline": set(), "model": {"config", "evaluate_config", "infer_config", "loss_config", "names", "student_config"}}
"""Files of each half that stand in no room."""
ABOVE = ("report",)
"""Rooms above both halves: they may import from both, and neither half imports from them."""
MOST_FILES, MOST_LINES = 10, 320


def room_of(module: str) -> tuple[str, str]:
    """`pipeline.masks.engine` -> (`pipeline`, `masks`); (``, ``) for what is in neither half."""
    half, _, rest = module.partition(".")
    return (half, rest.partition(".")[0]) if half in ROOMS else ("", "")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Modules below samdiff that a file imports, as `pipeline.masks.engine`, and whether that is for type checkers only."""
    tree = ast.parse(file.read_text())
    here = ["samdiff", *file.relative_to(ROOT).with_suffix("").parts]
    hints = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name.removeprefix("samdiff."), id(node) in hints) for name in names if name.startswith("samdiff."))


def sources(*halves: str) -> list[Path]:
    return [file for half in halves for file in sorted((ROOT / half).rglob("*.py"))]


def test_the_law_is_about_something():
    """It reads files in rooms, so that it cannot become empty when they move."""
    assert len([file for file in sources(*ROOMS) if file.parent.parent.name in ROOMS]) > 100
    assert ("pipeline.shards.codec.decode_chunk", False) in set(imports(ROOT / "pipeline" / "shards" / "reader.py"))


@pytest.mark.parametrize("half", ROOMS)
def test_every_file_stands_in_a_room(half):
    """At most ten in each, short enough to hold one idea, and a sentence at the door."""
    there = {folder.name for folder in (ROOT / half).iterdir() if list(folder.glob("*.py"))}
    assert there == set(ROOMS[half])
    assert {file.stem for file in (ROOT / half).glob("*.py")} == BESIDE[half] | {"__init__"}
    for room in ROOMS[half]:
        files = [file for file in (ROOT / half / room).rglob("*.py") if file.name != "__init__.py"]
        assert len(files) <= MOST_FILES, (room, len(files))
        assert ast.get_docstring(ast.parse((ROOT / half / room / "__init__.py").read_text())), room
    long = {file.name: len(file.read_text().splitlines()) for file in sources(half)}
    assert not {name: lines for name, lines in long.items() if lines > MOST_LINES}


def test_the_map_shows_every_file():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for half, rooms in ROOMS.items():
        for room in rooms:
            _, _, section = page.partition(f"### `{half}/{room}/`")
            section = section.partition("\n#")[0]
            listed = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
            assert listed == {file.name for file in (ROOT / half / room).glob("*.py")} - {"__init__.py"}, room


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_above_both_halves(room):
    """Few short files, each on the map, and nothing below imports it."""
    files = [file for file in (ROOT / room).glob("*.py") if file.name != "__init__.py"]
    assert 0 < len(files) <= MOST_FILES
    assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
    assert not [
        path.name
        for path in (ROOT / room).rglob("*.*")
        if path.suffix in (".py", ".js", ".css") and len(path.read_text().splitlines()) > MOST_LINES
    ]
    _, _, section = (ROOT / "docs" / "architecture.md").read_text().partition(f"## `{room}/`")
    listed = {line.split("`")[1] for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")}
    assert listed == {file.name for file in files} | {"assets/"}
    assert not [file for file in sources(*ROOMS) for name, _ in imports(file) if name.split(".")[0] == room]


def test_commands_are_few_in_a_folder():
    for folder in (ROOT / "settings", ROOT / "commands", *(path for path in (ROOT / "commands").iterdir() if path.is_dir())):
        assert len([file for file in folder.glob("*.py") if file.name != "__init__.py"]) <= MOST_FILES


def test_imports_go_down():
    """From `model` to `pipeline`, never back; from a room to those below it; no circle of files."""
    edges: dict[str, set[str]] = {}
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sources(*ROOMS)}
    for file in sources(*ROOMS):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        half, room = room_of(module)
        for name, hint in imports(file):
            other_half, other = room_of(name)
            assert (half, other_half) != ("pipeline", "model"), (module, name)
            if half == other_half and room in ROOMS[half] and other in ROOMS[half]:
                assert ROOMS[half].index(room) <= ROOMS[half].index(other), f"{module} imports {name}, which is above it"
            if not hint:
                target = name if name in modules else name.rpartition(".")[0]
                edges.setdefault(module, set()).add(target)
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    TopologicalSorter({module: targets & modules for module, targets in edges.items()}).prepare()


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
    folders = ("pipeline", "model", "commands", "settings", *ABOVE)
    inside_of = {f: f.relative_to(ROOT) for f in tracked("*.py")}
    modules = {f"samdiff/{path.as_posix()}" for path in inside_of.values() if len(path.parts) == 1 or path.parts[0] in folders}
    data = {
        f"samdiff/{f.relative_to(ROOT).as_posix()}"
        for pattern in ("*/presets/*.toml", "pipeline/registry.toml", "report/assets/*")
        for f in tracked(pattern)
    }
    assert modules | data | {"samdiff/py.typed"} <= inside
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    dotted = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in inside if name.endswith(".py")
    )
    code = f"import importlib, samdiff; [importlib.import_module(name) for name in {dotted!r}]; print(samdiff.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))


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
    assert logging.getLogger("samdiff.model").isEnabledFor(logging.INFO)
    assert not logging.getLogger("PIL").isEnabledFor(logging.INFO)


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
        (["weights", "vit_b"], "resumes from here"),
        (["-q", "export", "a", "b", "--to", "hdf5"], "starts again"),
        (["verify", "--deep", "a"], "starts again"),
        (["info", "a"], "starts again"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 130
        assert f"the same command {promise}" in capsys.readouterr().err
