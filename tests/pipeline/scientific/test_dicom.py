"""DICOM: values in HU, MONOCHROME1 inverted, unused bits cleared, and nothing of a patient in a store."""

import io
from pathlib import Path

import numpy as np
import pytest

from samdiff import open_store
from samdiff.errors import ImageError
from samdiff.pipeline.decoding.image_data import decode_image
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.scientific.read import read_native
from samdiff.pipeline.scientific.settings import PixelConfig

from ...helpers.measured import Boxes

pydicom = pytest.importorskip("pydicom", reason="needs samdiff[medical]")

SECRETS = ("Doe^Jane", "PAT-4711", "19700102", "St Elsewhere", "ACC-0815", "Dr^Strange", "1.2.826.0.1.3680043.8.498.77")


def dicom(values: np.ndarray, *, modality: str = "CT", signed: bool = True, **tags: object) -> bytes:
    """A file as a scanner writes it, with a patient."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = SECRETS[6]
    file = Dataset()
    file.file_meta = meta
    file.PatientName, file.PatientID, file.PatientBirthDate, file.InstitutionName = SECRETS[:4]
    file.AccessionNumber, file.ReferringPhysicianName, file.SOPInstanceUID = SECRETS[4:7]
    file.Modality, file.SamplesPerPixel, file.PhotometricInterpretation = modality, 1, "MONOCHROME2"
    file.Rows, file.Columns = values.shape[-2:]
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, int(signed)
    file.PixelSpacing = [0.5, 0.75]
    for name, value in tags.items():
        setattr(file, name, value)
    file.PixelData = values.astype(np.int16 if signed else np.uint16).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


def slice_of(seed: int = 0, size: int = 64) -> np.ndarray:
    """HU of a disc of tissue with bone in it, in air; padding in the corners."""
    y, x = np.mgrid[:size, :size] - size / 2
    hu = np.where(np.hypot(y, x) < 24, 40 + 30 * np.sin(x / 3 + seed), -1000.0)
    hu[np.hypot(y - 4, x) < 6] = 900
    hu[np.hypot(y, x) > 40] = -2000
    return hu.round().astype(np.int32)


def native(data: bytes, name: str = "a.dcm"):
    found = read_native(data, name, keep=False, max_pixels=1e6)
    assert found is not None
    return found


def test_ct_in_hounsfield_units() -> None:
    hu = slice_of()
    found = native(dicom(hu + 1024, RescaleSlope=1, RescaleIntercept=-1024, PixelPaddingValue=-976))
    np.testing.assert_array_equal(found.values[..., 0], hu)
    assert (found.values.dtype, found.bands[0].name, found.bands[0].unit) == (np.int16, "CT", "HU")
    assert (found.limits, found.nodata, found.place.spacing) == ((-1024, 3071), -2000, (0.5, 0.75))


def test_monochrome1_is_inverted() -> None:
    values = np.arange(256).reshape(16, 16)
    found = native(
        dicom(values, modality="CR", signed=False, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    )
    np.testing.assert_array_equal(found.values[..., 0], 4095 - values)
    assert found.limits == (0, 4095)


def test_unused_bits_are_cleared() -> None:
    """Old files hold overlays in them."""
    values = np.arange(256).reshape(16, 16)
    found = native(dicom(values | 0x4000, modality="MR", signed=False, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(found.values[..., 0], values)
    signed = native(dicom((values - 128) & 0x0FFF, modality="MR", BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(signed.values[..., 0], values - 128)


def test_fractional_slopes_give_floats() -> None:
    found = native(dicom(np.arange(256).reshape(16, 16), modality="PT", signed=False, RescaleSlope=0.5, RescaleIntercept=1))
    np.testing.assert_array_equal(found.values[..., 0], np.arange(256).reshape(16, 16) * 0.5 + 1)


def test_the_first_frame() -> None:
    frames = np.stack([slice_of(0), slice_of(1)])
    found = native(dicom(frames, NumberOfFrames=2))
    np.testing.assert_array_equal(found.values[..., 0], frames[0])
    assert found.notes == ("the first of 2 frames",)


REFUSED = {
    "colours": (dicom(slice_of(), PhotometricInterpretation="PALETTE COLOR"), "DICOM with colours"),
    "report": (dicom(slice_of())[:400], "without an image|damaged or cut off DICOM"),
    "mask": (dicom(slice_of(), modality="SEG", signed=False, BitsStored=1, HighBit=0), "a mask and no image"),
    "half": (dicom(slice_of())[:3000], "DICOM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as refused:
        native(data)
    assert not any(secret in str(refused.value) for secret in SECRETS)


def test_a_preamble_of_tiff() -> None:
    """As some scanners write it, so that old viewers find an image (PS3.10, 7.1): it is DICOM."""
    data = b"II*\0\x54\x18\x08\0" + bytes(120) + dicom(slice_of())[128:]
    np.testing.assert_array_equal(native(data).values[..., 0], slice_of())
    with pytest.raises(ImageError, match="DICOM: measured values"):
        decode_image(data, "a.dcm")


def test_an_image_reader_names_it() -> None:
    with pytest.raises(ImageError, match="DICOM: measured values"):
        decode_image(dicom(slice_of()), "a.dcm")


def test_no_patient_in_the_store(tmp_path: Path) -> None:
    """Every byte of a store of a series, also uncompressed; neither does the staging folder remain."""
    (tmp_path / "series").mkdir()
    for number in range(3):
        data = dicom(slice_of(number) + 1024, RescaleSlope=1, RescaleIntercept=-1024, PixelPaddingValue=-976)
        assert all(secret.encode() in data for secret in SECRETS)
        (tmp_path / "series" / f"IM{number:04d}.dcm").write_bytes(data)
    settings = PrepareConfig(scale=2, tile=32, pixels=PixelConfig(range="-160,240"))
    report = prepare(tmp_path / "series", tmp_path / "a.zarr", Boxes(), settings)
    assert report.skipped == {}
    store = open_store(tmp_path / "a.zarr")
    everything = b"".join(file.read_bytes() for file in sorted((tmp_path / "a.zarr").rglob("*")) if file.is_file())
    everything += b"".join(store.table(path).tobytes() for path, spec in store.arrays.items() if spec.rows != 1)
    assert not [secret for secret in SECRETS if secret.encode() in everything or secret.split("^")[0].encode() in everything]
    assert (store.samples.dtype, store.samples.offset, store.samples.names) == ("uint16", 32768, ("CT",))
    np.testing.assert_array_equal(store.table("images/spacing"), [[0.5, 0.75]] * 3)
    tile = store[0]
    _, y, x = tile["place"]
    own = slice_of(0)[y : y + 32, x : x + 32]
    np.testing.assert_array_equal(tile["hr"][..., 0].astype(int)[own > -2000] - 32768, own[own > -2000])
    assert not (tmp_path / "a.zarr.staging").exists()
