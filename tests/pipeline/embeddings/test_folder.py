"""A folder of kept embeddings: what is computed again, what is never touched; and `prepare --keep-embeddings`."""

import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import samdiff
from samdiff.errors import ConfigError, StoreError, WeightsError
from samdiff.pipeline.embeddings.file_format import EncoderFacts
from samdiff.pipeline.embeddings.folder import EmbeddingFolder, embedding_root
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.masks.settings import MaskConfig
from samdiff.pipeline.point_models.interface import point_model
from samdiff.pipeline.prepare.mask_stage import plan_generator
from samdiff.pipeline.sam.load import build_segmenter

from ...helpers.tiny_sam2 import tiny_sam2
from ..sam.test_segmenters import sample

SAM = EncoderFacts("mobile_sam", "ab" * 32, compiled=False, family="sam")
CPU = torch.device("cpu")


def images(count: int) -> list[np.ndarray]:
    return [np.full((3, 2 + k, 3), k, np.uint8) for k in range(count)]


class Encoder:
    """Embeddings that depend on the pixels, and a list of how many were computed by each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, batch):
        self.calls.append(len(batch))
        return torch.stack([torch.full((256, 64, 64), 0.1 + float(image[0, 0, 0])) for image in batch])


def test_only_what_is_not_kept_is_computed(tmp_path):
    """Equal images once; values are those of float16 in every case; another process finds them."""
    folder, encode = EmbeddingFolder(tmp_path / "new" / "kept", SAM), Encoder()
    one, two, three = images(3)
    first = folder.embeddings([one, two, one], encode, CPU)
    assert encode.calls == [2]
    assert torch.equal(first[:, 0, 0, 0], torch.tensor([0.1, 1.1, 0.1]).half().float())
    again = EmbeddingFolder(folder.root, SAM)
    assert torch.equal(again.embeddings([two, three, one], encode, CPU)[[2, 0]], first[:2])
    assert encode.calls == [2, 1]
    assert (again.n_read, again.n_computed, len(os.listdir(folder.root))) == (2, 1, 3)
    assert again.embeddings([one], None, CPU).dtype == torch.float32
    other = EmbeddingFolder(folder.root, EncoderFacts("mobile_sam", "cd" * 32, compiled=False, family="sam"))
    other.embeddings([one], encode, CPU)
    assert encode.calls == [2, 1, 1]


def test_damaged_files_are_computed_again_and_others_are_left(tmp_path, caplog):
    """One line each. A damaged file of ours is replaced; a file, link or folder of the user that has its name stays."""
    folder, encode = EmbeddingFolder(tmp_path, SAM), Encoder()
    pixels = images(4)
    expected = folder.embeddings(pixels, encode, CPU)
    (tmp_path / "notes.txt").write_text("mine")
    paths = [path for image in pixels for path in [tmp_path / f"{_key(image)}.embedding"]]
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[:-7])
    paths[1].write_bytes(b"a file of the user")
    paths[2].unlink()
    paths[2].mkdir()
    paths[3].unlink()
    paths[3].symlink_to(tmp_path / "notes.txt")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(folder.embeddings(pixels, encode, CPU), expected)
    assert encode.calls == [4, 4]
    assert paths[0].read_bytes() == data
    assert paths[1].read_bytes() == b"a file of the user"
    assert paths[2].is_dir()
    assert paths[3].is_symlink()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    lines = [record.getMessage() for record in caplog.records]
    assert sum("not used, the embedding is computed again" in line for line in lines) == 4
    assert sum("left as it is" in line for line in lines) == 3
    assert not list(tmp_path.glob(".*"))


def _key(image):
    from samdiff.pipeline.embeddings.file_format import key_of

    return key_of(image, SAM)


def test_a_huge_file_is_not_read(tmp_path, caplog):
    """1 TB of zeros under the name of an embedding: refused by its size."""
    (image,) = images(1)
    with open(tmp_path / f"{_key(image)}.embedding", "wb") as file:
        try:
            file.truncate(1 << 40)
        except OSError:
            pytest.skip("this disk has no sparse files")
    EmbeddingFolder(tmp_path, SAM).embeddings([image], Encoder(), CPU)
    assert "expected at most" in caplog.text


def test_one_error_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (image,) = images(1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder or nothing, got a file"):
        embedding_root(tmp_path / "file")
    with pytest.raises(ConfigError, match="got a URL"):
        embedding_root("s3://bucket/x")
    with pytest.raises(StoreError, match="cannot be written: .* another --keep-embeddings"):
        EmbeddingFolder(tmp_path / "file", SAM).embeddings([image], Encoder(), CPU)
    with pytest.raises(WeightsError, match="outside the range of float16"):
        EmbeddingFolder(tmp_path, SAM).embeddings([image], lambda batch: torch.full((1, 256, 64, 64), 1e5), CPU)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("samdiff.pipeline.embeddings.folder.write_atomic", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(StoreError, match="No space left on device; free some space"):
        EmbeddingFolder(tmp_path, SAM).embeddings([image], Encoder(), CPU)


def test_shapes_are_those_of_the_models():
    """The sizes by which files are bounded."""
    model = point_model(build_segmenter("mobile_sam"))
    assert tuple(model.encode(torch.zeros(1, 3, 1024, 1024)).shape[1:]) == SAM.shape
    two = EncoderFacts("sam2.1_t", "ab" * 32, compiled=False, family="sam2")
    assert tuple(point_model(tiny_sam2()).encode(torch.zeros(1, 3, 1024, 1024)).shape[1:]) == two.shape


def test_which_segmenters_keep_embeddings(tmp_path):
    with pytest.raises(ConfigError, match="weights is not known"):
        MaskGenerator(build_segmenter("mobile_sam"), keep_embeddings=tmp_path)
    for name in ("hf:some/model", "my.module:Class"):
        with pytest.raises(
            ConfigError, match=f"--keep-embeddings: expected a segmenter of samdiff's mask engine .* got {name}"
        ):
            plan_generator(name, "cpu", keep_embeddings=tmp_path)
    assert MaskConfig(crop_n_layers=2).crops_per_image == 21


@pytest.mark.weights
def test_masks_do_not_depend_on_what_is_kept(mobile_sam, tmp_path, monkeypatch):
    """Other points, thresholds and mode from the same files without the encoder; crops, too; nearly the masks of float32."""
    image = sample("coffee.png")[100:260, 50:290].copy()
    given = {"points_per_side": 3, "crop_n_layers": 1, "keep_embeddings": tmp_path}
    first = MaskGenerator(mobile_sam, **given)
    masks = first.generate(image)
    assert len(masks) > 1
    assert len(list(tmp_path.glob("*.embedding"))) == first.embeddings.n_computed == 5 == first.settings.crops_per_image
    assert first.describe()["embeddings"] == "float16"
    assert "embeddings" not in MaskGenerator(mobile_sam).describe()
    again = MaskGenerator(mobile_sam, **given)
    denser = MaskGenerator(mobile_sam, **(given | {"points_per_side": 5, "mode": "fast", "stability_score_thresh": 0.9}))
    for generator in (again, denser):
        monkeypatch.setattr(generator.engine, "encoder", None)
    assert again.generate(image) == masks
    assert len(denser.generate(image)) > 1
    plain = MaskGenerator(mobile_sam, **(given | {"keep_embeddings": None})).generate(image)
    assert [record["area"] for record in plain] == pytest.approx([record["area"] for record in masks], rel=0.02)


@pytest.mark.weights
def test_prepare_keeps_embeddings(tmp_path, caplog):
    """An estimate first; another grid computes no embedding; the store says so, and is not mixed with one of float32."""
    source = tmp_path / "source"
    source.mkdir()
    for name, part in (("a", np.s_[0:64, 0:64]), ("b", np.s_[100:164, 0:64])):
        cv2.imwrite(str(source / f"{name}.png"), sample("coffee.png")[part])
    given = {"sam": "mobile_sam", "device": "cpu", "tile": 64, "keep_embeddings": tmp_path / "kept"}
    with caplog.at_level(logging.INFO):
        store = samdiff.prepare(source, tmp_path / "x.zarr", points_per_side=2, **given)
    assert "embeddings of 2 images: at most 4.2 MB in" in caplog.text
    assert "embeddings: 0 read, 2 computed" in caplog.text
    assert store.attrs["segmenter"]["embeddings"] == "float16"
    with caplog.at_level(logging.INFO):
        samdiff.prepare(source, tmp_path / "y.zarr", points_per_side=3, **given)
    assert "embeddings: 2 read, 0 computed" in caplog.text
    plain = {**given, "keep_embeddings": None}
    with pytest.raises(StoreError, match=r"segmenter\.embeddings: was 'float16', now None"):
        samdiff.prepare(source, tmp_path / "x.zarr", points_per_side=2, **plain)
    with pytest.raises(ConfigError, match="holds the folder of --keep-embeddings"):
        samdiff.prepare(source, tmp_path / "z.zarr", **(given | {"keep_embeddings": tmp_path / "z.zarr" / "kept"}))
    with pytest.raises(ConfigError, match=r"lies inside the store .*x\.zarr"):
        samdiff.prepare(source, tmp_path / "z.zarr", **(given | {"keep_embeddings": tmp_path / "x.zarr" / "kept"}))
    assert not Path(tmp_path / "z.zarr").exists()
