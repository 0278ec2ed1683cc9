"""What a page shows of a run equals its log and its validation sheets."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from samdiff.errors import ConfigError
from samdiff.model.inference.image_io import save_image
from samdiff.report.files import ImageFiles
from samdiff.report.runs import curves, read_log, read_run, thinned


@pytest.fixture
def files(tmp_path):
    return ImageFiles(tmp_path / "files", inline_bytes=1 << 30)


def write_run(folder, lines, settings=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings or {"train": {"batch": 4, "lr": 0.5}, "stores": ["f"]}))
    (folder / "log.jsonl").write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return folder


def line(step, stage="diffusion", **values):
    return {"stage": stage, "step": step, **values}


def test_curves_time_and_memory(tmp_path, files):
    """Time is steps times batch over samples per second; a step that a resumed run did again counts once, with its last value."""
    lines = [
        line(10, "rrdb", loss=1.0, samples_per_s=2.0, lr=0.1, peak_memory_mb=300.0),
        line(10, "rrdb", loss=0.9, samples_per_s=4.0, lr=0.1, peak_memory_mb=500.0),
        line(20, "rrdb", loss=float("nan"), samples_per_s=8.0, lr=0.1),
        line(20, "rrdb", validation="Set5", psnr_y=30.5, bicubic_psnr_y=28.0),
        '{"stage": "rrdb", "st',
    ]
    part = read_run(write_run(tmp_path / "run", lines), files, images=9, side=99)
    made = {(curve.plot, curve.name): (curve.steps, curve.values) for curve in part.curves}
    assert made["Loss", "rrdb"] == ((10,), (0.9,))
    assert made["PSNR on Y (dB)", "Set5, rrdb"] == ((20,), (30.5,))
    assert made["PSNR on Y (dB)", "Set5, bicubic"] == ((20,), (28.0,))
    assert [curve.name for curve in part.curves if curve.reference] == ["Set5, bicubic"]
    facts = dict(part.facts)
    assert facts["time of rrdb"].startswith("15 s")  # 40 samples at 4 per second and 40 at 8
    assert facts["peak memory of rrdb"] == "500 MB"
    assert dict(part.numbers)["PSNR on Y"] == "30.50 dB"
    assert ("train.lr", "0.5") in part.settings
    assert part.notes == ("1 lines of log.jsonl could not be read and are left out.",)


def test_without_validation_and_without_a_log(tmp_path, files):
    run = write_run(tmp_path / "run", [line(1, loss=1.0)])
    assert "no validation" in read_run(run, files, images=9, side=99).notes[0]
    (run / "log.jsonl").unlink()
    part = read_run(run, files, images=9, side=99)
    assert "no lines yet" in part.notes[0]
    assert part.curves == ()


def test_damaged_settings_are_an_error(tmp_path, files):
    run = write_run(tmp_path / "run", [])
    (run / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected the settings of a run"):
        read_run(run, files, images=9, side=99)


def test_a_log_that_is_no_file(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_log(tmp_path / "log.jsonl")


def test_long_curves_are_thinned_to_means():
    points = [(step, float(step)) for step in range(1, 100_001)]
    kept = thinned(points, 1000)
    assert len(kept) == 1000
    assert kept[0] == (100, 50.5)
    assert kept[-1][0] == 100_000
    assert np.mean([value for _, value in kept]) == pytest.approx(50_000.5)
    assert len(curves([line(k, loss=1.0) for k in range(5000)])[0].steps) == 2000


def test_sheets_are_cut_into_their_three_images(tmp_path, files):
    """Bicubic and HR of the last step, the results of all steps in their order: stage one first, steps as numbers."""
    run = write_run(tmp_path / "run", [])
    panels = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 10, 3), dtype=np.uint8)
    folder = run / "visualization" / "Set5" / "bird"
    for (stage, step), (bicubic, result, hr) in zip(
        (("rrdb", 5), ("diffusion", 9), ("diffusion", 10), ("diffusion", 100)), panels, strict=True
    ):
        save_image(np.hstack([bicubic, result, hr]), folder / f"bird_{stage}_{step}.png")
    (folder / "other.png").write_text("theirs")
    part = read_run(run, files, images=9, side=99)
    (image,) = part.images
    assert [(stage, step) for stage, step, _ in image.results] == [
        ("rrdb", 5),
        ("diffusion", 9),
        ("diffusion", 10),
        ("diffusion", 100),
    ]
    for key, expected in ((image.bicubic, panels[3, 0]), (image.results[1][2], panels[1, 1]), (image.hr, panels[3, 2])):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(files.inline[key]))), expected)
    fewer = read_run(run, files, images=2, side=4)
    assert [step for _, step, _ in fewer.images[0].results] == [10, 100]
    assert (fewer.images[0].width, fewer.images[0].height) == (4, 3)
    assert any("2 of 4 validation sheets" in note for note in fewer.notes)


def test_a_damaged_sheet_is_a_note(tmp_path, files):
    run = write_run(tmp_path / "run", [])
    folder = run / "visualization" / "Set5" / "bird"
    folder.mkdir(parents=True)
    (folder / "bird_rrdb_5.png").write_text("no image")
    part = read_run(run, files, images=9, side=99)
    assert part.images == ()
    assert any("bird_rrdb_5.png" in note for note in part.notes)
