"""What a command reads is never what it writes, what exists is replaced only on request, and nothing hidden is left behind."""

import errno
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from samdiff import load_model
from samdiff.cli import main
from samdiff.demo import check_folder, write_photographs
from samdiff.errors import ConfigError, ImageError, SamdiffError
from samdiff.model import outputs as outputs_module
from samdiff.model.batch import OutputSettings, list_inputs, plan_outputs, upscale_files
from samdiff.model.infer import InferSettings
from samdiff.model.outputs import EXISTS, Outputs, claim_outputs, look, sweep_outputs, write_output
from samdiff.model.pictures import open_picture, save_picture
from samdiff.pipeline.keystore import hold, partial_name, write_atomic

from .models import write_model

FAST = InferSettings(regress=True)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("run") / "model.safetensors")


@pytest.fixture(scope="module")
def model(model_file):
    return load_model(model_file, "cpu")


def image(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (4, 4, 3), dtype=np.uint8)


def make(model, inputs, **output):
    """Plan and do; the reasons."""
    chosen = OutputSettings(**output)
    return upscale_files(model, plan_outputs(list_inputs(inputs, chosen.suffix), chosen), FAST, chosen, lambda _: None)


def tree(folder: Path) -> dict[str, object]:
    """Every name below a folder, with its content, or what it is."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else path.stat().st_mode
    return found


def refused(capsys, *words: object) -> str:
    """The one line of a command that is refused."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    said = capsys.readouterr().err
    assert stopped.value.code in (1, 2), said
    assert "Traceback" not in said
    return said.splitlines()[-1]


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
        "masks --json": ["masks", file, "-o", place / "new.png", "--json", other],
        "compare": ["compare", place / "more.png", file, "-o", other],
        "compare --reference": ["compare", place / "more.png", "--reference", file, "-o", other],
    }
    weights = {
        "publish": ["publish", file, "-o", other, "--licence", "CC0"],
        "import-checkpoint": ["import-checkpoint", file, "-o", other],
        "masks --sam-weights": ["masks", place / "more.png", "--sam-weights", file, "--json", other],
    }
    return png if file.suffix == ".png" else weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["png", "safetensors"])
def test_an_input_is_never_an_output(form, kind, tmp_path, monkeypatch, capsys, model_file):
    """By any name of the same file, in any command, with --overwrite: refused before the work, every file as it was."""
    place = tmp_path / "in"
    save_picture(image(0), place / "photo.png")
    save_picture(image(1), place / "more.png")
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
    save_picture(image(0), tmp_path / "a.png")
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
        ["masks", "a.png", "-o", "new.png", "--json", "r.json"],
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
    assert refused(capsys, "masks", "a.png", "-o", "n.png", "--json", "r.json").endswith("another --json")


def test_only_files_are_replaced(tmp_path, monkeypatch, capsys, model_file):
    """A folder, FIFO or device, also behind a link, is refused with --overwrite too; the command does not wait for a reader."""
    monkeypatch.chdir(tmp_path)
    save_picture(image(0), tmp_path / "a.png")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "device.png").symlink_to("/dev/null")
    (tmp_path / "pipe.png").symlink_to("fifo.png")
    before = tree(tmp_path)
    for name, kind in (("fifo.png", "a FIFO"), ("device.png", "a device"), ("pipe.png", "a FIFO"), ("folder.json", "a folder")):
        for words in (
            ["infer", "a.png", "--checkpoint", model_file, "-o", name],
            ["masks", "a.png", "-o", name],
            ["masks", "a.png", "-o", "new.png", "--json", name],
            ["compare", "a.png", "-o", name],
        ):
            if name.endswith(".png") or "--json" in words:
                assert f"{name}: is {kind}, expected a file or nothing" in refused(capsys, *words, "--overwrite"), words
    with pytest.raises(SamdiffError, match="is a FIFO"):
        write_output(tmp_path / "fifo.png", b"", overwrite=True)
    (tmp_path / "fifo_x4.png").write_text("mine")  # the FIFO as an input, which an interrupted run would compare
    assert "no regular file" in make(load_model(model_file, "cpu"), ["fifo.png", "a.png"])["fifo.png"]
    assert tree(tmp_path).items() >= before.items()


