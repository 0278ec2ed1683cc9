"""Images of a page: inside it while they are small together; no file of others is changed."""

import hashlib

import pytest

from samdiff.errors import ConfigError, SamdiffError
from samdiff.report.files import ImageFiles, claim_folder


def test_in_the_page_up_to_the_limit(tmp_path):
    files = ImageFiles(tmp_path / "f", inline_bytes=10)
    first = files.add(b"12345", "png")
    assert first == hashlib.sha256(b"12345").hexdigest()[:32] + ".png"
    assert files.add(b"12345", "png") == first
    assert files.urls() == {first: "data:image/png;base64,MTIzNDU="}
    assert not (tmp_path / "f").exists()
    second = files.add(b"123456", "webp")
    assert files.in_folder
    assert not files.urls()
    assert {file.name: file.read_bytes() for file in (tmp_path / "f").iterdir()} == {first: b"12345", second: b"123456"}
    assert files.size == 11


def test_another_file_of_the_name_is_not_replaced(tmp_path):
    key = hashlib.sha256(b"1").hexdigest()[:32] + ".png"
    (tmp_path / key).write_bytes(b"theirs")
    with pytest.raises(SamdiffError, match="expected an image of this page or nothing"):
        ImageFiles(tmp_path, inline_bytes=0).add(b"1", "png")
    assert (tmp_path / key).read_bytes() == b"theirs"


def test_only_own_images_that_are_not_used_are_removed(tmp_path):
    old = ImageFiles(tmp_path, inline_bytes=0)
    kept, left = old.add(b"kept", "png"), old.add(b"left", "png")
    changed = "0" * 32 + ".png"
    (tmp_path / changed).write_bytes(b"named like ours")
    (tmp_path / "notes.txt").write_text("theirs")
    new = ImageFiles(tmp_path, inline_bytes=0)
    assert new.add(b"kept", "png") == kept
    new.remove_old()
    assert {file.name for file in tmp_path.iterdir()} == {kept, changed, "notes.txt"}
    assert left not in {file.name for file in tmp_path.iterdir()}


def test_an_empty_folder_is_removed(tmp_path):
    ImageFiles(tmp_path / "f", inline_bytes=0).add(b"old", "png")
    ImageFiles(tmp_path / "f", inline_bytes=99).remove_old()
    assert not (tmp_path / "f").exists()


def test_the_folder_is_claimed(tmp_path):
    folder = tmp_path / "f"
    claim_folder(folder, page_exists=False, overwrite=False)
    ImageFiles(folder, inline_bytes=0).add(b"1", "png")
    claim_folder(folder, page_exists=False, overwrite=False)  # left by a killed run of the same command
    with pytest.raises(ConfigError, match="exists already; give --overwrite"):
        claim_folder(folder, page_exists=True, overwrite=False)
    (folder / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match="exists already; give --overwrite"):
        claim_folder(folder, page_exists=False, overwrite=False)
    claim_folder(folder, page_exists=True, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        claim_folder(tmp_path / "file", page_exists=False, overwrite=True)
