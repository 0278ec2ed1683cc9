"""What a command reads is never what it writes, what exists is replaced only on request, and nothing hidden is left behind."""

import errno
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from samdiff import load_model
from samdiff.errors import ConfigError, ImageError, SamdiffError
from samdiff.model.inference.batch import OutputConfig, list_inputs, plan_outputs, upscale_files
from samdiff.model.inference.image_io import open_image, save_image
from samdiff.model.inference.upscaler import InferConfig
from samdiff.pipeline.storage import outputs as outputs_module
from samdiff.pipeline.storage.atomic import hold, partial_name, write_atomic
from samdiff.pipeline.storage.outputs import EXISTS, Outputs, claim_outputs, look, sweep_outputs, write_output

from ...helpers.models import write_model
from ...helpers.trees import image

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


def test_another_input_is_no_output_either(model, tmp_path):
    """`a.png a_x4.png --overwrite`, by names, a pattern, a folder and a name: that job is listed, its neighbour is made."""
    save_image(image(0), tmp_path / "a.png")
    save_image(image(1), tmp_path / "a_x4.png")
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
        assert open_image(tmp_path / "a_x4_x4.png").shape == (16, 16, 3)
        (tmp_path / "a_x4_x4.png").unlink()
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "a_x4.png", tmp_path / "out" / "b_x4.png")  # the output of b is a name of the input a_x4
    save_image(image(2), tmp_path / "b.png")
    failed = make(model, [tmp_path / "b.png", tmp_path / "a_x4.png"], out=tmp_path / "out", overwrite=True)
    assert list(failed) == [str(tmp_path / "b.png")]
    assert (tmp_path / "a_x4.png").read_bytes() == (tmp_path / "out" / "b_x4.png").read_bytes() == mine


def test_an_output_is_no_input_that_is_missing_so_far(model, tmp_path):
    """`a.png a_x4.png` without an a_x4.png: what the first job would make is not read by the second."""
    save_image(image(0), tmp_path / "a.png")
    failed = make(model, [tmp_path / "a.png", tmp_path / "a_x4.png"])
    assert "is an input of this command" in failed[str(tmp_path / "a.png")]
    assert "there is no such file" in failed[str(tmp_path / "a_x4.png")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_one_name_for_two_outputs(model, tmp_path, monkeypatch):
    """Through a linked folder; on a disk that ignores case, before the work, and while writing if that could not be known."""
    save_image(image(0), tmp_path / "in" / "a.png")
    save_image(image(1), tmp_path / "in" / "A.png")
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
    assert "was written by this command before" in guard.problem(tmp_path / "out" / "A_x4.png")
    with pytest.raises(ConfigError, match="two outputs of this command are this same file"):
        claim_outputs([("--out", tmp_path / "n.png"), ("--records", tmp_path / "in" / ".." / "n.png")], [], overwrite=True)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_stays(model, tmp_path, monkeypatch, links):
    """Made by somebody else while we computed, or while we wrote; also on a disk without hard links."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    save_image(image(0), tmp_path / "a.png")
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
    assert open_image(target).shape == (16, 16, 3)


def test_partial_files_of_killed_runs_are_swept(model, tmp_path):
    """Killed for good while writing: the next run of the same target removes the hidden file, and no other."""
    save_image(image(0), tmp_path / "a.png")
    target = tmp_path / "out" / "a_x4.png"
    target.parent.mkdir()
    code = "import os, sys; from pathlib import Path; from samdiff.pipeline.storage.local import write_atomic\n"
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
    jobs = plan_outputs(list_inputs([tmp_path], "_x4"), OutputConfig(overwrite=True))
    jobs += plan_outputs(list_inputs(names, "_x4"), OutputConfig(out=tmp_path / "out"))
    assert time.process_time() - begun < 10
    assert len(jobs) == 24_000
    assert not any(job.problem for job in jobs)


def test_names_that_the_disk_refuses_are_listed(model, tmp_path):
    """An output whose name is too long is that image's reason; the others go on, those with the longest possible names too."""
    save_image(image(0), tmp_path / f"{'n' * 250}.png")
    save_image(image(1), tmp_path / f"{'a' * 246}.png")
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
    assert look(tmp_path / "circle").kind == look(tmp_path / "dead").kind == "a broken link"
    assert look(tmp_path).kind == look(".").kind == look("/").kind == look("..").kind == "a folder"
    assert Outputs([]).problem(tmp_path / "dead") == EXISTS


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    """`samdiff infer "$UNSET"` must not enlarge, and fill, whatever folder one stands in."""
    monkeypatch.chdir(tmp_path)
    save_image(image(1), Path("mine.png"))
    with pytest.raises(ConfigError, match="empty name"):
        list_inputs([""], "_x4")
    assert [path.name for path in list_inputs(["."], "_x4")] == ["mine.png"]