def test_a_folder_that_is_a_file_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    """Where files go into a folder, at any depth; nothing is loaded for it."""
    monkeypatch.setattr("samdiff.model.infer.SuperResolver.upscale", None)
    monkeypatch.setattr("samdiff.model.export._networks", None)
    save_picture(image(0, 32, 32, 3), tmp_path / "set" / "x.png")
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
            assert f"cannot be written ({tmp_path / 'file'} is no folder); give another --" in said, words
            assert tree(tmp_path) == before
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "photos").write_text("mine")
    assert "photos is no folder); give another --folder" in refused(capsys, "demo", "--folder", tmp_path / "demo")


def test_another_input_is_no_output_either(model, tmp_path):
    """`a.png a_x4.png --overwrite`, by names, a pattern, a folder and a name: that job is listed, its neighbour is made."""
    save_picture(image(0), tmp_path / "a.png")
    save_picture(image(1), tmp_path / "a_x4.png")
    mine = (tmp_path / "a_x4.png").read_bytes()
    for inputs in (
        [tmp_path / "a.png", tmp_path / "a_x4.png"],
        [tmp_path / "a_x4.png", tmp_path / "a.png"],
        [str(tmp_path / "a*.png")],
        [tmp_path, tmp_path / "a_x4.png"],
    ):
        failed = make(model, inputs, overwrite=True)
        assert list(failed) == [str(tmp_path / "a.png")], inputs
        assert "is an input of this command" in failed[str(tmp_path / "a.png")]
        assert (tmp_path / "a_x4.png").read_bytes() == mine
        assert open_picture(tmp_path / "a_x4_x4.png").shape == (16, 16, 3)
        (tmp_path / "a_x4_x4.png").unlink()
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "a_x4.png", tmp_path / "out" / "b_x4.png")  # the output of b is a name of the input a_x4
    save_picture(image(2), tmp_path / "b.png")
    failed = make(model, [tmp_path / "b.png", tmp_path / "a_x4.png"], out=tmp_path / "out", overwrite=True)
    assert list(failed) == [str(tmp_path / "b.png")]
    assert (tmp_path / "a_x4.png").read_bytes() == (tmp_path / "out" / "b_x4.png").read_bytes() == mine


def test_a_folders_images_are_replaced_if_samdiff_made_them(model_file, tmp_path, capsys):
    """`infer folder --overwrite` with somebody's own a_x4.png beside a.png: listed; our result of an earlier run is made anew."""
    folder = tmp_path / "in"
    save_picture(image(0), folder / "a.png")
    save_picture(image(1), folder / "b.png")
    save_picture(image(2), folder / "a_x4.png")
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


