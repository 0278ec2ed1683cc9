"""A run's folder: one process at a time, one set of settings, and the reported lines."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff import open_store
from samdiff.cli import main
from samdiff.errors import BusyError, CheckpointError, ConfigError, SamdiffError, WeightsError
from samdiff.model.checkpoints.format import load_checkpoint, weights_digest
from samdiff.model.config import load_config
from samdiff.model.inference.image_io import save_image
from samdiff.model.training.run import train
from samdiff.model.training.run_dir import acquire_run_dir, requested_settings
from samdiff.model.training.state import states
from samdiff.model.training.validation import read_benchmark

from ...helpers.stores import make_store
from .test_train import SMALL, config, run

CPU = torch.device("cpu")
WORKER = Path(__file__).parents[2] / "helpers" / "ddp_worker.py"


def test_two_at_once_in_one_folder(tmp_path):
    """The second gets an error that names the first; after kill -9 of the first, the folder is free and the run resumes."""
    store = make_store(tmp_path / "a.zarr", n=40)
    command = [sys.executable, str(WORKER), str(store), str(tmp_path / "r"), *SMALL, "train.rrdb_steps=1000000"]
    first = subprocess.Popen(command)
    try:
        while not (tmp_path / "r" / "config.json").exists():
            assert first.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        with pytest.raises(BusyError, match=rf"another `samdiff train` is running there \(process {first.pid} on "):
            run(tmp_path, "r")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert run(tmp_path, "r").exists()


def test_all_processes_end_with_the_reason(tmp_path):
    """Rank 0 finds the folder locked; rank 1 does not wait, and raises the same error."""
    store = make_store(tmp_path / "a.zarr", n=40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    with ExitStack() as held:
        acquire_run_dir(tmp_path / "r", requested_settings(config(), [open_store(store)], None, None), held)
        ranks = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(store), str(tmp_path / "r"), *SMALL],
                env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        reported = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert all(f"running there (process {os.getpid()} on " in text.splitlines()[-1] for text in reported), reported


def test_what_was_not_trained_is_said(tmp_path):
    """No steps requested, an RRDB from another file, steps of stage one after stage two has begun, a finished stage."""
    store = open_store(make_store(tmp_path / "a.zarr", n=40))

    def reported(name: str, *more: str, **given: Path) -> list[str]:
        lines: list[str] = []
        train([store], tmp_path / name, config(*more), CPU, report=lines.append, **given)
        return [line for line in lines if "parameters on cpu" not in line and "no validation" not in line]

    zero = ("train.rrdb_steps=0", "train.steps=0")
    rrdb, model = tmp_path / "a" / "rrdb.safetensors", tmp_path / "a" / "model.safetensors"
    assert reported("a", *zero) == [
        f"rrdb: no steps requested (--rrdb-steps 0), random weights unchanged; {rrdb}",
        f"diffusion: no steps requested (--steps 0), random weights unchanged; {model}",
    ]
    assert reported("b", *zero, start=model)[0].startswith(
        "rrdb: no steps requested (--rrdb-steps 0), --init-from's weights unchanged; "
    )
    assert reported("c", "train.steps=1", rrdb=rrdb) == [
        f"rrdb: from {rrdb}, instead of stage one",
        f"diffusion: 1 steps done, 1 in all, 0 skipped; {tmp_path / 'c' / 'model.safetensors'}",
    ]
    assert reported("a", "train.rrdb_steps=1", "train.steps=1")[0] == f"rrdb: 1 steps done, 1 in all, 0 skipped; {rrdb}"
    assert reported("a", "train.rrdb_steps=2", "train.steps=1") == [
        f"rrdb: already finished, 1 steps; it cannot be trained to 2, since stage two has begun on its features; {rrdb}",
        "diffusion: already finished, 1 steps; nothing to do (more with --steps N)",
    ]


def test_weights_are_known_by_their_content(tmp_path):
    """The files of --rrdb and --start may move, and be another file of the same weights; other weights are refused. No path is kept."""
    given = run(tmp_path, "given", "train.steps=1")
    start = Path(shutil.copy(given, tmp_path / "begin.safetensors"))
    more = ("train.steps=2", "train.rrdb_steps=0")
    run(tmp_path, "r", *more, rrdb=tmp_path / "given" / "rrdb.safetensors", start=start)
    (tmp_path / "elsewhere").mkdir()
    start = start.rename(tmp_path / "elsewhere" / "again.safetensors")
    run(tmp_path, "r", *more, rrdb=given, start=start)
    assert str(tmp_path) not in (tmp_path / "r" / "config.json").read_text()
    other = run(tmp_path, "other", "train.steps=1", "train.seed=1")
    for which in ({"rrdb": other, "start": start}, {"rrdb": given, "start": other}):
        with pytest.raises(ConfigError, match="(rrdb|start)_from.sha256: was '"):
            run(tmp_path, "r", *more, **which)
    with pytest.raises(ConfigError, match="start_from: was {'file': 'begin.safetensors', .* now None"):
        run(tmp_path, "r", *more, rrdb=given)


def test_folders_that_are_no_runs(tmp_path):
    """A store, somebody's weights without settings, a file: refused, nothing written. A folder with other files in it is fine."""
    store = make_store(tmp_path / "a.zarr", n=40)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"mine")
    (tmp_path / "file").write_text("mine")
    for name, match in (
        (store.name, "holds zarr.json and no config.json, so it is not a run's folder"),
        ("weights", "holds model.safetensors and no config.json"),
        ("file", "expected a folder or nothing, got a file"),
    ):
        with pytest.raises(ConfigError, match=match):
            run(tmp_path, name)
    assert sorted(path.name for path in store.iterdir()) == ["images", "masks", "record", "tiles", "zarr.json"]
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["model.safetensors"]
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "job.log").write_text("mine")
    assert run(tmp_path, "r", "train.steps=0", "train.rrdb_steps=0").exists()


