"""By any command line: inputs stay, what exists is replaced on request only, and only files are replaced."""

import errno
import os
from pathlib import Path

import pytest

from samdiff import load_model
from samdiff.cli import main
from samdiff.commands.demo_steps import check_folder, write_samples
from samdiff.errors import ConfigError, SamdiffError
from samdiff.model.inference.batch import OutputConfig, list_inputs, plan_outputs, upscale_files
from samdiff.model.inference.image_io import save_image
from samdiff.model.inference.upscaler import InferConfig
from samdiff.pipeline.storage.outputs import write_output

from ...helpers.models import write_model
from ...helpers.trees import image, main_done, refused, tree

FAST = InferConfig(regress=True)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("run") / "model.safetensors")


@pytest.fixture(scope="module")
def model(model_file):
    return load_model(model_file, "cpu")


def make(model, inputs, **output):
    """Plan and do; the reasons."""
    chosen = OutputConfig(**output)
    return upscale_files(model, plan_outputs(list_inputs(inputs, chosen.suffix), chosen), FAST, chosen, lambda _: None)


def same_text(file: Path) -> Path:
    return file


def relative(file: Path) -> Path:
    return Path(os.path.relpath(file))


def through_the_folder_above(file: Path) -> Path:
    (file.parent / "sub").mkdir(exist_ok=True)
    return file.parent / "sub" / ".." / file.name


def symbolic_link(file: Path) -> Path:
    link = file.with_name(f"link{file.suffix}")
    link.symlink_to(file)
    return link


def link_to_a_link(file: Path) -> Path:
    link = file.with_name(f"second{file.suffix}")
    link.symlink_to(symbolic_link(file).name)
    return link


def hard_link(file: Path) -> Path:
    link = file.with_name(f"hard{file.suffix}")
    os.link(file, link)
    return link


def linked_folder(file: Path) -> Path:
    folder = file.parent.with_name(f"{file.parent.name}-link")
    folder.symlink_to(file.parent)
    return folder / file.name


FORMS = (same_text, relative, through_the_folder_above, symbolic_link, link_to_a_link, hard_link, linked_folder)


def commands(place: Path, file: Path, other: Path) -> dict[str, list[object]]:
    """Each command that writes, with `other` (a name of the input `file`) as its output, and --overwrite."""
    png = {
        "infer": ["infer", file, "-o", other, "--checkpoint", place / "m.safetensors"],
        "masks": ["masks", file, "-o", other],
        "masks --records": ["masks", file, "-o", place / "new.png", "--records", other],
        "compare": ["compare", place / "more.png", file, "-o", other],
        "compare --reference": ["compare", place / "more.png", "--reference", file, "-o", other],
    }
    weights = {
        "publish": ["publish", file, "-o", other, "--licence", "CC0"],
        "import-checkpoint": ["import-checkpoint", file, "-o", other],
        "masks --sam-weights": ["masks", place / "more.png", "--sam-weights", file, "--records", other],
    }
    return png if file.suffix == ".png" else weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["png", "safetensors"])
def test_an_input_is_never_an_output(form, kind, tmp_path, monkeypatch, capsys, model_file):
    """By any name of the same file, in any command, with --overwrite: refused before the work, every file as it was."""
    place = tmp_path / "in"
    save_image(image(0), place / "photo.png")
    save_image(image(1), place / "more.png")
    for name in ("photo.safetensors", "m.safetensors"):
        (place / name).write_bytes(model_file.read_bytes())
    monkeypatch.chdir(place)
    file = place / f"photo.{kind}"
    other = form(file)
    before = tree(tmp_path)
    for name, words in commands(place, file, other).items():
        said = refused(capsys, *words, "--overwrite")
        assert "is an input of this command" in said or "is the input itself" in said, (name, said)
        assert tree(tmp_path) == before, name


