"""`infer --model`: the models that come with samdiff, by the kind of image."""

import json

import numpy as np
import pytest
from skimage import data

from samdiff import load_model
from samdiff.cli import main
from samdiff.model.checkpoints.format import SHIPPED_MODELS, SHIPPED_STUDENT, load_checkpoint
from samdiff.model.evaluation.metrics import psnr_y
from samdiff.model.infer_config import SHIPPED_FOR
from samdiff.pipeline.degrade.imresize import imresize


def test_every_kind_has_a_model():
    assert set(SHIPPED_FOR.values()) == set(SHIPPED_MODELS)


@pytest.mark.parametrize("name", [name for name in SHIPPED_MODELS if name != SHIPPED_STUDENT])
def test_each_is_a_small_model_with_a_licence(name):
    assert SHIPPED_MODELS[name].stat().st_size <= 6_000_000
    checkpoint = load_checkpoint(SHIPPED_MODELS[name], "diffusion")
    assert checkpoint.facts["licence"] == "CC BY-SA 4.0"
    assert checkpoint.facts["recommended"]["balanced"]["steps"] <= 5


def test_the_student_is_smaller_still_and_beats_bicubic():
    """On a part of a photograph that no model has seen: at most 1.5 MB, and 1.5 dB above bicubic."""
    assert SHIPPED_MODELS[SHIPPED_STUDENT].stat().st_size <= 1_500_000
    checkpoint = load_checkpoint(SHIPPED_MODELS[SHIPPED_STUDENT], "student")
    assert checkpoint.facts["licence"] == "CC BY-SA 4.0"
    hr = np.asarray(data.astronaut())[:256, 128:384]
    lr = imresize(hr, 1 / 4)
    student = psnr_y(load_model(SHIPPED_STUDENT, "cpu").upscale(lr), hr, 4)
    assert student > psnr_y(imresize(lr, 4), hr, 4) + 1.5


def test_a_student_is_exported_without_a_checkpoint(tmp_path, monkeypatch):
    """`--only student` alone means the student that comes with samdiff, also where a file has its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shipped-student").write_bytes(b"not a model")
    with pytest.raises(SystemExit, match="^0$"):
        main(["export-model", "--only", "student", "--static", "48", "-o", str(tmp_path / "s.onnx")])
    manifest = json.loads((tmp_path / "s.json").read_text())
    assert (manifest["network"], manifest["scale"], manifest["licence"]) == ("student", 4, "CC BY-SA 4.0")


def test_model_and_checkpoint_exclude_each_other(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["infer", "x.png", "--model", "real", "--checkpoint", "shipped"])
    assert "cannot be combined with --checkpoint" in capsys.readouterr().err


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch, capsys):
    """As for `shipped`: a user's own file is meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shipped-real").write_bytes(b"not a model")
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="[12]"):
        main(["infer", "x.png", "--checkpoint", "shipped-real"])
    assert "shipped-real" in capsys.readouterr().err
