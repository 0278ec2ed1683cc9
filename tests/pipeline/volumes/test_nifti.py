"""NIfTI: slices are the voxels of the volume, in its units; nothing of a patient is kept; memory is bounded by a plane."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from samdiff import open_store
from samdiff.errors import ImageError
from samdiff.pipeline.decoding.image_data import decode_image
from samdiff.pipeline.images.sources import ImageFile, Limits, SourceReader, hash_images, list_source, with_slices
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.scan import scan
from samdiff.pipeline.scientific.read import read_native
from samdiff.pipeline.scientific.settings import PixelConfig
from samdiff.pipeline.volumes.nifti import header_of, read_slice, slice_bytes
from samdiff.pipeline.volumes.stream import unpacked

from ...helpers.measured import Boxes

SECRETS = (b"Doe^Jane", b"PAT-4711", b"St Elsewhere")
CODES = {"uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64, "uint16": 512, "complex64": 32}


def nifti(
    values: np.ndarray,
    *,
    spacing: tuple[float, ...] = (0.8, 0.9, 3.0),
    scaling: tuple[float, float] = (0.0, 0.0),
    order: str = "<",
    version: int = 1,
    units: int = 2,
) -> bytes:
    """values[i, j, k(, t)] as a file with a description, an auxiliary file name and an extension that name a patient."""
    dims = (values.ndim, *values.shape, *([1] * (7 - values.ndim)))
    distances = (1.0, *spacing, *([2.0] * (7 - len(spacing))))
    code, bits = CODES[values.dtype.name], values.dtype.itemsize * 8
    extension = b"\1\0\0\0" + struct.pack(f"{order}ii", 48, 6) + SECRETS[2].ljust(40, b"\0")
    head = bytearray(348 if version == 1 else 540)
    if version == 1:
        head[:4], head[40:56] = struct.pack(f"{order}i", 348), struct.pack(f"{order}8h", *dims)
        head[70:74], head[76:108] = struct.pack(f"{order}hh", code, bits), struct.pack(f"{order}8f", *distances)
        head[108:120], head[123] = struct.pack(f"{order}3f", 400.0, *scaling), units
        head[148:156], head[228:236], head[344:348] = SECRETS[0], SECRETS[1], b"n+1\0"
    else:
        head[:4], head[4:12] = struct.pack(f"{order}i", 540), b"n+2\0\r\n\x1a\n"
        head[12:16], head[16:80] = struct.pack(f"{order}hh", code, bits), struct.pack(f"{order}8q", *dims)
        head[104:168], head[168:192] = struct.pack(f"{order}8d", *distances), struct.pack(f"{order}qdd", 592, *scaling)
        head[240:248], head[500:504] = SECRETS[0], struct.pack(f"{order}i", units)
    return bytes(head) + extension + values.astype(values.dtype.newbyteorder(order)).tobytes(order="F")


def volume(dtype: str = "int16", shape: tuple[int, ...] = (40, 48, 5)) -> np.ndarray:
    random = np.random.default_rng(1)
    return (random.normal(300, 120, shape) + np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) * 9).astype(dtype)


def cut(data: bytes, axis: int, number: int) -> np.ndarray:
    """A slice, in its units."""
    return read_slice(slice_bytes([data[:100], data[100:]], axis, number))[0]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_slices_are_those_of_the_volume(version: int, order: str, packed: bool) -> None:
    values = volume()
    data = nifti(values, order=order, version=version)
    data = gzip.compress(data) if packed else data
    for number in range(5):
        np.testing.assert_array_equal(cut(data, 2, number), values[:, :, number].T)
    np.testing.assert_array_equal(cut(data, 1, 7), values[:, 7].T)
    np.testing.assert_array_equal(cut(data, 0, 39), values[39].T)


def test_spacing_and_axis() -> None:
    header = header_of(nifti(volume(), spacing=(0.8, 3.0, 0.9))[:540])
    assert header.slice_axis() == 1
    assert header.slice_axis("k") == 2
    assert header_of(nifti(volume(), spacing=(1.0, 1.0, 1.0))[:540]).slice_axis() == 2
    rows, columns = read_slice(slice_bytes([nifti(volume())], 2, 0))[1]
    assert (rows, columns) == pytest.approx((0.9, 0.8))
    assert read_slice(slice_bytes([nifti(volume(), units=3)], 2, 0))[1] == pytest.approx((0.0009, 0.0008))
    assert read_slice(slice_bytes([nifti(volume(), spacing=(0, 0, 0))], 2, 0))[1] is None


@pytest.mark.parametrize(
    ("dtype", "kept"), [("uint8", "uint8"), ("uint16", "uint16"), ("int32", "float32"), ("float64", "float32")]
)
def test_types(dtype: str, kept: str) -> None:
    values = volume(dtype)
    found = cut(nifti(values), 2, 3)
    assert found.dtype == kept
    np.testing.assert_array_equal(found, values[:, :, 3].T.astype(kept))


def test_scaling_is_applied() -> None:
    values = volume()
    found = cut(nifti(values, scaling=(0.5, -20.0)), 2, 1)
    np.testing.assert_allclose(found, values[:, :, 1].T * 0.5 - 20)
    assert found.dtype == np.float32


def test_as_nibabel_reads_it(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="an independent reader")
    image = nibabel.Nifti1Image(volume("float32").astype(np.float32), np.diag([2.0, 2.5, 4.0, 1.0]))
    image.set_data_dtype(np.int16)  # it chooses slope and intercept
    nibabel.save(image, tmp_path / "a.nii.gz")
    again = nibabel.load(tmp_path / "a.nii.gz")
    data = (tmp_path / "a.nii.gz").read_bytes()
    np.testing.assert_allclose(cut(data, 2, 4), np.asarray(again.dataobj)[:, :, 4].T, rtol=1e-5)
    own = nibabel.Nifti1Image.from_bytes(slice_bytes([data], 2, 4))
    np.testing.assert_allclose(np.asarray(own.dataobj), np.asarray(again.dataobj)[:, :, 4], rtol=1e-5)
    assert own.header.get_zooms() == (2.0, 2.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:400], "cut off"),
        (lambda data: gzip.compress(data)[:-3000], "cut off"),
        (lambda data: gzip.compress(data)[:2000] + b"\xff" * 9000, "gzip data are damaged"),
        (lambda data: data[:40] + struct.pack("<8h", 9, *[3] * 7) + data[56:], "invalid dimensions"),
        (lambda data: data[:40] + struct.pack("<8h", 3, -1, 2, 2, 1, 1, 1, 1) + data[56:], "invalid dimensions"),
        (lambda data: data[:70] + struct.pack("<h", 32) + data[72:], "datatype 32"),
        (lambda data: data[:108] + struct.pack("<f", np.nan) + data[112:], "invalid offset of the voxels"),
        (lambda data: b"x" + data[1:], "not a single-file NIfTI"),
    ],
)
def test_damage(change, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        slice_bytes([change(nifti(volume()))], 2, 4)


def test_memory_is_that_of_a_plane() -> None:
    """A header that claims terabytes, in a gzip file of zeros that unpacks to 64 MB."""
    head = bytearray(nifti(np.zeros((4, 4, 4), np.int16)))
    head[40:56] = struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    bomb = gzip.compress(bytes(head) + bytes(64 << 20), 1)
    tracemalloc.start()
    with pytest.raises(ImageError, match="cut off"):
        slice_bytes([bomb], 2, 20000)
    with pytest.raises(ImageError, match="NIfTI: a slice of 1800 MB, more than the 100 MB"):
        slice_bytes([bomb], 2, 0, most_bytes=1e8)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_a_volume_of_too_many_slices_is_one_line(tmp_path: Path) -> None:
    head = bytearray(nifti(np.zeros((4, 4, 4), np.int16), version=2))
    head[16:80] = struct.pack("<8q", 3, 4, 4, 1 << 30, 1, 1, 1, 1)
    (tmp_path / "a.nii").write_bytes(head)
    (image,) = with_slices(list_source(tmp_path), axis="k", limits=Limits())
    assert image.problem == "a NIfTI volume of 1073741824 slices, more than 100000"


def test_gzip_members_and_pieces_of_any_size() -> None:
    data = bytes(range(256)) * 20_000
    packed = gzip.compress(data[:3_000_000]) + gzip.compress(data[3_000_000:]) + b"\0" * 512
    for size in (7, 1000, len(packed)) if len(packed) < 100_000 else (1000, len(packed)):
        pieces = [packed[at : at + size] for at in range(0, len(packed), size)]
        assert b"".join(unpacked(pieces)) == data


def listed(folder: Path, data: bytes, name: str = "a.nii.gz") -> list[ImageFile]:
    """The listing of a folder with one file."""
    folder.mkdir()
    (folder / name).write_bytes(data)
    return with_slices(list_source(folder), axis="k", limits=Limits())


def test_a_volume_that_is_damaged_anywhere_is_skipped_as_a_whole(tmp_path: Path) -> None:
    """A flipped bit may change voxels without an error until the end of the file, where the checksum is."""
    values = np.random.default_rng(0).integers(0, 50, (64, 64, 40)).astype(np.int16)
    packed = bytearray(gzip.compress(nifti(values), 1))
    assert len(listed(tmp_path / "whole", bytes(packed))) == 40
    for number, at in enumerate((len(packed) // 3, len(packed) // 2)):
        flipped = bytearray(packed)
        flipped[at] ^= 4
        (image,) = listed(tmp_path / f"flipped{number}", bytes(flipped))
        assert "gzip data are" in image.problem
    (image,) = listed(tmp_path / "cut", bytes(packed[: len(packed) // 2]))
    assert "cut off" in image.problem
    (image,) = listed(tmp_path / "short", nifti(values)[:-1], "a.nii")
    assert image.problem == "NIfTI: cut off"
    (image,) = listed(tmp_path / "long", gzip.compress(nifti(values) + bytes(4 << 20)))
    assert "more bytes than its header states" in image.problem


def test_a_packed_volume_that_takes_too_long_is_refused_at_once(tmp_path: Path) -> None:
    """1000 slices, each unpacked from 4 GB; nothing but the header is unpacked."""
    head = bytearray(nifti(np.zeros((4, 4, 4), np.uint8)))
    head[40:56] = struct.pack("<8h", 3, 2000, 2000, 1000, 1, 1, 1, 1)
    (image,) = listed(tmp_path / "in", gzip.compress(bytes(head)))
    assert "unpacked from 4.0 GB, which takes too long; unpack the file" in image.problem


def test_slices_of_two_volumes_have_different_names(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.nii").write_bytes(nifti(volume()))
    (folder / "a.nii.gz").write_bytes(gzip.compress(nifti(volume() + 1)))
    names = [image.name for image in with_slices(list_source(folder), axis="k", limits=Limits())]
    assert len(set(names)) == len(names) == 10
    assert (names[0], names[5]) == ("a_k000.nii", "a (2)_k000.nii")


def test_a_folder_of_volumes_is_a_list_of_slices(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    values = volume()
    (folder / "a.nii.gz").write_bytes(gzip.compress(nifti(values)))
    (folder / "b.nii").write_bytes(nifti(values))
    (folder / "c.nii").write_bytes(b"no volume")
    images = with_slices(list_source(folder), axis="auto", limits=Limits())
    assert [image.name for image in images] == [
        *(f"a_k00{k}.nii" for k in range(5)),
        *(f"b_k00{k}.nii" for k in range(5)),
        "c.nii",
    ]
    assert images[-1].problem == "not a single-file NIfTI (.nii, .nii.gz); pairs of .hdr and .img are not read"
    hashes = list(hash_images(images[:10]))
    assert hashes[:5] == hashes[5:]  # equal slices are segmented once
    assert len(set(hashes)) == 5
    assert [item.image_file.name for item in scan(folder, 7, slice_axis="i")][-1] == "a_i006.nii"


def test_prepare(tmp_path: Path) -> None:
    """Slices become images, empty ones are listed, and a resumed run compares the same bytes."""
    folder, values = tmp_path / "in", volume(shape=(64, 48, 5))
    folder.mkdir()
    values[:, :, 4] = 0
    (folder / "brain.nii.gz").write_bytes(gzip.compress(nifti(values)))
    settings = PrepareConfig(scale=2, tile=32)
    boxes = Boxes()
    report = prepare(folder, tmp_path / "a.zarr", boxes, settings)
    assert (report.images, len(boxes.seen)) == (5, 4)
    assert report.skipped == {"brain_k004.nii": "all samples are equal, as in a slice outside of the body"}
    store = open_store(tmp_path / "a.zarr")
    assert (store.samples.dtype, store.samples.offset, store.samples.names) == ("uint16", 32768, ("1",))
    low, high = np.percentile(values[..., :4].reshape(-1, 4), (0.1, 99.9), axis=0)
    assert store.samples.ranges[0] == (np.floor(low.min()), np.ceil(high.max()))
    np.testing.assert_allclose(store.table("images/spacing")[:4], [[0.9, 0.8]] * 4, rtol=1e-6)
    for tile in store:
        image, y, x = tile["place"]
        np.testing.assert_array_equal(tile["hr"][..., 0].astype(int) - 32768, values[:, :, image].T[y : y + 32, x : x + 32])
    again = Boxes()
    assert prepare(folder, tmp_path / "a.zarr", again, settings).already_complete
    assert (
        prepare(folder, tmp_path / "b.zarr", again, PrepareConfig(scale=2, tile=16), reuse=[tmp_path / "a.zarr"]).segmented == 0
    )
    assert not again.seen
    for path in (tmp_path / "a.zarr").rglob("*"):
        if path.is_file():
            assert not [secret for secret in SECRETS if secret in path.read_bytes()], path


def test_other_volumes_along_time_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.nii").write_bytes(nifti(volume(shape=(40, 48, 2, 3)), spacing=(1.0, 1.0, 4.0)))
    assert len(with_slices(list_source(tmp_path), axis="auto", limits=Limits())) == 2
    assert [record.message for record in caplog.records] == ["t.nii: only the first of 3 volumes is read"]


def test_elsewhere_a_volume_is_named() -> None:
    data = nifti(volume())
    with pytest.raises(ImageError, match=r"a NIfTI volume of shape \[40, 48, 5\]; `samdiff prepare` reads its slices"):
        read_native(data, "a.nii", keep=True, max_pixels=1e6)
    for name, bytes_ in (("a.nii", data), ("a.nii.gz", gzip.compress(data))):
        with pytest.raises(ImageError, match="NIfTI: measured values"):
            decode_image(bytes_, name)
    one = slice_bytes([data], 2, 1)
    assert read_native(one, "a.nii", keep=False, max_pixels=1e6).values.shape == (48, 40, 1)


def test_a_slice_is_read_within_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti(volume()))
    image = ImageFile("a_k000.nii", str(tmp_path / "a.nii"), slice=(2, 0))
    with SourceReader() as reader, pytest.raises(ImageError, match="NIfTI: a slice of 0 MB, more than the 0 MB"):
        reader.read(image, 1000)
    assert PixelConfig(slice_axis="j").keeps is False
