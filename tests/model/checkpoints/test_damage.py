"""Damaged files and false sizes are one clear error; files of version 0.1 are read with a warning that they have no digest."""

import json
import logging
import os
import resource
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from samdiff import open_store
from samdiff.errors import CheckpointError, ConfigError
from samdiff.model.checkpoints.format import SHIPPED, SHIPPED_MODELS, load_checkpoint, weights_digest
from samdiff.model.checkpoints.plain import read_object
from samdiff.model.config import config_of, load_config
from samdiff.model.inference.upscaler import load_model
from samdiff.model.training.logger import repair_log
from samdiff.model.training.run import train
from samdiff.model.training.run_dir import acquire_run_dir, steps_done
from samdiff.model.training.state import states

from ...helpers import damaged_checkpoints as damage
from ...helpers.stores import make_store

FROZEN = Path(__file__).parents[2] / "golden" / "v0_1"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    return damage.make_files(tmp_path_factory.mktemp("sound") / "files")


def rewrite(file: Path, **texts: str) -> None:
    """Other texts in a file's header; its digest stays."""
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        header = {**opened.metadata(), **texts}
    save_file(tensors, file, {name: text for name, text in header.items() if text})


def test_random_damage(sound, tmp_path):
    """The same few dozen trials each time; thousands more were run."""
    logging.disable(logging.WARNING)
    try:
        outcomes = [damage.trial(seed, sound, tmp_path) for seed in range(40)]
    finally:
        logging.disable(logging.NOTSET)
    assert outcomes.count("refused") > 20


@pytest.mark.parametrize("kind", ["state", "rrdb", "model"])
def test_every_part_of_a_file_is_covered(sound, tmp_path, kind):
    """One bit of the first and of the last tensor, of the settings and of the facts: each is noticed, and the way out is named."""
    file = tmp_path / sound[kind].name
    (tmp_path / "config.json").touch()
    data = sound[kind].read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    for place in (begin + 1, len(data) - 2, data.index(b"preset"), data.index(b'step\\":') + 8):
        file.write_bytes(data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :])
        with pytest.raises(CheckpointError, match=f"{file.name}: .*; .*delete it, and the same `samdiff train` command"):
            damage.content(kind, file)


def test_the_digest_is_that_of_the_content(sound, tmp_path):
    """The same for equal content, wherever it lies and however it is laid out; 0.1 reads the file as well, since it is format 1."""
    file = Path(shutil.copy(sound["model"], tmp_path / "other.safetensors"))
    rewrite(file)  # another order of the header
    assert damage.same(damage.content("model", file), damage.content("model", sound["model"]))
    with safe_open(sound["model"], framework="pt") as opened:
        texts = opened.metadata()
    assert (len(texts["sha256"]), texts["format_version"]) == (64, "1")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bool, torch.int64, torch.complex64, torch.float64])
def test_weights_have_the_dtypes_that_we_write(sound, tmp_path, dtype):
    with safe_open(sound["rrdb"], framework="pt") as opened:
        texts = {name: text for name, text in opened.metadata().items() if name != "sha256"}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    tensors["rrdb.hr.bias"] = tensors["rrdb.hr.bias"].to(dtype)
    save_file(tensors, tmp_path / "a.safetensors", texts)
    with pytest.raises(CheckpointError, match="rrdb.hr.bias is .*, expected weights of F32, F16, BF16"):
        load_checkpoint(tmp_path / "a.safetensors")


HUGE = [
    {"model": {"rrdb_features": 50_000}},
    {"model": {"rrdb_blocks": 10**9}},
    {"model": {"multipliers": [1] * 10**6}},
    {"model": {"rrdb_blocks": 128, "rrdb_features": 4096, "rrdb_growth": 4096, "width": 4096, "multipliers": [64] * 8}},
    {"diffusion": {"timesteps": 10**9}},
    {"diffusion": {"timesteps": 10**400}},
    {"model": {"width": 10**18}},
    {"model": {"width": 2}},
    {"scale": 10**9},
    {"train": {"lr": 10**400}},
    {"diffusion": {"modulation": "official", "sampling_steps": 7}},
]


