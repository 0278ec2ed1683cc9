"""Images are read and preprocessed in threads while the segmenter works: the masks, the reasons and the bytes are the same."""

import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from samdiff.pipeline.images.decode import Limits
from samdiff.pipeline.masks.adapters import MasksFromLR
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.prepare.mask_stage import local_masks, read_ahead_of
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.scan import read_usable, scan
from samdiff.pipeline.sam.load import build_segmenter

from ..workers.test_cluster import stored

COUNT = 9
SETTINGS = PrepareConfig(scale=4, tile=64)
READ = partial(read_usable, scale=4, tile=64, limits=Limits())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images; one is too small, one is damaged."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        image = np.random.default_rng(number).integers(0, 255, (66, 70 + 4 * (number % 3), 3), dtype=np.uint8)
        image[0, 0] = number
        cv2.imwrite(str(folder / f"{number}.png"), image[:20] if number == 3 else image)
    (folder / "5.png").write_bytes(b"no image")
    return folder


class Plain:
    """One mask per image, as wide as its first pixel says."""

    def describe(self) -> dict[str, object]:
        return {"name": "plain"}

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict]]:
        for image in images:
            size, first = image.shape[:2], int(image[0, 0, 0])
            runs = [5, first + 1, size[0] * size[1] - 6 - first]
            yield [{"segmentation": {"size": list(size), "counts": runs}}]


class Preprocessing(Plain):
    """The same; the pixels come from `preprocess_ahead`, and each image waits until the next one has been preprocessed."""

    def __init__(self, count: int) -> None:
        self.threads: list[str] = []
        self.count, self.done = count, threading.Semaphore(0)

    def preprocess_ahead(self, image: np.ndarray) -> list[np.ndarray]:
        self.threads.append(threading.current_thread().name)
        self.done.release()
        return [image]

    def generate_batch(self, images: Iterable[list[np.ndarray]]) -> Iterator[list[dict]]:
        assert self.done.acquire(timeout=60)
        for number, (image,) in enumerate(images):
            if number < self.count - 1:
                assert self.done.acquire(timeout=60), "the next image was not preprocessed while this one was segmented"
            yield from super().generate_batch([image])


@pytest.mark.parametrize("lr", [False, True])
def test_the_store_of_a_segmenter_that_preprocesses(images, tmp_path, lr):
    """The bytes and the reasons of one that does not; every usable image once, in other threads."""
    wrap = partial(MasksFromLR, scale=4) if lr else lambda masks: masks
    masks = Preprocessing(COUNT - 2)
    plain = prepare(images, tmp_path / "a.zarr", wrap(Plain()), SETTINGS)
    ahead = prepare(images, tmp_path / "b.zarr", wrap(masks), SETTINGS)
    assert (plain.images, plain.segmented, plain.skipped) == (ahead.images, ahead.segmented, ahead.skipped)
    assert sorted(ahead.skipped) == ["3.png", "5.png"]
    assert stored(tmp_path / "a.zarr") == stored(tmp_path / "b.zarr")
    assert len(masks.threads) == COUNT - 2
    assert all(name.startswith("decode") for name in masks.threads)


def test_memory_is_counted(images):
    """Pixels, and what was made of them."""

    class Made:
        nbytes = 1000

    class Makes(Plain):
        def preprocess_ahead(self, image: np.ndarray) -> Made:
            return Made()

    item = scan(images)[0]
    for masks, more in ((Plain(), 0), (Makes(), 1000), (MasksFromLR(Makes(), 4), 1000 + 3 * 16 * 17)):
        with read_ahead_of(masks, [item], READ) as ready:
            assert next(ready)[1].nbytes == 64 * 68 * 3 + more


def test_an_error_in_the_segmenter_leaves_no_thread(images):
    """The reasons of images that were refused before come out first."""

    class Fails(Plain):
        def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict]]:
            for number, image in enumerate(images):
                if number == 4:
                    raise KeyboardInterrupt
                yield from super().generate_batch([image])

    seen: list[str] = []

    def interrupted() -> None:
        seen.extend(item.image_file.name for item, _ in local_masks(Fails(), scan(images), READ))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("kept", [False, True])
def test_the_mask_engine_encodes_the_same_input(tmp_path, kept):
    """With crops; the encoder gets the tensors that it gets for plain images, and masks are made of its result."""
    generator = MaskGenerator(build_segmenter("mobile_sam"), points_per_side=1, crop_n_layers=1, keep_embeddings=None)
    engine, inputs = generator.engine, []

    def encoder(pixels: torch.Tensor) -> torch.Tensor:
        inputs.append(pixels.clone())
        return torch.zeros(len(pixels), 256, 64, 64)

    engine.encoder, engine.encoder_batch = encoder, 2
    if kept:
        generator.embeddings = EveryOther()
    pictures = [np.random.default_rng(k).integers(0, 255, (40 + k, 90, 3), dtype=np.uint8) for k in range(2)]
    plain = [table.counts for table in generator.generate_batch(pictures)]
    ahead = [generator.preprocess_ahead(image) for image in pictures]
    assert [len(image.crops) for image in ahead] == [5, 5]
    assert ahead[0].nbytes >= 1024 * 455 * 3
    half = len(inputs)
    engine.model.resized = None  # everything was resized
    again = [table.counts for table in generator.generate_batch(ahead)]
    assert len(inputs) == 2 * half > 0
    assert all(torch.equal(one, two) for one, two in zip(inputs[:half], inputs[half:], strict=True))
    assert len(plain) == len(again) == 2


class EveryOther:
    """Like a folder of kept embeddings that has those of every second crop."""

    def embeddings(self, images, encode, device, resized=None):
        assert len(images) == len(resized)
        made = encode(list(resized[::2]))
        return made.repeat_interleave(2, dim=0)[: len(images)]