def test_an_output_is_no_input_that_is_missing_so_far(model, tmp_path):
    """`a.png a_x4.png` without an a_x4.png: what the first job would make is not read by the second."""
    save_picture(image(0), tmp_path / "a.png")
    failed = make(model, [tmp_path / "a.png", tmp_path / "a_x4.png"])
    assert "is an input of this command" in failed[str(tmp_path / "a.png")]
    assert "there is no such file" in failed[str(tmp_path / "a_x4.png")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_checkpoint_is_an_input(model_file, tmp_path, capsys):
    """An output that is a name of it."""
    save_picture(image(0), tmp_path / "a.png")
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(model_file.read_bytes())
    os.link(run / "model.safetensors", tmp_path / "a_x4.png")
    for given in (run, run / "model.safetensors"):
        said = refused(capsys, "infer", tmp_path / "a.png", "--checkpoint", given, "--overwrite")
        assert "is an input of this command" in said
    assert "is an input" in refused(capsys, "publish", run, "-o", run / "model.safetensors", "--licence", "x", "--overwrite")


def test_one_name_for_two_outputs(model, tmp_path, monkeypatch):
    """Through a linked folder; on a disk that ignores case, before the work, and while writing if that could not be known."""
    save_picture(image(0), tmp_path / "in" / "a.png")
    save_picture(image(1), tmp_path / "in" / "A.png")
    failed = make(model, [tmp_path / "in"], out=tmp_path / "out")
    both = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert (failed, both) == ({}, ["A_x4.png", "a_x4.png"])  # here they are two
    assert not list(tmp_path.rglob(".samdiff-*"))
    (tmp_path / "link").symlink_to("in")
    assert (
        len(list_inputs([tmp_path / "in" / "a.png", tmp_path / "link" / "a.png", tmp_path / "in" / ".." / "in" / "a.png"], ""))
        == 1
    )
    guard = Outputs([], overwrite=True)
    assert guard.clash([tmp_path / "in" / "x.png", tmp_path / "link" / "x.png"]) == tmp_path / "link" / "x.png"
    assert guard.clash([tmp_path / "in" / "x.png", tmp_path / "out" / "x.png"]) is None
    with monkeypatch.context() as ignoring:
        ignoring.setattr(outputs_module, "_one_name", lambda *_: True)
        with pytest.raises(ConfigError, match="would both become"):
            make(model, [tmp_path / "in"], out=tmp_path / "out", overwrite=True)
    guard.wrote(tmp_path / "out" / "a_x4.png")
    (tmp_path / "out" / "A_x4.png").unlink()
    os.link(tmp_path / "out" / "a_x4.png", tmp_path / "out" / "A_x4.png")  # as such a disk shows it
    assert "was written by this command before" in guard.trouble(tmp_path / "out" / "A_x4.png")
    with pytest.raises(ConfigError, match="would go to this one file"):
        claim_outputs([("--out", tmp_path / "n.png"), ("--json", tmp_path / "in" / ".." / "n.png")], [], overwrite=True)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_stays(model, tmp_path, monkeypatch, links):
    """Made by somebody else while we computed, or while we wrote; also on a disk without hard links."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    save_picture(image(0), tmp_path / "a.png")
    target = tmp_path / "a_x4.png"
    real = model.upscale

    def upscale(*arguments, **named):
        target.write_text("mine")
        return real(*arguments, **named)

    monkeypatch.setattr(model, "upscale", upscale)
    with pytest.raises(ImageError, match="exists already; give --overwrite"):
        make(model, [tmp_path / "a.png"])
    with pytest.raises(FileExistsError):
        write_atomic(target, b"ours", replace=False)
    with pytest.raises(SamdiffError, match="exists already"):
        write_output(target, b"ours", overwrite=False)
    assert target.read_text() == "mine"
    write_atomic(tmp_path / "new", b"ours", replace=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_x4.png", "new"]
    monkeypatch.setattr(model, "upscale", real)
    assert make(model, [tmp_path / "a.png"], overwrite=True) == {}
    assert open_picture(target).shape == (16, 16, 3)


def test_evaluate_writes_over_nothing(tmp_path, monkeypatch, capsys, model_file):
    """Each of its files; saved results that are the benchmark, or two of one name; figures are there before the files are."""
    save_picture(image(0, 32, 32, 3), tmp_path / "set" / "x.png")
    words = ["evaluate", "--benchmark", tmp_path / "set", "--checkpoint", model_file, "--steps", "1", "-o"]
    for name in ("figures.csv", "figures.json", "table.md"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        assert f"{name}/{name}: exists already" in refused(capsys, *words, tmp_path / name)
    saved = tmp_path / "out" / "pictures" / "set" / "x_samdiff-seed0.png"
    save_picture(image(1), saved)
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
    save_picture(image(2, 32, 32, 3), tmp_path / "set" / "x.webp")
    assert "would go to this one file" in refused(capsys, *words, tmp_path / "new", "--save")
    assert not (tmp_path / "new").exists()


def main_done(words: list[object]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code in (0, None)


def test_export_model_writes_whole_files_only(model, tmp_path, capsys, monkeypatch):
    """A failure in the middle leaves the folder as it was; files that exist are replaced on request."""
    pytest.importorskip("onnxscript")
    from samdiff.model import export

    def broken(*_):
        raise OSError(errno.ENOSPC, "no space")

    (tmp_path / "schedule.json").write_text("mine")
    with pytest.raises(ConfigError, match="schedule.json: exists already"):
        export.export_onnx(model, tmp_path)
    monkeypatch.setattr(export, "_networks", broken)
    with pytest.raises(OSError, match="no space"):
        export.export_onnx(model, tmp_path, overwrite=True)
    assert tree(tmp_path) == {"schedule.json": b"mine"}
    monkeypatch.setattr(export, "_networks", lambda *_: [b"one", b"two"])
    export.export_onnx(model, tmp_path, overwrite=True)
    assert sorted(tree(tmp_path)) == ["denoiser.onnx", "rrdb.onnx", "schedule.json"]


def test_the_demo_replaces_its_own_files_only(model, tmp_path):
    """Somebody's photos, results or sheet of its names; a FIFO; a second demo finds its own files and leaves photographs untouched."""
    photographs = {"photos/a.png": image(0), "held_out_lr.png": image(1)}
    check_folder(tmp_path / "demo", photographs, False)
    write_photographs(tmp_path / "demo", photographs)
    first = tree(tmp_path)
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.png"))]
    make(model, [tmp_path / "demo" / "held_out_lr.png"], out=tmp_path / "demo" / "result.png")
    check_folder(tmp_path / "demo", photographs, False)
    write_photographs(tmp_path / "demo", photographs)
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


def test_partial_files_of_killed_runs_are_swept(model, tmp_path):
    """Killed for good while writing: the next run of the same target removes the hidden file, and no other."""
    save_picture(image(0), tmp_path / "a.png")
    target = tmp_path / "out" / "a_x4.png"
    target.parent.mkdir()
    code = "import os, sys; from pathlib import Path; from samdiff.pipeline.keystore import write_atomic\n"
    code += "os.fsync = lambda _: os.kill(os.getpid(), 9)\nwrite_atomic(Path(sys.argv[1]), b'x' * 1000, replace=False)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    died = subprocess.run([sys.executable, "-c", code, str(target)], check=False, env=environment)
    assert died.returncode == -signal.SIGKILL
    (left,) = target.parent.iterdir()
    assert left.name.startswith(".a_x4.png.")
    number = uuid.uuid4().hex
    for name in (
        ".a_x4.png.partial",
        f"a_x4.png.{number}.partial",
        f".a_x4.png.{number[1:]}.partial",
        f".a_x4.png.{number}.partial.bak",
        f".b_x4.png.{number}.partial",
        f".a_x4.png.{number.upper()}A.partial",
    ):
        (target.parent / name).write_text("mine")
    (target.parent / f".a_x4.png.{uuid.uuid4().hex}.partial").mkdir()
    (target.parent / f".a_x4.png.{uuid.uuid4().hex}.partial").symlink_to(tmp_path / "a.png")
    mine = set(target.parent.iterdir()) - {left}
    busy = target.parent / f".a_x4.png.{uuid.uuid4().hex}.partial"
    with open(busy, "w") as writer:
        assert hold(writer)
        assert make(model, [tmp_path / "a.png"], out=tmp_path / "out") == {}
        assert set(target.parent.iterdir()) == mine | {target, busy}
    assert sweep_outputs([target]) == 1
    assert set(target.parent.iterdir()) == mine | {target}


def test_planning_takes_linear_time(tmp_path):
    """12,000 images in the time of a few system calls each; a quadratic plan takes half a minute here."""
    names = [tmp_path / f"{n:05d}.png" for n in range(12_000)]
    for name in names:
        name.touch()
    begun = time.process_time()
    jobs = plan_outputs(list_inputs([tmp_path], "_x4"), OutputSettings(overwrite=True))
    jobs += plan_outputs(list_inputs(names, "_x4"), OutputSettings(out=tmp_path / "out"))
    assert time.process_time() - begun < 10
    assert len(jobs) == 24_000
    assert not any(job.trouble for job in jobs)


def test_names_that_the_disk_refuses_are_listed(model, tmp_path):
    """An output whose name is too long is that image's reason; the others go on, those with the longest possible names too."""
    save_picture(image(0), tmp_path / f"{'n' * 250}.png")
    save_picture(image(1), tmp_path / f"{'a' * 246}.png")
    failed = make(model, [tmp_path], suffix="_long", out=tmp_path / "out")
    assert [Path(name).name for name in failed] == [f"{'n' * 250}.png"]
    assert "cannot be written (File name too long)" in next(iter(failed.values()))
    target = tmp_path / "out" / f"{'a' * 246}_long.png"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [target.name]
    (tmp_path / "out" / partial_name(target.name)).touch()
    assert sweep_outputs([target]) == 1


def test_looking_opens_nothing(tmp_path):
    """A path's kinds and keys; links in circles and to nothing are links to nothing."""
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "dead").symlink_to("nowhere")
    assert look(tmp_path / "none").kind == "nothing"
    assert look(tmp_path / "none" / "deep").kind == "nothing"
    assert look(tmp_path / "circle").kind == look(tmp_path / "dead").kind == "a link to nothing"
    assert look(tmp_path).kind == look(".").kind == look("/").kind == look("..").kind == "a folder"
    assert Outputs([]).trouble(tmp_path / "dead") == EXISTS
