"""Published weights through the command line; models given away; the model that comes with samdiff."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samdiff.cli import main
from samdiff.errors import CheckpointError
from samdiff.model.checkpoints.convert import import_official
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.checkpoints.publish import SHIPPED, default_checkpoint, publish
from samdiff.model.diffusion.noise import NoiseField
from samdiff.model.diffusion.residual import base_image, from_residual, to_model_range, to_pixels, upsample
from samdiff.model.diffusion.sampler import sample
from samdiff.model.inference.upscaler import load_model
from samdiff.model.networks.rrdb import condition

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "tiny_checkpoint.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "tiny_outputs.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data}


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_import_and_the_golden_sample(state, golden, tmp_path, capsys):
    """Nested and prefixed as published, through the command line: the loaded model gives the golden images and sample."""
    torch.save({"state_dict": {"model": {f"module.{n}": v for n, v in state.items()}}, "epoch": 3}, tmp_path / "p.ckpt")
    assert command("import-checkpoint", tmp_path / "p.ckpt", "-o", tmp_path / "m.safetensors") == 0
    reported = capsys.readouterr().out
    assert "x4" in reported
    assert "U-Net 16 x 1-2-3-4" in reported
    assert "RRDB 5 x 16 (8)" in reported
    assert "LR divided by 256" in reported
    model = load_model(tmp_path / "m.safetensors", "cpu")
    torch.testing.assert_close(model.rrdb(golden["lr"]).clamp(-1, 1), golden["rrdb_out"], atol=1e-5, rtol=0)
    given = condition(model.rrdb.features(golden["lr"][:1]))
    noise = golden["sample_noise"]
    x_0 = sample(lambda x, t: model.unet(x, t, given), model.modulation, noise[0].clone(), lambda i, *_: noise[i])
    torch.testing.assert_close(from_residual(x_0, golden["lr_up"][:1]), golden["sample_out"], atol=1e-4, rtol=0)
    assert command("import-checkpoint", tmp_path / "p.ckpt", "-o", tmp_path / "m.safetensors") == 2
    assert "exists already" in capsys.readouterr().err


def test_the_whole_way_from_a_published_file_to_a_picture(state, golden, tmp_path, monkeypatch):
    """`import-checkpoint`, then `infer` with the golden noise: the PNG holds what the official arithmetic (LR / 256) gives."""
    torch.save({"state_dict": {"model": state}}, tmp_path / "p.ckpt")
    lr = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(lr).save(tmp_path / "a.png")
    monkeypatch.setattr(NoiseField, "rows", lambda _, i, top, bottom: golden["sample_noise"][i][:, :, top:bottom])
    assert command("import-checkpoint", tmp_path / "p.ckpt", "-o", tmp_path / "m.safetensors") == 0
    assert command("infer", tmp_path / "a.png", "-o", tmp_path / "b.png", "--checkpoint", tmp_path / "m.safetensors") == 0
    model = load_model(tmp_path / "m.safetensors", "cpu")
    given = condition(model.rrdb.features(to_model_range(torch.from_numpy(lr)[None])))
    noise = golden["sample_noise"]
    x_0 = sample(lambda x, t: model.unet(x, t, given), model.modulation, noise[0].clone(), lambda i, *_: noise[i])
    pixels = torch.from_numpy(lr)[None].permute(0, 3, 1, 2).float()
    expected = to_pixels(from_residual(x_0, upsample(pixels / 256, 4) * 2 - 1))[0].numpy()
    result = np.asarray(Image.open(tmp_path / "b.png"))
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_the_quirk_is_a_256th(golden):
    """A white LR upsampled as in the official code is 255/256 white."""
    white = torch.ones(1, 3, 4, 4)
    assert torch.allclose((base_image(white, 4, 256) + 1) / 2, torch.tensor(255 / 256))
    assert torch.equal(base_image(white, 4), upsample(white, 4))


def test_an_rrdb_alone(state, golden, tmp_path):
    """The RRDB's own checkpoint becomes one that `train --rrdb` takes."""
    torch.save({"state_dict": {"model": {n[5:]: v for n, v in state.items() if n.startswith("rrdb.")}}}, tmp_path / "r.ckpt")
    result = import_official(tmp_path / "r.ckpt")
    assert (result.kind, result.config["scale"], result.config["model"]["rrdb_features"]) == ("rrdb", 4, 16)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("denoise_fn.mid_block1.res_conv.weight", None) or s.pop("rrdb.trunk_conv.bias"), "1 missing"),
        (lambda s: s.update({"denoise_fn.attn.weight": torch.zeros(1)}), "'denoise_fn.attn.weight'|attn.weight.* is unknown"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"1 unknown entries \(such as extra.weight\)"),
        (lambda s: s.update({"rrdb.HRconv.bias": torch.zeros(3)}), "1 of another shape"),
        (lambda s: s.update(betas=torch.full((100,), 0.3)), "neither the cosine nor the linear schedule"),
        (lambda s: s["rrdb.HRconv.bias"].fill_(float("nan")), "NaN or infinity"),
        (lambda s: s.clear() or s.update(a=torch.zeros(1)), "unknown entries"),
    ],
)
def test_what_does_not_fit_is_named(state, tmp_path, change, match):
    broken = {name: value.clone() for name, value in state.items()}
    change(broken)
    torch.save(broken, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=match):
        import_official(tmp_path / "b.ckpt")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb",)


def test_pickles_that_run_code_and_other_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"model": {"a": Bomb()}}}, "bomb.ckpt")
    with pytest.raises(CheckpointError, match="would run code from the file"):
        import_official(Path("bomb.ckpt"))
    assert not Path("bomb").exists()
    Path("text.ckpt").write_text("hello")
    for name in ("text.ckpt", "none.ckpt"):
        with pytest.raises(CheckpointError, match="text.ckpt|there is no such file"):
            import_official(Path(name))


def test_published_files_are_small_and_say_their_licence(state, tmp_path):
    """Half the bytes, float32 after loading, close to the source; no path of the machine inside."""
    torch.save(state, tmp_path / "p.ckpt")
    main_file, small = tmp_path / "m.safetensors", tmp_path / "small.safetensors"
    assert command("import-checkpoint", tmp_path / "p.ckpt", "-o", main_file) == 0
    publish(main_file, small, "CC BY-SA 4.0", "somebody")
    whole, half = load_checkpoint(main_file), load_checkpoint(small)
    assert small.stat().st_size < 0.55 * main_file.stat().st_size
    assert all(value.dtype == torch.float32 for value in half.tensors.values())
    assert all(torch.allclose(half.tensors[n], whole.tensors[n], rtol=1e-3, atol=1e-6) for n in whole.tensors)
    assert half.facts["licence"] == "CC BY-SA 4.0"
    assert str(tmp_path).encode() not in small.read_bytes()


def test_the_model_that_comes_with_samdiff(tmp_path):
    """At most 6 MB, with its licence beside it; it is the default without runs, and upscales an image four times."""
    readme = (SHIPPED.parent / "README.md").read_text()
    assert "CC BY-SA 4.0" in readme
    assert "Cloudinary" in readme
    assert SHIPPED.stat().st_size <= 6_000_000
    path, why = default_checkpoint(tmp_path / "runs")
    assert path == SHIPPED
    assert "comes with samdiff: step " in why
    assert "dB on " in why
    model = load_model(path, "cpu")
    assert load_checkpoint(path).facts["licence"] == "CC BY-SA 4.0"
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    assert model.upscale(image, steps=2).shape == (36, 48, 3)
