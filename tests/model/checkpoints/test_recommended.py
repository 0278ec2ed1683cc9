"""Recommended settings travel with checkpoints; inference takes them where nothing was requested; a poor run is no default."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest

from samdiff import load_model
from samdiff.errors import CheckpointError, ConfigError
from samdiff.model.checkpoints.format import SHIPPED, load_checkpoint, save_checkpoint
from samdiff.model.checkpoints.publish import default_checkpoint, publish
from samdiff.model.config import load_config
from samdiff.model.diffusion.recommended import Sampling, as_facts, parse_sampling, read_recommended, recommended_for
from samdiff.model.inference.batch import provenance
from samdiff.model.inference.upscaler import InferConfig

from ...helpers.models import write_model

NONE = "diffusion.modulation=none"
FLOW = (NONE, "diffusion.base=rrdb", "diffusion.process=flow", "diffusion.residual_scale=4")


def decided(model, **given) -> tuple:
    result = model.resolve(InferConfig(**given))
    return result.sampler, result.steps, result.average, result.regress


def with_facts(path, **facts):
    result = load_checkpoint(path)
    save_checkpoint(path, replace(result, facts={**result.facts, **facts}))
    return path


def test_what_is_recommended_for_a_kind():
    """5 steps of DDPM, the RRDB as the fast way; one Euler step of a flow; `paper` keeps to its grid."""
    kinds = {"none": ("ddpm", 5), "official": ("ddpm", 5), "joint": ("ddpm", 5), "paper": ("paper", None)}
    for name, (sampler, steps) in kinds.items():
        result = recommended_for(load_config("tiny", sets=[f"diffusion.modulation={name}"]))
        assert result == {
            "fast": Sampling(regress=True),
            "balanced": Sampling(sampler, steps),
            "best": Sampling(sampler, steps, 4),
        }
    flow = recommended_for(load_config("tiny", sets=FLOW))
    assert [flow[quality].steps for quality in ("fast", "balanced", "best")] == [None, 1, 1]
    assert read_recommended({"recommended": as_facts(flow)}, "here") == flow


@pytest.mark.parametrize(
    "entry",
    [
        3,
        {},
        {"fast": {}},
        {"balanced": {}, "good": {}},
        {"balanced": {"steps": 0}},
        {"balanced": {"steps": True}},
        {"balanced": {"steps": 10**9}},
        {"balanced": {"average": 10**6}},
        {"balanced": {"sampler": "x" * 1000}},
        {"balanced": {"sampler": ["ddpm"]}},
        {"balanced": {"regress": 1}},
        {"balanced": {"tile": 3}},
    ],
)
def test_a_strangers_entry_is_checked(tmp_path, entry):
    path = with_facts(write_model(tmp_path / "m.safetensors", NONE), recommended=entry)
    with pytest.raises(CheckpointError, match="recommended"):
        load_model(path, "cpu")


def test_what_is_given_comes_first(tmp_path):
    """Recommended settings fill what is not given; other samplers and starts keep their own steps."""
    path = write_model(tmp_path / "m.safetensors", NONE)
    before = load_model(path, "cpu")
    assert decided(before) == ("ddpm", None, 1, False)  # an old file: all steps, as before
    assert decided(before, quality="fast") == ("ddpm", None, 1, True)
    entry = as_facts({"fast": Sampling(regress=True), "balanced": Sampling("dpm2m", 3, 2)})
    model = load_model(with_facts(path, recommended=entry), "cpu")
    assert decided(model) == ("dpm2m", 3, 2, False)
    assert decided(model, average=5) == ("dpm2m", 3, 5, False)
    assert decided(model, steps=7) == ("ddpm", 7, 1, False)
    assert decided(model, sampler="dpm2m") == ("dpm2m", 3, 2, False)
    assert decided(model, sampler="ddim") == ("ddim", None, 1, False)
    assert decided(model, start="rrdb") == ("ddpm", None, 1, False)
    assert decided(model, quality="fast")[3]
    assert not decided(model, quality="fast", steps=4)[3]
    assert decided(model, regress=True)[3]
    assert len(model.sampling_plan(InferConfig()).times) == 3
    with pytest.raises(ConfigError, match="recommends fast, balanced only, got best"):
        model.resolve(InferConfig(quality="best"))
    assert provenance(model, InferConfig())["samdiff-settings"].startswith("dpm2m, 3 steps, seed 0, mean of 2 samples")
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    np.testing.assert_array_equal(model.upscale(image), model.upscale(image, sampler="dpm2m", steps=3, average=2))
    np.testing.assert_array_equal(model.upscale(image, quality="fast"), model.regress(image))


def test_the_shipped_model_takes_one_step():
    """A flow from its RRDB: one call of each network; `fast` leaves the second out."""
    model = load_model("shipped", "cpu")
    assert decided(model) == ("euler", 1, 1, False)
    assert decided(model, quality="fast")[3]


def test_publish_writes_them(tmp_path):
    """Those of the kind, those of the source, and those that are given, in this order of strength."""
    path, out = write_model(tmp_path / "m.safetensors", *FLOW), tmp_path / "out.safetensors"
    publish(path, out, "CC0", "nobody")
    assert decided(load_model(out, "cpu")) == ("euler", 1, 1, False)
    with_facts(path, recommended=as_facts({"balanced": Sampling("euler", 2)}))
    publish(path, out, "CC0", "nobody", recommended=dict([parse_sampling("best=euler:6:3")]))
    assert decided(load_model(out, "cpu")) == ("euler", 2, 1, False)
    assert decided(load_model(out, "cpu"), quality="best") == ("euler", 6, 3, False)


def test_how_they_are_written():
    assert parse_sampling("balanced=euler:4") == ("balanced", Sampling("euler", 4))
    assert parse_sampling("best=ddpm:5:4") == ("best", Sampling("ddpm", 5, 4))
    assert parse_sampling("fast=rrdb") == ("fast", Sampling(regress=True))
    for text in ("good=euler:4", "best", "best=", "best=euler:0", "best=euler:x", "best=euler:1:2:3", "best=euler:-4"):
        with pytest.raises(ConfigError, match="--recommend"):
            parse_sampling(text)


def test_a_poor_run_is_no_default(tmp_path):
    """Not finished, without a validation, worse than bicubic: shipped, and the reason; a finished one that beats bicubic is taken."""
    runs = tmp_path / "runs"

    def model(name: str, when: int, step: int, **validation):
        path = write_model(runs / name / "model.safetensors", "train.steps=8")
        with_facts(path, step=step, **({"validation": validation} if validation else {}))
        os.utime(path, (when, when))

    good, poor = {"psnr_y": 28.5, "bicubic_psnr_y": 27.0}, {"psnr_y": 26.5, "bicubic_psnr_y": 27.0}
    for when, (step, validation, match) in enumerate(
        [
            (8, {}, "has no validation"),
            (8, {"psnr_y": float("nan"), "bicubic_psnr_y": 27.0}, "has no validation"),
            (8, {"psnr_y": 28.5, "bicubic_psnr_y": float("nan")}, "has no validation"),
            (8, {"psnr_y": 10**400, "bicubic_psnr_y": 27.0}, "has no validation"),  # beyond every float
            (8, {"psnr_y": True, "bicubic_psnr_y": False}, "has no validation"),
            (8, poor, r"not beaten bicubic .*\(26.50 dB, bicubic 27.00\)"),
            (5, good, "step 5 of 8"),
        ],
        1,
    ):
        model(f"r{when}", when, step, **validation)
        path, why = default_checkpoint(runs)
        assert path == SHIPPED
        assert re.search(match, why), why
    model("good", 2, 8, **good)  # older than the unfinished one
    path, why = default_checkpoint(runs)
    assert path == runs / "good" / "model.safetensors"
    assert "step 8, 28.50 dB" in why


def test_too_many_steps_of_a_flow_are_reported_once(tmp_path, caplog):
    """A flow with a perceptual loss is good at the steps that it recommends; more leave noise. The RRDB alone takes no steps."""
    image = np.full((8, 8, 3), 200, np.uint8)
    path = write_model(tmp_path / "m.safetensors", *FLOW, "loss.perceptual=lpips-vgg")

    def warned(*given, of=path) -> list[str]:
        caplog.clear()
        model = load_model(of, "cpu")
        for settings in given:
            model.upscale(image, **settings)
        return [record.getMessage() for record in caplog.records if "steps leave noise" in record.getMessage()]

    assert warned({"steps": 5}, {"steps": 5, "seed": 1}) == [
        f"{path}: this flow is best with 1 step (its perceptual loss is on the one-step image); 5 steps leave noise on flat colour; "
        "leave steps out, or set fewer"
    ]
    assert not warned({}, {"steps": 1}, {"quality": "best"}, {"steps": 5, "rrdb_only": True})
    more = {"balanced": Sampling("euler", 4), "best": Sampling("euler", 1, 4)}
    measured = with_facts(path, recommended=as_facts(more))
    assert not warned({"steps": 4}, of=measured)
    assert "is best with 4 steps" in warned({"steps": 5}, of=measured)[0]
    plain = write_model(tmp_path / "plain.safetensors", *FLOW)
    assert not warned({"steps": 5}, of=plain)
    assert not warned({"steps": 5}, of=write_model(tmp_path / "ddpm.safetensors", NONE, "loss.perceptual=lpips-vgg"))
