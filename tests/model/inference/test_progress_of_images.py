"""The finished part of an image, and the total time of several."""

import pytest

from samdiff import load_model
from samdiff.progress import ImageProgress, PlainProgress

from ...helpers.models import write_model
from .test_infer import random_image


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (("diffusion.modulation=none",), {"steps": 3, "num_samples": 2}),
        (("diffusion.modulation=joint",), {"steps": 3}),
        (("diffusion.modulation=none",), {"steps": 3, "start": "rrdb"}),
        (
            ("diffusion.modulation=none", "diffusion.base=rrdb", "diffusion.process=flow", "diffusion.residual_scale=4"),
            {"steps": 2},
        ),
        (("diffusion.modulation=none",), {"rrdb_only": True}),
    ],
)
@pytest.mark.parametrize("tile", [0, 36])
def test_the_finished_part_grows_to_one(tmp_path, words, settings, tile):
    """Each tile of each network pass counts the same, whatever is sampled."""
    model, parts = load_model(write_model(tmp_path / "m.safetensors", *words), "cpu"), []
    model.upscale(random_image(40, 50, 3), tile=tile, on_progress=parts.append, **settings)
    assert parts == pytest.approx([(k + 1) / len(parts) for k in range(len(parts))])
    assert (len(parts) >= 4) if tile else (len(parts) <= 8)


def test_the_total_is_reported_once(monkeypatch):
    """After the first tile, for all images; not if it takes a few seconds only."""
    now, lines = [100.0], []
    monkeypatch.setattr("samdiff.progress.time.monotonic", lambda: now[0])
    bar = PlainProgress(desc="a.png", total=3, unit="%", clock=lambda: now[0])
    advance = ImageProgress(bar, jobs=3, report=lines.append)
    advance.finish(1)  # an image that was there already
    now[0] += 6
    advance(0.1)
    advance(0.5)
    assert lines == ["about 2 min in all for 3 images, if they are like the first"]
    assert bar.n == 1.5
    assert bar.line(6.0) == "a.png: 50 %, about 6 s left"
    short = ImageProgress(PlainProgress(desc="b.png", total=1, unit="%"), jobs=1, report=lines.append)
    now[0] += 1
    short(0.5)
    assert len(lines) == 1
