"""A whole study of seconds: trained, killed, resumed, scored, reported; by several processes; with failing runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import samdiff
from samdiff import load_model, open_store
from samdiff.cli import main
from samdiff.errors import ConfigError, StoreError
from samdiff.model.checkpoints.format import load_checkpoint, weights_digest
from samdiff.model.evaluation.metrics import psnr_y
from samdiff.model.evaluation.oracle import oracle_scale
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.objectives.residual_spread import with_rescale
from samdiff.model.study import work as working
from samdiff.model.study.checks import open_study
from samdiff.model.study.config import read_study
from samdiff.model.study.plan import RRDB_ALONE, Budget, plan_runs
from samdiff.model.study.queue import (
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    place_of,
    queue_rows,
    record_failure,
    seconds_left,
    summary,
)
from samdiff.model.study.report import write_report
from samdiff.model.study.scoring import Scores, score
from samdiff.model.study.work import work
from samdiff.model.training.tasks import DiffusionTask
from samdiff.pipeline.storage.lock import take_lock
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.models import write_model
from ...helpers.studies import write_study

CPU = torch.device("cpu")


def opened(folder: Path, *lines: str, out: str = "out", **more):
    return open_study(read_study(write_study(folder, *lines, **more)), folder / out, CPU)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study: its workshop, with the files of its folder by name."""
    folder = tmp_path_factory.mktemp("study")
    shop = opened(folder)
    work(shop, report=lambda _: None)
    write_report(shop)
    return shop


def files_of(out: Path) -> dict[str, object]:
    """What must not depend on interruptions: bytes of scores and results; content of checkpoints (their header's order is random)."""
    found: dict[str, object] = {
        path.relative_to(out).as_posix(): path.read_bytes() for path in [*out.glob("scores/*.json"), out / "results.json"]
    }
    for path in out.glob("r*/**/*.safetensors"):
        checkpoint = load_checkpoint(path)
        found[path.relative_to(out).as_posix()] = (weights_digest(checkpoint.tensors), checkpoint.config, checkpoint.facts)
    return found


def test_results(finished):
    """Two settings, two seeds: the numbers of the report are means of the scores in the files, worked out again here."""
    results = json.loads((finished.out / "results.json").read_text())
    assert results["complete"]
    assert [run["name"] for run in results["runs"]] == ["rrdb", *(f"{n}-seed{s}" for s in (0, 1) for n in ("none", "official"))]
    scores = {
        name: json.loads((finished.out / "scores" / f"{name}.json").read_text())["scores"]
        for name in ("none-seed0", "none-seed1", "official-seed0", "official-seed1")
    }
    per_image = {  # two tiles of each of two images
        name: [
            np.mean([v[0]["psnr_y"] for image, v in sorted(of["ddpm 2"].items()) if image.startswith(f"{k}.png")])
            for k in (18, 19)
        ]
        for name, of in scores.items()
    }
    assert all(len(of["ddpm 2"]) == 4 for of in scores.values())
    paired = np.array([np.subtract(per_image[f"official-seed{s}"], per_image[f"none-seed{s}"]) for s in (0, 1)])
    (found,) = [d for d in results["differences"] if d["primary"]]
    assert (found["setting"], found["sampler"], found["steps"], found["seeds"], found["images"]) == (
        "official",
        "ddpm",
        2,
        2,
        2,
    )
    assert found["mean"] == pytest.approx(paired.mean())
    assert found["mean"] != 0
    assert found["p_holm"] == found["p"]  # a family of one
    line = next(s for s in results["scores"] if (s["setting"], s["steps"]) == ("none", 2))
    assert line["metrics"]["psnr_y"]["by_seed"] == pytest.approx([np.mean(per_image[f"none-seed{s}"]) for s in (0, 1)])
    page = (finished.out / "study.md").read_text()
    assert "Complete: 5 runs." in page
    assert f"| `official` | PSNR Y ↑ | {paired.mean():+.3f} |" in page


