"""docs/reuse.md runs, from a store alone and without `samdiff.model`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import samdiff
from samdiff.pipeline.encode.rle import decode

from ...helpers.stores import make_store

PAGE = Path(samdiff.__file__).parent / "docs/reuse.md"


def _blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_runs(tmp_path):
    """Every block in order; the model learns, the encoding and the noise are what the text says."""
    path = make_store(tmp_path / "a.zarr")
    scope = {}
    torch.set_num_threads(1)
    for block in _blocks():
        exec(block.replace("data/div2k.zarr", str(path)), scope)  # noqa: S102
    assert np.mean(scope["losses"][-5:]) < 0.8 * np.mean(scope["losses"][:3])
    assert scope["encoding"].shape == scope["batch"]["labels"][:, None].shape
    np.testing.assert_array_equal(scope["hr"], scope["store"].read_tiles("hr", [5])[0])
    assert scope["encoding_5"].dtype == np.float32
    noise, store = scope["noise"], scope["store"]
    np.testing.assert_allclose(noise.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(noise.std((0, 1)), 1, atol=1e-4)
    one, two = (decode(runs, *noise.shape[:2]) for runs in store.masks(0))
    assert (one & two).any()  # they overlap, and there the average of two noises spreads less
    assert noise[one & two].std() < 0.85 * noise[one ^ two].std()


def test_the_training_block_is_short_and_needs_no_model():
    """40 lines of code, as the page promises its reader, and no import of the diffusion half."""
    block = next(b for b in _blocks() if "class Block" in b)
    assert len([line for line in block.splitlines() if line.strip()]) <= 40
    assert "samdiff.model" not in "".join(_blocks())
    code = (
        "import sys, samdiff; samdiff.ShardLoader; samdiff.open_store; print([m for m in sys.modules if 'samdiff.model' in m])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
