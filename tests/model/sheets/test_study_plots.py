"""The plots of a study: PNG files that are known again, and one clear line without matplotlib."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from samdiff.errors import MissingPackageError
from samdiff.model.sheets.study_plots import MARK, Curve, Interval, forest, tradeoff

CURVES = [Curve("none", (1, 100), x=(29.0, 28.0), y=(0.3, 0.2)), Curve("none, rrdb", (0,), x=(29.5,), y=(0.35,))]
PANELS = [("PSNR Y", [Interval("a", 0.1, low=-0.1, high=0.3)]), ("LPIPS", [])]


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"the plots of a study: needs the package matplotlib.*'samdiff\[study\]'"):
        tradeoff(CURVES, x_label="x", y_label="y", title="t")


def test_plots():
    """The same bytes for the same numbers, our mark within the first 1024 (as `report.py` looks for it), no empty image."""
    pytest.importorskip("matplotlib")
    first, again = (tradeoff(CURVES, x_label="x", y_label="y", title="t") for _ in range(2))
    assert first == again
    for png in (first, forest(PANELS, title="t"), forest([], title="t")):
        assert MARK.encode() in png[:1024]
        assert Image.open(io.BytesIO(png)).text[MARK] == "1"
    assert len(np.unique(np.asarray(Image.open(io.BytesIO(first)).convert("L")))) > 2