def test_runs_are_ordinary_training_runs(finished):
    """The same command by hand resumes one and finds nothing to do; the settings share the RRDB bit for bit."""
    first, second = (load_checkpoint(finished.out / "runs" / name).part("rrdb") for name in ("none-seed0", "official-seed1"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert load_checkpoint(finished.out / "runs" / "none-seed0").facts["step"] == 3


def test_killed_and_resumed(tmp_path, finished, monkeypatch):
    """SIGKILL at a random place of a process, then an interrupted score: the same bytes as without. The scores that were kept are not made again."""
    monkeypatch.setattr("samdiff.model.study.scoring._EVERY", 0.0)
    file = write_study(tmp_path, store=False)
    file.write_text(file.read_text().replace(str(tmp_path / "a.zarr"), finished.study.store))
    code = f"""
import os, signal, torch
from samdiff.model.study import scoring, work
from samdiff.model.study.checks import open_study
from samdiff.model.study.config import read_study
from samdiff.model.training import run
from pathlib import Path
torch.set_num_threads(1)
real = run.save_checkpoint
def dying(path, checkpoint, overwrite=True):
    if path.name == "model.safetensors" and checkpoint.facts["step"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)  # between the last state and the model
    real(path, checkpoint, overwrite)
run.save_checkpoint = dying
work.work(open_study(read_study(Path({str(file)!r})), Path({str(tmp_path / "out")!r}), torch.device("cpu")))
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shop = open_study(read_study(file), tmp_path / "out", CPU)
    assert [each.state for each in shop.statuses()] == [DONE, *[WAITING] * 4]
    assert shop.statuses()[1].steps in (2, 3)

    kept, real = [], working.score

    def interrupted(*arguments, **named):
        def stop():
            kept.append(1)
            if len(kept) == 7:
                raise KeyboardInterrupt

        real(*arguments, **{**named, "on_image": stop})

    with monkeypatch.context() as patched:
        patched.setattr(working, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work(shop, report=lambda _: None)
    saved = json.loads((tmp_path / "out" / "scores" / "none-seed0.json").read_text())
    assert sum(len(images) for images in saved["scores"].values()) == 7
    sampled: list[int] = []
    upscale = "samdiff.model.inference.upscaler.SuperResolver.upscale"
    original = working.load_diffusion.__globals__["SuperResolver"].upscale
    monkeypatch.setattr(upscale, lambda *a, **b: (sampled.append(1), original(*a, **b))[1])
    work(shop, report=lambda _: None)
    write_report(shop)
    assert len(sampled) == 4 * 3 * 4 - 7
    ours, expected = files_of(shop.out), files_of(finished.out)
    assert ours.keys() == expected.keys()
    assert [name for name in ours if ours[name] != expected[name]] == []


def test_pairs_see_the_same(tmp_path):
    """Equal seeds of two settings: the same tiles, crops, labels, time steps and noise at every position, and the same initial weights."""
    study = read_study(write_study(tmp_path))
    runs = {run.name: run for run in plan_runs(study, 4)}
    store = open_store(tmp_path / "a.zarr")

    def batch_of(name: str):
        config = with_rescale(runs[name].config, 2.0)
        data = ShardDataset([store], config.train.patch, config.train.seed, hold_out=config.validate.images)
        return DiffusionTask(data, build_unet(config), build_rrdb(config), config, device=CPU).make_batch(40, 4)

    none, official, other = (batch_of(name) for name in ("none-seed1", "official-seed1", "none-seed0"))
    assert none.keys() == official.keys() >= {"hr", "lr", "labels", "t", "noise"}
    for key in none:
        assert torch.equal(none[key], official[key]), key
    assert not torch.equal(none["noise"], other["noise"])


def test_several_processes(tmp_path, finished, capsys, monkeypatch):
    """Two worker processes give the same bytes, in less than the whole queue each; the parent shows the queue."""
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    file = write_study(tmp_path, store=False)
    file.write_text(file.read_text().replace(str(tmp_path / "a.zarr"), finished.study.store))
    with pytest.raises(SystemExit) as ended:
        main(["study", str(file), "-o", str(tmp_path / "out"), "--workers", "2"])
    assert ended.value.code in (0, None)
    assert "5 of 5 runs done" in capsys.readouterr().out
    logs = [log.read_text() for log in sorted((tmp_path / "out" / "logs").iterdir())]
    assert sum(len(re.findall(r"^run \S+: \d of 5", log, re.M)) for log in logs) == 5
    ours, expected = files_of(tmp_path / "out"), files_of(finished.out)
    assert [name for name in expected if ours.get(name) != expected[name]] == []


def test_sigterm_stops_all_processes(tmp_path):
    """The parent gets SIGTERM: status 130, a sentence on how to resume, and no process left that holds a run."""
    file = write_study(tmp_path, steps=100_000)
    command = [sys.executable, "-m", "samdiff.cli", "study", str(file), "-o", str(tmp_path / "out"), "--workers", "2"]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        log = tmp_path / "out" / "runs" / "none-seed0" / "log.jsonl"
        while not log.exists():
            assert parent.poll() is None
            time.sleep(0.1)
        parent.terminate()
        _, said = parent.communicate(timeout=120)
    finally:
        parent.kill()
    assert parent.returncode == 130
    assert "the same command resumes from here: finished runs, saved states and scores are kept" in said
    shop = open_study(read_study(file), tmp_path / "out", CPU)
    states = [each.state for each in shop.statuses()]
    assert states[0] == DONE
    assert RUNNING not in states
    assert list((tmp_path / "out" / "runs" / "none-seed0").glob("state-diffusion-*"))


def test_a_failing_run_stops_no_other(tmp_path, capsys, monkeypatch):
    """Its reason is in the list, the report and the end; the status is 1; the same command tries it again."""
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    real, broken = working.train, [True]

    def train(stores, out, *more, **named):
        if out.name == "none-seed0" and broken[0]:
            raise RuntimeError("no memory\x1b[31m")
        return real(stores, out, *more, **named)

    monkeypatch.setattr(working, "train", train)
    words = ["study", str(write_study(tmp_path, steps=1)), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    assert r"run none-seed0 failed: RuntimeError: no memory\x1b[31m" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not results["complete"]
    assert {run["name"]: run["state"] for run in results["runs"]}["official-seed1"] == DONE
    assert [d["seeds"] for d in results["differences"] if d["primary"]] == [1]  # the pair of seed 1
    assert "**Partial: 4 of 5 runs are done." in (tmp_path / "out" / "study.md").read_text()
    with pytest.raises(SystemExit):
        main([*words, "--list", "--json"])
    assert json.loads(capsys.readouterr().out)["queue"][1] | {"samples_per_s": 0} == {
        "name": "none-seed0", "state": FAILED, "steps": 0, "of": 1, "samples_per_s": 0
    }  # fmt: skip
    broken[0] = False
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["complete"]


def test_nothing_is_done_before_all_is_checked(tmp_path):
    """Impossible runs of a possible file: one message for all, no folder."""
    more = """
[[setting]]
name = "drift"
overrides.diffusion.modulation = "paper"
[[setting]]
name = "large"
overrides.train.patch = 4000
"""
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path, more=more)
    assert "setting 'drift': sampler 'ddpm' with modulation 'paper'" in str(caught.value)
    assert "setting 'large': patch: expected a multiple of 4" in str(caught.value)
    file = write_study(tmp_path, store=False)
    file.write_text(file.read_text().replace('"psnr_boundary"', '"lpips"'))
    with pytest.raises(ConfigError, match="metrics: lpips needs images with sides of at least 31 pixels"):
        open_study(read_study(file), tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()


def test_other_stores_hold_the_same_images(tmp_path):
    from ...helpers.stores import make_store

    make_store(tmp_path / "b.zarr", n=40, masks=(2, 1) * 10)
    with pytest.raises(StoreError, match=r"b.zarr: expected the images and tiles of .*a.zarr, got 40 tiles of 24 px"):
        opened(tmp_path, more=f'store = "{tmp_path / "b.zarr"}"')


def test_changed_settings_of_begun_runs(tmp_path, finished):
    file = write_study(tmp_path, store=False)
    text = file.read_text().replace(str(tmp_path / "a.zarr"), finished.study.store)
    file.write_text(text.replace("train.lr=1e-3", "train.lr=1e-2"))
    with pytest.raises(
        ConfigError, match=r"runs were begun with other settings \(rrdb: train.lr: was 0.001, now 0.01; none-seed0"
    ):
        open_study(read_study(file), finished.out, CPU)


def test_other_peoples_files(tmp_path, finished):
    """A folder of others, another study's, and files of ours' names."""
    file = write_study(tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").write_text("mine")
    for folder, message in (
        (tmp_path / "theirs", "holds files and no study.json"),
        (tmp_path / "a.zarr" / "out", "lies in the store"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["-q", "study", str(file), "-o", str(folder)])
        assert ended.value.code == 2, message
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["notes.txt"]
    page = finished.out / "study.md"
    ours = page.read_bytes()
    page.write_text("# my own notes")
    try:
        with pytest.raises(
            StoreError, match=r"study.md: expected a file that `samdiff study` wrote, got another; move it away"
        ):
            write_report(finished)
        assert page.read_text() == "# my own notes"
    finally:
        page.write_bytes(ours)


def test_scores_of_another_model_are_made_again(tmp_path):
    file = tmp_path / "a.json"
    first = Scores(file, {"model": "a"})
    first.by_budget["ddpm 1"] = {"x": [{"psnr_y": 1.0}]}
    first.write()
    assert Scores(file, {"model": "a"}).by_budget == first.by_budget
    assert Scores(file, {"model": "b"}).by_budget == {}
    file.write_text("{}")
    with pytest.raises(StoreError, match="move it away"):
        Scores(file, {"model": "a"})


def test_queue_as_text(tmp_path):
    """A running run has no place; the estimate takes the mean rate for runs that have none."""
    shop = opened(tmp_path)
    shop.out.mkdir()
    record_failure(place_of(shop.out, shop.runs[2]), ValueError("x"))
    with take_lock(place_of(shop.out, shop.runs[1]).lock, "here", "samdiff study"):
        folder = place_of(shop.out, shop.runs[1]).folder
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text('{"stage": "diffusion", "step": 2, "samples_per_s": 8.0}\n{"stage": "diff')
        statuses = shop.statuses()
    assert [row[:4] for row in queue_rows(statuses)] == [
        ["1", "rrdb", WAITING, "0/2"],
        ["", "none-seed0", RUNNING, "2/3"],
        ["", "official-seed0", FAILED, "0/3"],
        ["2", "none-seed1", WAITING, "0/3"],
        ["3", "official-seed1", WAITING, "0/3"],
    ]
    assert seconds_left(statuses, 2) == (2 + 1 + 0 + 3 + 3) * 4 / 8.0 / 2
    assert summary(statuses, "3 h") == "0 of 5 runs done, 1 running, 3 waiting, 1 failed; about 3 h of training left"
    assert os.path.exists(place_of(shop.out, shop.runs[1]).lock)
    assert shop.statuses()[1].state == WAITING


def test_the_true_scale_is_given_in_sampling(tmp_path):
    """`scale_from = "oracle"`: sampled with the scale of the label map; an image without masks is left out, and with it its pairs."""
    shop = opened(tmp_path)
    model = load_model(
        write_model(tmp_path / "m.safetensors", "diffusion.modulation=none", "diffusion.scale_from=oracle"), "cpu"
    )
    image = shop.images[0]
    bare = replace(image, name="bare", group="bare", labels=None)
    scores = Scores(tmp_path / "s.json", {})
    budget = Budget("ddpm", 2)
    score(model, [image, bare], [RRDB_ALONE, budget], study=shop.study, networks={}, scores=scores)
    scale = oracle_scale(model, image.lr, image.hr, image.labels)
    sr = model.upscale(image.lr, sampler="ddpm", steps=2, seed=0, num_samples=1, noise_scale=scale)
    (sample,) = scores.by_budget["ddpm 2"][image.name]
    assert sample["psnr_y"] == psnr_y(sr, image.hr, 4)
    assert scores.by_budget["ddpm 2"]["bare"] == []
    assert len(scores.by_budget["rrdb"]["bare"]) == 1


@pytest.mark.parametrize("name", ["structure", "modulations", "pilot"])
def test_ready_studies(name):
    """Their files are valid, with their names, and give possible settings; `none` comes first."""
    file = Path(samdiff.__file__).parent / "benchmarks" / "studies" / f"{name}.toml"
    study = read_study(file)
    runs = plan_runs(study, 4)
    assert study.name == name
    assert runs[0].name == "none-seed0"
    assert all(with_rescale(run.config, 2.0).diffusion.build_process() for run in runs)
    if name == "structure":  # the required settings have three seeds, and are ahead of all others in each round
        required = ["none", "official", "scale-masks", "scale-blur", "scale-crop", "scale-random"]
        assert [run.name for run in runs if run.seed] == [f"{each}-seed{seed}" for seed in (1, 2) for each in required]
        assert [run.setting for run in runs[: len(required)]] == required
