"""`samdiff distill`: a student starts from bicubic, learns, resumes bit for bit, and is a model like others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samdiff import load_model, open_store
from samdiff.cli import main
from samdiff.errors import BusyError, CheckpointError, ConfigError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.checkpoints.publish import default_checkpoint
from samdiff.model.config import load_config
from samdiff.model.distillation.run import distill
from samdiff.model.distillation.task import Teacher
from samdiff.model.inference.upscaler import load_diffusion
from samdiff.model.networks.base_image import bicubic_kernel
from samdiff.model.networks.student import Student
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.pipeline.storage.lock import take_lock

from ...helpers.models import STUDENT, write_model
from ...helpers.stores import make_store

CPU = torch.device("cpu")
SETS = (
    *STUDENT, "train.patch=12", "train.batch=4", "train.steps=6", "train.log_every=1", "train.checkpoint_every=2", "train.lr=1e-3",
    "train.warmup=0", "train.num_workers=0", "validate.every=0", "student.teacher_share=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("teacher") / "m.safetensors")


def run(folder: Path, name: str, teacher: Path, *sets: str, **more) -> Path:
    store = folder / "a.zarr"
    if not store.exists():
        make_store(store)
    config = load_config("student", sets=[*SETS, *sets])
    return distill(teacher, [open_store(store)], folder / name, config, device=CPU, **more)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if "loss" in line]


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_an_untrained_student_is_bicubic(scale):
    """Away from the borders, where MATLAB mirrors and the student repeats the last pixel, within MATLAB's rounding between its passes."""
    lr = np.random.default_rng(0).integers(80, 176, (12, 15, 3), np.uint8)
    student = Student(8, 2, scale)
    out = student(torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert out.shape == (1, 3, 12 * scale, 15 * scale)
    pixels = ((out[0].detach().permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).numpy()
    inner = slice(2 * scale, -2 * scale)
    bicubic = lr if scale == 1 else imresize(lr, scale)
    assert np.abs(pixels - bicubic)[inner, inner].max() < 1.6
    assert torch.allclose(bicubic_kernel(scale).sum((1, 2, 3)), torch.ones(3 * scale**2), atol=1e-6)


def test_resume_equals_an_uninterrupted_run(tmp_path, teacher):
    """Stopped after 2 of 6 steps and resumed: the same weights and the same losses, bit for bit; the teacher's share counts."""
    whole = run(tmp_path, "whole", teacher)
    run(tmp_path, "parts", teacher, "train.steps=2")
    parts = run(tmp_path, "parts", teacher)
    first, second = (load_checkpoint(file, "student") for file in (whole, parts))
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    without = run(tmp_path, "without", teacher, "student.teacher_share=0")
    assert losses(tmp_path / "without")[0] < losses(tmp_path / "whole")[0]
    assert not torch.equal(load_checkpoint(without).tensors["student.last.bias"], first.tensors["student.last.bias"])


def test_a_finished_run_keeps_its_record(tmp_path, teacher):
    """Settings that are changed after the last step are reported, not recorded; a lock in the folder is named after the command."""
    run(tmp_path, "r", teacher)
    before, reported = (tmp_path / "r" / "config.json").read_bytes(), []
    run(tmp_path, "r", teacher, "student.teacher_share=0", "train.steps=5", report=reported.append)
    assert "not changed, since the run is finished: student.teacher_share: was 0.5, now 0.0" in reported
    assert any(line.startswith("student: already finished, 6 steps; nothing to do") for line in reported)
    assert (tmp_path / "r" / "config.json").read_bytes() == before
    with take_lock(tmp_path / "r" / "lock", "x", "x"), pytest.raises(BusyError, match="another `samdiff distill` is running"):
        run(tmp_path, "r", teacher)


def test_the_loss_falls_and_ends_the_phase_with_a_perceptual_one(tmp_path, teacher, monkeypatch):
    """L1 to HR falls; the second phase adds the distance to HR, here the mean square, on a part of the samples."""
    run(tmp_path, "r", teacher, "train.steps=60", "train.lr=3e-3", "student.teacher_share=0", "train.log_every=10")
    found = losses(tmp_path / "r")
    assert found[-1] < 0.9 * found[0]
    for place in ("task", "run"):
        monkeypatch.setattr(
            f"samdiff.model.distillation.{place}.load_distance", lambda *_: lambda a, b: 100 + (a - b).square().mean((1, 2, 3))
        )
    sets = ("loss.perceptual=lpips", "loss.begin=0.5", "student.teacher_share=0")
    run(tmp_path, "p", teacher, *sets)
    found = losses(tmp_path / "p")
    assert max(found[:3]) < 10 < 100 < min(found[3:])
    assert not (tmp_path / "p" / "best.safetensors").exists()


def test_the_teacher_is_its_rrdb_or_the_mean_of_samples(teacher):
    model = load_diffusion(teacher, CPU)
    lr = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(Teacher(model, 0).images(lr, torch.arange(2)), model.rrdb(lr).clamp(-1, 1))
    several = Teacher(model, 3)
    first, again, other = (several.images(lr[:1], torch.tensor([seed])) for seed in (4, 4, 5))
    assert first.shape == (1, 3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_student_is_a_model_like_others(tmp_path, teacher, monkeypatch, capsys):
    """The command trains it; infer, evaluate and publish take its run; it is not the default of infer."""
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "a.zarr")
    image = np.random.default_rng(0).integers(0, 256, (48, 52, 3), np.uint8)
    (tmp_path / "set").mkdir()
    Image.fromarray(image).save(tmp_path / "set" / "x.png")
    sets = [word for each in SETS for word in ("--set", each)]

    def command(*words: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main([*words])
        return stopped.value.code or 0

    assert (
        command(
            "distill",
            str(teacher),
            "--store",
            "a.zarr",
            "-o",
            "runs/s",
            *sets,
            "--set",
            "validate.every=3",
            "--benchmark",
            "set",
        )
        == 0
    )
    assert command("infer", "set/x.png", "--checkpoint", "runs/s", "-o", "out.png", "--tile", "40") == 0
    assert Image.open("out.png").size == (208, 192)
    assert command("evaluate", "--benchmark", "set", "--checkpoint", "runs/s", "-o", "ev") == 0
    table = (tmp_path / "ev" / "table.md").read_text()
    assert "| samdiff |" in table
    assert "rrdb" not in table
    assert "ldl" not in table
    assert command("publish", "runs/s", "-o", "s.safetensors", "--licence", "CC0-1.0") == 0
    published = load_checkpoint(tmp_path / "s.safetensors", "student")
    assert published.facts["licence"] == "CC0-1.0"
    assert "teacher" not in published.config
    assert load_model("s.safetensors", "cpu").upscale(image).shape == (192, 208, 3)
    assert "is a student of another model" in default_checkpoint()[1]
    capsys.readouterr()
    assert command("infer", "set/x.png", "--checkpoint", "runs/s", "--steps", "4") == 2
    assert "network of one step, without sampling; leave steps out" in capsys.readouterr().err
    assert command("evaluate", "--benchmark", "set", "--checkpoint", "runs/s", "--seeds", "3", "-o", "e2") == 2
    capsys.readouterr()
    assert command("train", "a.zarr", "--preset", "student") == 2
    assert "a student is trained by `samdiff distill`" in capsys.readouterr().err


def test_tiles_give_the_result_of_the_whole(tmp_path, teacher):
    model = load_model(run(tmp_path, "r", teacher, "train.lr=0.01"), "cpu")
    image = np.random.default_rng(1).integers(0, 256, (61, 47, 3), np.uint8)
    whole, tiled = model.upscale(image, tile=0), model.upscale(image, tile=40)
    assert np.abs(whole.astype(int) - tiled).max() <= 1  # the overlap is longer than the receptive field


def test_start_and_what_does_not_fit(tmp_path, teacher):
    first = run(tmp_path, "r", teacher)
    again = run(tmp_path, "again", teacher, "train.steps=0", start=first)
    ours, theirs = (load_checkpoint(file).tensors["student.first.weight"] for file in (first, again))
    assert torch.equal(ours, theirs)
    with pytest.raises(CheckpointError, match="of another shape"):
        run(tmp_path, "wide", teacher, "student.width=16", start=first)
    with pytest.raises(CheckpointError, match="expected a checkpoint of kind 'diffusion', got 'student'"):
        run(tmp_path, "of_student", first)
    with pytest.raises(ConfigError, match="student.layers: expected at least 1"):
        run(tmp_path, "none", teacher, "student.layers=0")
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        run(tmp_path, "r", teacher, "student.width=16")
    with pytest.raises(ConfigError, match="no auxiliary head"):
        run(tmp_path, "aux", teacher, "loss.auxiliary=e")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "again", "r"]