def test_a_run_touches_nothing_that_is_not_its_own(tmp_path, monkeypatch):
    """Links, folders and pipes of a run's names, a lock that is none, partial files of other programs, a store around it, `/`, `~`."""
    store, thesis = make_store(tmp_path / "a.zarr", n=40), tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    before = sorted(path.name for path in store.rglob("*"))
    for number, (name, make) in enumerate(
        (
            ("log.jsonl", lambda path: path.symlink_to(tmp_path / "new")),
            ("config.json", lambda path: path.symlink_to(thesis)),
            ("config.json", lambda path: os.mkfifo(path)),
            ("model.safetensors", lambda path: path.mkdir()),
            ("best.safetensors", lambda path: path.symlink_to(thesis)),
            ("lock", lambda path: path.symlink_to(thesis)),
            ("lock", lambda path: path.write_text("mine")),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / name)
        with pytest.raises(SamdiffError, match="expected a (lock )?file|not a run's folder"):
            run(tmp_path, str(number))
        assert [path.name for path in folder.iterdir()] == [name]
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name, says in (
        ("a.zarr/run", "where nothing else may lie"),
        ("a.zarr/tiles/hr/run", "where nothing else may lie"),
        ("dangling", "got a link to nowhere"),
        ("/", "got the root of a disk"),
    ):
        with pytest.raises(ConfigError, match=says):
            run(tmp_path, name)
    assert (thesis.read_text(), (tmp_path / "new").exists()) == ("years of work", False)
    assert sorted(path.name for path in store.rglob("*")) == before
    kept = [".x.partial", f".notes.txt.{7:032x}.partial", ".model.safetensors.0.partial"]
    for name in kept:
        (tmp_path / "r").mkdir(exist_ok=True)
        (tmp_path / "r" / name).write_text("mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = ["train", "--shards", str(store), "--out", "~/r", "--preset", "tiny", "--steps", "0", "--rrdb-steps", "0"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--set", "train.patch=12", "--set", "train.batch=2"])
    assert not ended.value.code
    assert (tmp_path / "r" / "model.safetensors").exists()
    assert [(tmp_path / "r" / name).read_text() for name in kept] == ["mine"] * 3
    assert not (tmp_path / "~").exists()