@pytest.mark.parametrize("change", HUGE, ids=[json.dumps(change)[:60] for change in HUGE])
@pytest.mark.parametrize("kind", ["model", "state"])
def test_a_claim_takes_no_memory(sound, tmp_path, kind, change):
    """A few kilobytes that claim networks of any size are refused in seconds, within some MB; with a digest and without."""
    file = Path(shutil.copy(sound[kind], tmp_path / sound[kind].name))
    config = damage.saved_config()
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for digest in ("0" * 64, ""):
        rewrite(file, config=json.dumps(config), sha256=digest)
        with pytest.raises(CheckpointError):
            damage.content(kind, file)
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize(
    "text", ["[]", "null", "7", "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, '{"model": []}', '{"model": null}', "\x00"]
)
def test_settings_that_are_none(sound, tmp_path, text):
    """Lists, null, very deep ones: in a checkpoint's header, and in a run's `config.json`."""
    file = Path(shutil.copy(sound["model"], tmp_path / "a.safetensors"))
    rewrite(file, config=text, sha256="")
    with pytest.raises(CheckpointError):
        load_model(file, "cpu")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text(text)
    with ExitStack() as held, pytest.raises(ConfigError, match="config.json: damaged"):
        acquire_run_dir(tmp_path / "r", damage.saved_config(), held)
    assert (tmp_path / "r" / "config.json").read_text() == text


def test_settings_of_a_file_that_is_none(tmp_path):
    for place, value in (("folder", None), ("pipe", None), ("huge", "[" + "1," * 3_000_000 + "1]")):
        folder = tmp_path / place
        folder.mkdir()
        file = folder / "config.json"
        file.mkdir() if place == "folder" else os.mkfifo(file) if place == "pipe" else file.write_text(str(value))
        says = "config.json: damaged" if place == "huge" else "config.json: expected a file of a run"
        with ExitStack() as held, pytest.raises(ConfigError, match=says):
            acquire_run_dir(folder, damage.saved_config(), held)
    with pytest.raises(ConfigError, match="expected settings by name, got"):
        config_of([1])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not valid TOML|expected"):
        load_config("tiny", sets=["train.lr=" + "[" * 100_000])
    with pytest.raises(ValueError, match="nested deeper"):
        read_object("[" * 100_000)


def test_a_half_line_of_the_log(tmp_path):
    """An incomplete last line is removed and reported; a missing line break is added; foreign text is an error and is not changed."""
    log, line = tmp_path / "log.jsonl", '{"stage": "rrdb", "step": 2}\n'
    for tail, kept, reported in (("", "", 0), (line[:-1], line, 0), (line[:17], "", 1), ("{", "", 1), ('{"stage": [[[', "", 1)):
        log.write_text(line + tail)
        assert len(repair_log(log)) == reported
        assert log.read_text() == line + kept
    for other in ("my notes", "x" * 100_000, "null"):
        log.write_text(other)
        with pytest.raises(ConfigError, match="does not end in a line of a run's log"):
            repair_log(log)
        assert log.read_text() == other
    log.unlink()
    assert repair_log(log) == []
    log.mkdir()
    with pytest.raises(ConfigError, match="expected a run's log"):
        repair_log(log)


def test_names_of_states(sound, tmp_path):
    """A copy with another name is ignored; a state whose name contradicts its step is an error."""
    run = shutil.copytree(sound["state"].parent, tmp_path / "run")
    file = states(run, "diffusion")[0]
    for name in (
        "state-diffusion-zzz.safetensors",
        "state-diffusion-00000009 (copy).safetensors",
        "state-diffusion-0000000009.safetensors",
    ):
        shutil.copy(file, run / name)
    assert (states(run, "diffusion"), steps_done(run, "diffusion")) == ([file], 3)
    assert damage.same(damage.content("state", file), damage.content("state", sound["state"]))
    moved = file.rename(run / "state-diffusion-00000004.safetensors")
    with pytest.raises(CheckpointError, match="00000004.*holds step 3 of stage 'diffusion', which contradicts its name"):
        damage.content("state", moved)
    moved.unlink()
    moved.mkdir()
    with pytest.raises(CheckpointError, match="expected a regular file|there is no such checkpoint"):
        damage.content("state", moved)


def test_a_state_without_a_digest_still_has_to_agree_with_itself(sound, tmp_path):
    """A missing moment, another position, an invalid step, a negative square: found by other contents of the file."""
    file = tmp_path / sound["state"].name
    with safe_open(sound["state"], framework="pt") as opened:
        texts = {name: text for name, text in opened.metadata().items() if name != "sha256"}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    facts = json.loads(texts["facts"])
    first = sorted(tensors)[0]
    for change, match in (
        ({"adam.step.out.bias": None}, "1 missing"),
        ({"adam.exp_avg_sq.out.bias": -tensors["adam.exp_avg_sq.out.bias"] - 1}, "adam.exp_avg_sq.*|out.bias is out of range"),
        ({"adam.step.out.bias": torch.tensor(9.0)}, "is out of range"),
        ({"guard.scale": torch.tensor(0.0)}, "scale is out of range"),
        ({"ema.out.bias": tensors["ema.out.bias"] * float("nan")}, "NaN or infinity"),
        ({first: tensors[first].half()}, "a state holds float32 only"),
    ):
        changed = {name: value for name, value in {**tensors, **change}.items() if value is not None}
        save_file(changed, file, texts)
        with pytest.raises(CheckpointError, match=match):
            damage.content("state", file)
    for change in (
        {"step": 4},
        {"step": "3"},
        {"step": -3},
        {"step": True},
        {"position": 1},
        {"stage": "rrdb"},
        {"stage": []},
        {"best": "x"},
    ):
        save_file(tensors, file, {**texts, "facts": json.dumps({**facts, **change})})
        with pytest.raises(CheckpointError):
            damage.content("state", file)
    other = {**damage.saved_config(), "stores": ["another"]}
    save_file(tensors, file, {**texts, "config": json.dumps(other)})
    with pytest.raises(CheckpointError, match="saved by a run with other settings"):
        damage.content("state", file)


def test_files_of_0_1(tmp_path, caplog):
    """A run, a published and an imported model: read as they were, each with one line that they carry no digest; the run resumes."""
    frozen = Path(shutil.copytree(FROZEN, tmp_path / "v0_1"))
    store = open_store(make_store(tmp_path / "a.zarr", n=40))
    for name in ("published.safetensors", "imported.safetensors", "run/model.safetensors"):
        caplog.clear()
        for _ in range(2):
            load_model(frozen / name, "cpu")
        assert [record.getMessage().count("carries no digest") for record in caplog.records] == [1]
    given = json.loads((frozen / "run" / "config.json").read_text())
    sets = [f"{part}.{key}={value}" for part in ("model", "train") for key, value in given[part].items() if value is not False]
    caplog.clear()
    model = train([store], frozen / "run", load_config("tiny", sets=[*sets, "validate.every=0"]), torch.device("cpu"))
    reported = [record.getMessage() for record in caplog.records if "carries no digest" in record.getMessage()]
    assert [line.split(":")[0].rpartition("/")[2] for line in reported] == [
        "rrdb.safetensors",
        "state-diffusion-00000002.safetensors",
    ]
    assert load_checkpoint(model).facts["step"] == 4
    with safe_open(model, framework="pt") as opened:
        assert "sha256" in opened.metadata()
    again = Path(shutil.copytree(FROZEN, tmp_path / "again")) / "run"
    second = train([store], again, load_config("tiny", sets=[*sets, "validate.every=0"]), torch.device("cpu"))
    result, other = load_checkpoint(model).tensors, load_checkpoint(second).tensors
    assert all(torch.equal(result[name], other[name]) for name in other)


def test_the_shipped_model_is_known(tmp_path, monkeypatch):
    """A flipped bit is an error that says what helps."""
    data = SHIPPED.read_bytes()
    bad = tmp_path / "weights.safetensors"
    bad.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    monkeypatch.setitem(SHIPPED_MODELS, "shipped", bad)
    with pytest.raises(CheckpointError, match="install samdiff again"):
        load_checkpoint(Path("shipped"))
    bad.write_bytes(data)
    assert weights_digest(load_checkpoint(Path("shipped")).tensors)
