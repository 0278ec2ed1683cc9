"""Names of a store as file names: whatever they are, they are apart, short enough and stay inside the target."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samdiff.pipeline.export.export import export_folder
from samdiff.pipeline.export.safe_names import STEM_BYTES, safe_stems
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.reader import Store, open_store

from ...helpers.stores import make_store
from ..prepare.test_prepare import PositionMasks, position_image, write

ANY = st.text(st.characters(exclude_categories=()), max_size=30)
NASTY = st.text(st.sampled_from("aA/.\\ -_2\n\t\0é\u0301ßs:*?\x1b\udc80写" + "x" * 3), max_size=12)
LONG = st.builds(lambda start, length, end: start + "写" * length + end, NASTY, st.integers(50, 120), NASTY)
NAMES = st.lists(st.one_of(ANY, NASTY, LONG), max_size=12)


def folded(stem: str) -> str:
    """What a disk that tells neither A from a nor é from e and an accent compares."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())


@given(NAMES)
def test_stems_are_apart_and_safe(names: list[str]) -> None:
    stems = safe_stems(names)
    assert len({folded(stem) for stem in stems}) == len(names)
    for stem in stems:
        assert 0 < len(stem.encode("utf-8")) <= STEM_BYTES + len("-12")
        assert not set(stem) & set('/\\:*?"<>| ')
        assert not stem.startswith(".")
        assert stem.isprintable() or all(unicodedata.category(c) in ("Cn", "Co") for c in stem if not c.isprintable())
        assert f"{stem}_s001.png (64,64,3)\n".split(" ")[0] == f"{stem}_s001.png"
        assert len(f"{stem}_s001.png (64,64,3)\n".splitlines()) == 1


@given(NAMES)
def test_stems_depend_on_the_names_alone(names: list[str]) -> None:
    assert safe_stems(names) == safe_stems(list(names))
    assert safe_stems(names)[: len(names) // 2] == safe_stems(names[: len(names) // 2])


def test_ordinary_names_as_before() -> None:
    assert safe_stems(["a.png", "a.jpg", "deep/a.png", "deep_a.png", "b.c.png", "写真.png", "Ü.png"]) == [
        "a", "a-2", "deep_a", "deep_a-2", "b.c", "写真", "Ü",
    ]  # fmt: skip


def test_names_of_strangers() -> None:
    names = [
        "/evil.png",
        "../../up.png",
        "..",
        "",
        ".png",
        "C:\\x.png",
        "two\nlines.png",
        "esc\x1b[2J.png",
        "x" * 255,
        "x" * 254,
    ]
    stems = safe_stems(names)
    assert stems[:8] == ["evil", "_._.._up", "_", "image", "_png", "C__x", "two_lines", "esc_[2J"]
    assert stems[8] != stems[9]
    assert [len(stem) for stem in stems[8:]] == [STEM_BYTES] * 2


def test_many_equal_names_take_no_quadratic_time() -> None:
    assert safe_stems(["a.png"] * 50_000)[-1] == "a-50000"


def renamed(path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose images have these names, as a stranger's may."""
    store = open_store(path)
    monkeypatch.setattr(Store, "names", lambda _: names)
    return store


def test_nothing_of_a_strangers_store_is_written_outside(tmp_path, monkeypatch):
    """An absolute name, a name that climbs, equal and empty ones: all tiles come out, all inside."""
    names = [f"{tmp_path}/evil_a.png", "../../../evil_b.png", f"{tmp_path}/evil_a.png"]
    store = renamed(make_store(tmp_path / "in" / "x.zarr", n=9), names, monkeypatch)
    export_folder(store, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    lines = (tmp_path / "out" / "meta_info.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(list((tmp_path / "out" / "HR").iterdir())) == len(store)


def test_whatever_prepare_takes_can_be_exported(tmp_path):
    """Deep paths, names of 255 bytes, newlines, spaces, names that are no UTF-8, names that collide."""
    image = position_image(64, 64, 10)
    deep = "/".join(["d" * 200] * 4)
    names = [
        "a b.png",
        "a_b.png",
        "A_B.png",
        "two\nlines.png",
        "x" * 251 + ".png",
        "写" * 83 + ".png",
        f"{deep}/y.png",
        "esc\x1b[0m.png",
    ]
    for name in names:
        write(tmp_path / "plain.png", image)  # OpenCV takes fewer names than a disk does
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain.png").rename(tmp_path / "in" / name)
    prepare(tmp_path / "in", tmp_path / "x.zarr", PositionMasks(), PrepareConfig(scale=4, tile=64))
    store = open_store(tmp_path / "x.zarr")
    assert sorted(store.names()) == sorted(names)
    export_folder(store, tmp_path / "out")
    lines = (tmp_path / "out" / "meta_info.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(store) == len(names)
    for line in lines:
        for folder in ("HR", "LR"):
            assert (tmp_path / "out" / folder / line.split(" ")[0]).is_file()
        assert np.load(tmp_path / "out" / "E_SAM" / line.split(" ")[0].replace(".png", ".npy")).shape == (64, 64)
    assert len(list((tmp_path / "out" / "masks").iterdir())) == len(names)