def test_what_a_run_needs_to_go_on(tmp_path):
    """Partial files of a killed writer are removed; the error for a damaged state says what to do; a lost RRDB is restored from the model."""
    folder = run(tmp_path, "r", "train.steps=2", "train.checkpoint_every=1").parent
    (folder / f".model.safetensors.{7:032x}.partial").touch()
    whole = states(folder, "diffusion")[-1]
    whole.write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"00000002.safetensors: .*delete it, and .* resumes from the state before it"):
        run(tmp_path, "r", "train.steps=3")
    assert not list(folder.glob(".*"))
    whole.unlink()
    assert load_checkpoint(run(tmp_path, "r", "train.steps=3")).facts["step"] == 3
    lost = load_checkpoint(folder / "rrdb.safetensors")
    (folder / "rrdb.safetensors").unlink()
    run(tmp_path, "r", "train.steps=3")  # the model holds it
    result = load_checkpoint(folder / "rrdb.safetensors", "rrdb")
    assert weights_digest(result.tensors) == weights_digest(lost.tensors)
    assert result.facts == lost.facts
    shutil.copy(run(tmp_path, "other", "train.steps=1", "train.rrdb_steps=5").parent / "rrdb.safetensors", folder)
    with pytest.raises(
        CheckpointError, match="rrdb.safetensors: not the RRDB that state-diffusion-00000003.safetensors was trained on"
    ):
        run(tmp_path, "r", "train.steps=4")
    for name in ("rrdb", "model"):
        (folder / f"{name}.safetensors").unlink()
    with pytest.raises(CheckpointError, match="rrdb.safetensors: missing, and stage two has begun"):
        run(tmp_path, "r", "train.steps=4")


def test_a_run_on_the_shipped_rrdb_goes_on(tmp_path):
    """The word `shipped` is no path of a file."""
    store = open_store(make_store(tmp_path / "a.zarr", n=40))
    for steps in (1, 2):
        sets = ["train.patch=12", "train.batch=2", f"train.steps={steps}", "validate.every=0"]
        model = train([store], tmp_path / "r", load_config("tiny", sets=sets), CPU, Path("shipped"), start=Path("shipped"))
    assert load_checkpoint(model).facts["step"] == 2


def test_a_validation_that_cannot_be_is_said(tmp_path):
    lines: list[str] = []
    store = open_store(make_store(tmp_path / "a.zarr", n=40))
    train([store], tmp_path / "r", config("train.steps=0", "train.rrdb_steps=0"), CPU, report=lines.append)
    assert lines[0].startswith("no validation: no image is held out (validate.images=8, at most a tenth of them)")