def test_outputs_that_exist_are_replaced_on_request_only(tmp_path, monkeypatch, capsys, model_file):
    """Every command, default names too: refused without --overwrite, also for a link to nothing; the files stay."""
    monkeypatch.chdir(tmp_path)
    save_image(image(0), tmp_path / "a.png")
    for name in ("a_x4.png", "a_masks.png", "comparison.png", "r.json", "p.safetensors", "a.imported.safetensors"):
        (tmp_path / name).write_text("mine")
    for name in ("figures.csv", "figures.json", "table.md", "rrdb.onnx", "denoiser.onnx", "schedule.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
    (tmp_path / "dead.png").symlink_to("nowhere")
    given = ["--checkpoint", model_file]
    before = tree(tmp_path)
    for words in (
        ["infer", "a.png", *given],
        ["infer", "a.png", "-o", "dead.png", *given],
        ["masks", "a.png"],
        ["masks", "a.png", "-o", "new.png", "--records", "r.json"],
        ["masks", "a.png", "-o", "dead.png"],
        ["compare", "a.png"],
        ["publish", model_file, "-o", "p.safetensors", "--licence", "CC0"],
        ["import-checkpoint", "a.png"],
        *(["evaluate", "--benchmark", ".", "-o", n, *given] for n in ("figures.csv", "figures.json", "table.md")),
        *(["export-model", "-o", name, *given] for name in ("rrdb.onnx", "denoiser.onnx", "schedule.json")),
    ):
        said = refused(capsys, *words)
        assert "exists already; give --overwrite, or another --" in said, (words, said)
        assert tree(tmp_path) == before, words
    assert refused(capsys, "masks", "a.png", "-o", "n.png", "--records", "r.json").endswith("another --records")


def test_only_files_are_replaced(tmp_path, monkeypatch, capsys, model_file):
    """A folder, FIFO or device, also behind a link, is refused with --overwrite too; the command does not wait for a reader."""
    monkeypatch.chdir(tmp_path)
    save_image(image(0), tmp_path / "a.png")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "device.png").symlink_to("/dev/null")
    (tmp_path / "pipe.png").symlink_to("fifo.png")
    before = tree(tmp_path)
    for name, kind in (("fifo.png", "a FIFO"), ("device.png", "a device"), ("pipe.png", "a FIFO"), ("folder.json", "a folder")):
        for words in (
            ["infer", "a.png", "--checkpoint", model_file, "-o", name],
            ["masks", "a.png", "-o", name],
            ["masks", "a.png", "-o", "new.png", "--records", name],
            ["compare", "a.png", "-o", name],
        ):
            if name.endswith(".png") or "--records" in words:
                assert f"{name}: is {kind}, expected a file or nothing" in refused(capsys, *words, "--overwrite"), words
    with pytest.raises(SamdiffError, match="is a FIFO"):
        write_output(tmp_path / "fifo.png", b"", overwrite=True)
    (tmp_path / "fifo_x4.png").write_text("mine")  # the FIFO as an input, which an interrupted run would compare
    assert "no regular file" in make(load_model(model_file, "cpu"), ["fifo.png", "a.png"])["fifo.png"]
    assert tree(tmp_path).items() >= before.items()


def test_a_folder_that_is_a_file_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    """Where files go into a folder, at any depth; nothing is loaded for it."""
    monkeypatch.setattr("samdiff.model.inference.upscaler.SuperResolver.upscale", None)
    monkeypatch.setattr("samdiff.model.export.onnx_export._write", None)
    save_image(image(0, 32, 32, 3), tmp_path / "set" / "x.png")
    (tmp_path / "file").write_text("mine")
    given = ["--checkpoint", write_model(tmp_path / "m.safetensors")]
    before = tree(tmp_path)
    for out in (tmp_path / "file", tmp_path / "file" / "deep"):
        for words in (
            ["evaluate", "--benchmark", tmp_path / "set", "-o", out, *given],
            ["export-model", "-o", out, *given],
            ["compare", tmp_path / "set" / "x.png", "-o", out / "sheet.png"],
            ["masks", tmp_path / "set" / "x.png", "-o", out / "drawing.png"],
            ["publish", given[1], "-o", out / "p.safetensors", "--licence", "CC0"],
            ["demo", "--folder", out],
        ):
            said = refused(capsys, *words)
            assert f"cannot be written ({tmp_path / 'file'} is not a folder); give another --" in said, words
            assert tree(tmp_path) == before
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "photos").write_text("mine")
    assert "photos is not a folder); give another --folder" in refused(capsys, "demo", "--folder", tmp_path / "demo")


def test_the_checkpoint_is_an_input(model_file, tmp_path, capsys):
    """An output that is a name of it."""
    save_image(image(0), tmp_path / "a.png")
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(model_file.read_bytes())
    os.link(run / "model.safetensors", tmp_path / "a_x4.png")
    for given in (run, run / "model.safetensors"):
        said = refused(capsys, "infer", tmp_path / "a.png", "--checkpoint", given, "--overwrite")
        assert "is an input of this command" in said
    assert "is an input" in refused(capsys, "publish", run, "-o", run / "model.safetensors", "--licence", "x", "--overwrite")


