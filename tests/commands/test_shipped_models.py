"""`infer --model`: the models that come with samdiff, by the kind of image."""

import pytest

from samdiff.cli import main
from samdiff.model.checkpoints.format import SHIPPED_MODELS, load_checkpoint
from samdiff.model.infer_config import SHIPPED_FOR


def test_every_kind_has_a_model():
    assert set(SHIPPED_FOR.values()) == set(SHIPPED_MODELS)


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_each_is_a_small_model_with_a_licence(name):
    assert SHIPPED_MODELS[name].stat().st_size <= 6_000_000
    checkpoint = load_checkpoint(SHIPPED_MODELS[name], "diffusion")
    assert checkpoint.facts["licence"] == "CC BY-SA 4.0"
    assert checkpoint.facts["recommended"]["balanced"]["steps"] <= 5


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