def test_publish_and_import_take_care_of_files(tmp_path, capsys):
    """Never over a file unasked, never under another ending; our own checkpoints need no import; modulations by name."""
    model = run(tmp_path, "r", "train.steps=0", "train.rrdb_steps=0")

    def fails(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert stopped.value.code in (1, 2)
        return capsys.readouterr().err

    published = ("publish", model.parent, "--licence", "CC0", "-o")
    (tmp_path / "mine.safetensors").write_text("mine")
    assert "exists already; give --overwrite" in fails(*published, tmp_path / "mine.safetensors")
    assert "is an input of this command" in fails(*published, model, "--overwrite")
    assert (tmp_path / "mine.safetensors").read_text() == "mine"
    assert "expected a checkpoint's file, got a folder" in fails("import-checkpoint", ".")
    assert "expected a file NAME.safetensors" in fails(*published, tmp_path / "a.png")
    assert "expected a file NAME.safetensors" in fails(*published, model.parent)
    assert "already a samdiff checkpoint; use it without import" in fails("import-checkpoint", model)
    assert "expected official (SAM-DiffSR) or none (SRDiff), got 'paper'" in fails(
        "import-checkpoint", model, "--modulation", "paper"
    )


def test_a_run_of_other_settings_is_refused(tmp_path):
    """The difference is reported; more steps are not a difference."""
    run(tmp_path, "r")
    with pytest.raises(ConfigError, match=r"diffusion.loss: was 'l1', now 'l2'"):
        run(tmp_path, "r", "diffusion.loss=l2")
    run(tmp_path, "r", "train.steps=9", "train.lr=5e-4", "validate.steps=3", "train.workers=0")
    reported = []
    train([open_store(tmp_path / "a.zarr")], tmp_path / "r", config("train.steps=9"), CPU, report=reported.append)
    assert "not changed, since the run is finished: train.lr: was 0.0005, now 0.001" in reported
    assert json.loads((tmp_path / "r" / "config.json").read_text())["train"]["lr"] == 5e-4  # what it was trained with
    reported.clear()
    train([open_store(tmp_path / "a.zarr")], tmp_path / "r", config("train.steps=10"), CPU, report=reported.append)
    assert "changed in this run: train.lr: was 0.0005, now 0.001" in reported
    assert json.loads((tmp_path / "r" / "config.json").read_text())["train"]["lr"] == 1e-3
    (tmp_path / "r" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config.json: damaged"):
        run(tmp_path, "r")


@pytest.mark.parametrize("name", ["best", "model", "rrdb"])
def test_weights_that_the_run_did_not_write_are_refused(tmp_path, name):
    """Anybody's bytes, and a checkpoint of another run, under a run's name: an error before the first step, and the file stays as it is."""
    run(tmp_path, "r", "train.steps=1", "train.rrdb_steps=1", "validate.every=0")
    file = tmp_path / "r" / f"{name}.safetensors"
    state = (tmp_path / "r" / "log.jsonl").read_bytes()
    other = tmp_path / "other" / f"{'rrdb' if name == 'rrdb' else 'model'}.safetensors"
    run(tmp_path, "other", "train.steps=1", "train.rrdb_steps=1", "validate.every=0", "train.seed=1")
    wrong_kind = tmp_path / "other" / f"{'model' if name == 'rrdb' else 'rrdb'}.safetensors"
    for content, got in (
        (b"years of work", "got not a readable safetensors file"),
        (other.read_bytes(), r"got one of a run with other settings \(train.seed: was 1, now 0\)"),
        (wrong_kind.read_bytes(), "got a checkpoint of kind"),
    ):
        file.write_bytes(content)
        with pytest.raises(
            ConfigError, match=f"{name}.safetensors: expected a file that this run wrote or nothing, {got}.*; move it away"
        ):
            run(tmp_path, "r", "train.steps=2", "validate.every=0")
        assert (file.read_bytes(), (tmp_path / "r" / "log.jsonl").read_bytes()) == (content, state)
    file.unlink()
    assert load_checkpoint(run(tmp_path, "r", "train.steps=2", "validate.every=0")).facts["step"] == 2


def test_a_run_resumes_on_its_own_files(tmp_path):
    """With a measured scale of residuals and more steps, they are still this run's; its best model is replaced."""
    store = open_store(make_store(tmp_path / "a.zarr", n=40))
    save_image(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8), tmp_path / "b" / "a.png")
    more = (
        "diffusion.base=rrdb",
        "diffusion.modulation=none",
        "validate.every=1",
        "validate.perceptual=off",
        "train.rrdb_steps=1",
    )
    for steps in (1, 2):
        settings = config(*more, f"train.steps={steps}", "validate.steps=1")
        model = train([store], tmp_path / "r", settings, CPU, benchmarks=[read_benchmark(tmp_path / "b", 4)])
        assert (tmp_path / "r" / "best.safetensors").exists()
    assert load_checkpoint(model).facts["step"] == 2


def test_the_loss_of_the_model_without_its_weights(tmp_path, monkeypatch):
    """An error before anything is written names the way out."""

    def missing(*_):
        raise WeightsError("lpips-vgg: cannot be downloaded")

    monkeypatch.setattr("samdiff.model.training.tasks.load_distance", missing)
    with pytest.raises(WeightsError, match="cannot be downloaded; or train without this loss: --set loss.perceptual=none"):
        run(tmp_path, "r", "loss.perceptual=lpips-vgg")
    with pytest.raises(ConfigError, match="modulation 'paper'.*--set loss.perceptual=none"):
        run(tmp_path, "r", "loss.perceptual=lpips-vgg", "diffusion.modulation=paper")
    assert not (tmp_path / "r").exists()


def test_states_and_logs_of_others_are_kept(tmp_path):
    """A file with a state's name that is no state is not deleted with old states; a user's own log.jsonl is not appended to."""
    run(tmp_path, "r", "train.steps=2", "train.checkpoint_every=1", "train.keep=1")
    folder = tmp_path / "r"
    mine = folder / "state-diffusion-00000001.safetensors"
    mine.write_text("mine")
    run(tmp_path, "r", "train.steps=4", "train.checkpoint_every=1", "train.keep=1")
    assert mine.read_text() == "mine"
    assert [path.name for path in states(folder, "diffusion")] == [mine.name, "state-diffusion-00000004.safetensors"]
    (folder / "log.jsonl").write_text('{"my": "notes"}\n')
    with pytest.raises(ConfigError, match="log.jsonl: does not end in a line of a run's log; move it away"):
        run(tmp_path, "r", "train.steps=5")
    assert (folder / "log.jsonl").read_text() == '{"my": "notes"}\n'