def test_evaluate_writes_over_nothing(tmp_path, monkeypatch, capsys, model_file):
    """Each of its files; saved results that are the benchmark, or two of one name; figures are there before the files are."""
    save_image(image(0, 32, 32, 3), tmp_path / "set" / "x.png")
    words = ["evaluate", "--benchmark", tmp_path / "set", "--checkpoint", model_file, "--steps", "1", "-o"]
    for name in ("figures.csv", "figures.json", "table.md"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        assert f"{name}/{name}: exists already" in refused(capsys, *words, tmp_path / name)
    saved = tmp_path / "out" / "pictures" / "set" / "x_samdiff-seed0.png"
    save_image(image(1), saved)
    before = tree(tmp_path)
    assert "x_samdiff-seed0.png: exists already" in refused(capsys, *words, tmp_path / "out", "--save")
    assert tree(tmp_path) == before
    main_done([*words, tmp_path / "out"])  # without --save these files are none of its outputs
    assert saved.read_bytes() == before["out/pictures/set/x_samdiff-seed0.png"]
    os.link(tmp_path / "set" / "x.png", tmp_path / "table.txt")
    saved.unlink()
    os.link(tmp_path / "set" / "x.png", saved)
    assert "is an input of this command" in refused(capsys, *words, tmp_path / "out", "--save", "--overwrite")
    saved.unlink()
    save_image(image(2, 32, 32, 3), tmp_path / "set" / "x.webp")
    main_done([*words, tmp_path / "new", "--save"])  # two images of one stem keep their suffixes apart
    results = {path.name for path in (tmp_path / "new" / "pictures" / "set").iterdir()}
    assert {"x.png_samdiff-seed0.png", "x.webp_samdiff-seed0.png"} <= results


def test_export_model_writes_whole_files_only(model, tmp_path, capsys, monkeypatch):
    """A failure in the middle leaves the folder as it was; files that exist are replaced on request."""
    pytest.importorskip("onnxscript")
    from samdiff.model.export import onnx_export as export

    def broken(*_):
        raise OSError(errno.ENOSPC, "no space")

    (tmp_path / "schedule.json").write_text("mine")
    with pytest.raises(ConfigError, match="schedule.json: exists already"):
        export.export_onnx(model, tmp_path)
    monkeypatch.setattr(export, "_write", broken)
    with pytest.raises((OSError, SamdiffError), match="no space"):
        export.export_onnx(model, tmp_path, overwrite=True)
    assert tree(tmp_path) == {"schedule.json": b"mine"}
    monkeypatch.setattr(export, "_write", lambda _, files: [file.write_bytes(b"one") for file in files])
    export.export_onnx(model, tmp_path, overwrite=True)
    assert sorted(tree(tmp_path)) == ["denoiser.onnx", "rrdb.onnx", "schedule.json"]


def test_the_demo_replaces_its_own_files_only(model, tmp_path):
    """Somebody's photos, results or sheet of its names; a FIFO; a second demo finds its own files and leaves photographs untouched."""
    photographs = {"photos/a.png": image(0), "held_out_lr.png": image(1)}
    check_folder(tmp_path / "demo", photographs, False)
    write_samples(tmp_path / "demo", photographs)
    first = tree(tmp_path)
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.png"))]
    make(model, [tmp_path / "demo" / "held_out_lr.png"], out=tmp_path / "demo" / "result.png")
    check_folder(tmp_path / "demo", photographs, False)
    write_samples(tmp_path / "demo", photographs)
    (tmp_path / "demo" / "result.png").unlink()
    assert tree(tmp_path) == first
    assert times == [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.png"))]
    for name in ("photos/a.png", "held_out_lr.png", "shipped.png", "result.png", "rrdb.png", "sheet.png"):
        place = tmp_path / name.replace("/", "-")
        for content in (b"mine", (tmp_path / "demo" / "photos" / "a.png").read_bytes() if "a.png" not in name else b""):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
            with pytest.raises(ConfigError, match=f"{name}: exists already and was not written by this demo"):
                check_folder(place, photographs, False)
            check_folder(place, photographs, True)
            assert (place / name).read_bytes() == content
    os.mkfifo(tmp_path / "demo" / "sheet.png")
    with pytest.raises(ConfigError, match="is a FIFO"):
        check_folder(tmp_path / "demo", photographs, True)


def test_a_folders_images_are_replaced_if_samdiff_made_them(model_file, tmp_path, capsys):
    """`infer folder --overwrite` with somebody's own a_x4.png beside a.png: listed; our result of an earlier run is made anew."""
    folder = tmp_path / "in"
    save_image(image(0), folder / "a.png")
    save_image(image(1), folder / "b.png")
    save_image(image(2), folder / "a_x4.png")
    mine = (folder / "a_x4.png").read_bytes()
    words = ["infer", folder, "--checkpoint", model_file, "--regress", "--overwrite"]
    for kind in ("png", "jpg", "webp"):
        for seed in range(2):
            with pytest.raises(SystemExit) as stopped:
                main([str(word) for word in (*words, "--format", kind, "--seed", seed)])
            assert stopped.value.code == (3 if kind == "png" else 0)
            said = capsys.readouterr().err
            assert ("a_x4.png is an input of this command" in said) == (kind == "png"), said
            assert "b_x4" not in said
        assert (folder / "a_x4.png").read_bytes() == mine
