"""Settings with their mistakes named, rates and averages, checkpoints that are whole or refused."""

import os

import pytest
import torch

from samdiff.errors import CheckpointError, ConfigError
from samdiff.model.checkpoints.format import load_checkpoint, save_checkpoint
from samdiff.model.config import load_config
from samdiff.model.training.optimizer import ema_decay, learning_rate

from ...helpers.models import small_rrdb
from .test_train import config, run


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("train.patch=14", "multiple of 4"),
        ("train.patch=48", "up to the tile size 24"),
        ("train.batch=0", "batch: expected at least 1"),
        ("train.lrr=1", r"unknown setting train.lrr \(did you mean 'lr'\?\)"),
        ("modell.width=3", r"unknown setting modell \(did you mean 'model'\?\)"),
        ("train.lr=fast", "train.lr: expected float, got 'fast'"),
        ("model.multipliers=4", r"expected a list such as \[1, 2, 3\]"),
        ("train.lr=nan", "train.lr: expected a finite number, got nan"),
        ("validate.sampler=zz", "sampler: expected one of ddpm"),
        ("validate.sampler=paper", "sampler 'paper' with modulation 'official'"),
        ("train=3", "expected section.key=value"),
        ("validate.evry=3", r"did you mean 'every'"),
        ("train.compile=1", "train.compile: expected bool, got 1"),
        ("diffusion.loss=l3", r"expected one of l1, l2, got 'l3'"),
    ],
)
def test_wrong_settings_are_named(tmp_path, setting, match):
    with pytest.raises(ConfigError, match=match):
        run(tmp_path, "r", setting)
    assert not (tmp_path / "r").exists()


def test_presets_and_files(tmp_path):
    """Preset < file < --set; a resolved configuration builds itself again; unknown presets and broken files are named."""
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nlr = 3e-4\nbatch = 8\n")
    settings = load_config("small", file, ["train.batch=2"])
    assert (settings.model.width, settings.train.lr, settings.train.batch, settings.train.patch) == (48, 3e-4, 2, 96)
    with pytest.raises(ConfigError, match=r"got 'smal' \(did you mean 'small'\?\)"):
        load_config("smal")
    file.write_text("[train\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config("small", file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("small", tmp_path / "none.toml")


def test_rates_and_averages():
    """Halved on time after a linear warm-up; the average's decay grows to its bound."""
    settings = config("train.lr=1e-3", "train.halve_every=100", "train.warmup=10").train
    cosine = config("train.lr=1e-3", "train.lr_schedule=cosine").train
    assert [learning_rate(step, cosine, 100) for step in (0, 50, 100)] == pytest.approx([1e-3, 5e-4, 0])
    assert [learning_rate(step, settings, 1000) for step in (0, 9, 99, 100, 250)] == pytest.approx(
        [1e-4, 1e-3, 1e-3, 5e-4, 2.5e-4]
    )
    assert [ema_decay(1, 0.99), ema_decay(10_000, 0.99), ema_decay(5, 0.0)] == [2 / 11, 0.99, 0.0]


def test_checkpoints_are_whole_or_refused(tmp_path):
    """Round trip; text, a cut file, foreign weights, a newer format, another kind."""
    path = tmp_path / "m.safetensors"
    given = small_rrdb()
    save_checkpoint(path, given)
    result = load_checkpoint(path, kind="rrdb")
    assert result.tensors.keys() == given.tensors.keys()
    assert all(torch.equal(result.tensors[name], value) for name, value in given.tensors.items())
    assert (result.config, result.facts) == (given.config, {"step": 3})
    with pytest.raises(CheckpointError, match="expected a checkpoint of kind 'diffusion', got 'rrdb'"):
        load_checkpoint(path, kind="diffusion")
    data = path.read_bytes()
    for broken, match in (
        (data[: len(data) - 5], "not a readable safetensors file"),
        (b"hello", "not a readable safetensors file"),
        (data.replace(b'"format_version":"1"', b'"format_version":"9"'), "expected checkpoint format 1, got 9"),
        (data.replace(b"samdiff-checkpoint", b"somebody-elses-own"), "without samdiff's header"),
    ):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(path)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    """A failed save leaves the older file whole and no partial one."""
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, small_rrdb(0.0))
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\).*earlier files are unchanged"):
        save_checkpoint(path, small_rrdb(1.0))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
