"""Text in images: any name, never the end of the process."""

import time

import numpy as np
import pytest

from samdiff.cli import main
from samdiff.model.inference.image_io import save_image
from samdiff.model.sheets.contact_sheet import contact_sheet
from samdiff.model.sheets.labels import draw_text, fitted, text_width

from ...helpers.zoo import photo


def test_names_are_drawn_as_text():
    """Bytes that are no UTF-8, control characters, letters that the font lacks, accents."""
    assert fitted("caf\udce9 \x1b[31m", 1000, 13) == "caf\\xe9 \\x1b[31m"
    assert fitted("日", 1000, 13) == "\\u65e5"
    assert fitted("U\u0308bung", 1000, 13) in ("Übung", "Ubung")


def test_a_long_label_keeps_both_ends_and_its_panel():
    white = np.full((30, 300, 3), 255, np.uint8)
    drawn = draw_text(white, "start" + "m" * 300 + "end", x=10, y=5, width=200)
    assert (drawn[:, 212:] == 255).all()
    assert (drawn[:, 10:200] < 255).any()
    line = fitted("start" + "m" * 300 + "end", 200, 13)
    assert line.startswith("start")
    assert line.endswith("end")
    assert fitted("short", 200, 13) == "short"


def test_a_label_of_many_characters_is_cut_quickly():
    """As long as an argument of a command may be: each cut is measured, so their number must not grow with the length."""
    start = time.process_time()
    line = fitted("m" * 100_000, 200, 13)
    assert time.process_time() - start < 10
    assert line.strip("m") == "…"
    assert text_width(line, 13) <= 200 < text_width(line + "m", 13)


def test_a_caption_is_dark_on_white():
    sheet = contact_sheet([("caf\udce9\n28.00 dB", np.full((32, 32, 3), 255, np.uint8))], 1, width=64)
    assert sheet[:20].min() < 100
    assert sheet[22:40].min() < 100
    assert sheet[44:].min() == 255


@pytest.mark.skipif("sys.platform == 'darwin'", reason="macOS takes UTF-8 names only")
def test_compare_takes_names_that_are_not_utf8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (b"caf\xe9.png", b"plain.png"):
        save_image(photo(16, 16, 1), tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / name.decode("utf-8", "surrogateescape"))
    with pytest.raises(SystemExit, match="0"):
        main(["compare", "caf\udce9.png", "plain.png", "--reference", "plain.png", "-o", "sheet.png"])
    assert (tmp_path / "sheet.png").is_file()
