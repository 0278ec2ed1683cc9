"""Images of any size without a seam: tilings, noise by place, one canvas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samdiff import load_model
from samdiff.errors import ConfigError
from samdiff.model.diffusion.noise import BLOCK, NoiseField
from samdiff.model.inference.tile_weights import plan_tiles
from samdiff.model.inference.tiled import TiledPredictor

from ...helpers.models import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_model(tmp_path_factory.mktemp("run") / "model.safetensors"), "cpu")


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from([4, 8]),
    st.integers(0, 6),
    st.data(),
)
def test_weights_sum_to_one(rows, columns, scale, multiple, overlap, data):
    """Whatever the sizes: every pixel is covered with weights that sum to 1, tiles lie inside, on the network's grid."""
    step = multiple // np.gcd(multiple, scale)
    least = -(-max(-(-2 * multiple // scale), 2 * overlap + 1, overlap + step) // step) * step
    height, width = (max(-(-2 * multiple // scale), side) for side in (rows * step, columns * step))
    height, width = (-(-side // step) * step for side in (height, width))
    tiling = plan_tiles(height, width, scale, multiple, data.draw(st.integers(least, least + 30)), overlap)
    total = np.zeros((height * scale, width * scale))
    for tile in tiling.tiles:
        assert tile.y_lr % step == tile.x_lr % step == 0
        top, left = tile.y_lr * scale, tile.x_lr * scale
        part = total[top : top + len(tile.weight_y), left : left + len(tile.weight_x)]
        assert part.shape == (len(tile.weight_y), len(tile.weight_x))
        part += tile.weight_y[:, None] * tile.weight_x
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_tile_fades_before_its_edge_and_bad_tiles_are_refused():
    """The outermost quarter of the overlap has no weight at inner sides; the image's own border has all of it."""
    (first, *_, last) = plan_tiles(100, 40, 4, 4, 40, 8).tiles
    assert first.weight_y[0] == last.weight_y[-1] == 1
    assert (first.weight_y[-8:] == 0).all()
    assert (np.diff(first.weight_y) <= 0).all()
    assert plan_tiles(100, 40, 4, 4, 0, 8).rows.size_lr == 100
    for tile, overlap in ((1, 0), (16, 8), (-1, 0)):
        with pytest.raises(ConfigError, match="tile: expected 0"):
            plan_tiles(100, 40, 4, 4, tile, overlap)


def test_noise_belongs_to_the_place():
    """Any cut of any wider image has the same noise; seeds, samples, steps and places differ; it is standard normal."""
    field = NoiseField(7, 300)
    whole = field.rows(2, 0, 290)
    assert torch.equal(whole[:, :, 100:261], field.rows(2, 100, 261))
    assert torch.equal(NoiseField(7, 150).rows(2, 0, 20), whole[:, :, :20, :150])
    others = [NoiseField(8, 300), NoiseField(7, 300, 1), field]
    drawn = [other.rows(3 if other is field else 2, 0, 64).ravel() for other in others]
    drawn += [whole[:, :, :64].ravel(), whole[:, :, BLOCK : BLOCK + 64].ravel()]
    correlation = np.corrcoef(torch.stack(drawn).numpy()) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 0.02
    assert abs(float(whole.mean())) < 0.01
    assert float(whole.std()) == pytest.approx(1, abs=0.01)
    with pytest.raises(ConfigError, match="seed: expected 0 to 2"):
        NoiseField(1 << 64, 4)


def test_tiled_equals_untiled_and_depends_on_no_order(model, monkeypatch):
    """Mean difference below .5/255; other batches, caches and orders of tiles change nothing but the last bit."""
    image = smooth_image(64, 56)
    whole = model.upscale(image, steps=2, tile=0)
    tiled = model.upscale(image, steps=2, tile=36)
    assert np.abs(tiled - whole).mean() <= 0.5 / 255
    for changes in ({"batch": 5}, {"cache_mb": 0}):
        np.testing.assert_allclose(model.upscale(image, steps=2, tile=36, **changes), tiled, atol=1e-4)
    plan = plan_tiles(64, 56, 4, 4, 36, 16)
    shuffled = np.random.default_rng(0).permutation(plan.tiles).tolist()
    monkeypatch.setattr("samdiff.model.inference.tile_weights.Tiling.tiles", property(lambda _: shuffled))
    np.testing.assert_allclose(model.upscale(image, steps=2, tile=36), tiled, atol=1e-4)
    assert tiled.min() >= 0 <= 1 >= tiled.max()


def test_no_seam_where_tiles_meet(model):
    """Gradients across the lines where tiles begin, end or change weight are those of everywhere else, in x and in y."""
    image = smooth_image(120, 120)
    result = model.upscale(image, steps=2, tile=48, overlap=8)
    plan = plan_tiles(120, 120, 4, 4, 48, 8)
    for axis in (0, 1):
        gradient = np.abs(np.diff(result, axis=axis)).mean(axis=(1 - axis, 2))
        starts = [start * 4 for start in plan.rows.starts_lr]
        lines = sorted({line for start in starts for line in (start, start + 192 - 1) if 0 < line < 479})
        near = np.unique([line + offset for line in lines for offset in (-1, 0, 1)])
        elsewhere = np.delete(gradient, near)
        error = elsewhere.std() / np.sqrt(len(near))
        assert abs(gradient[near].mean() - elsewhere.mean()) < 4 * error


def test_features_are_kept_up_to_the_cap(model):
    """The first tiles that fit are kept and none is driven out; with room for none, each is computed at each step."""
    lr = torch.zeros(1, 3, 40, 40)
    plan = plan_tiles(40, 40, 4, 4, 20, 4)
    one = 8 * 20 * 20 * 4  # bytes of a tile's condition: 8 channels of float32
    calls = []
    features = model.rrdb.features
    try:
        model.rrdb.features = lambda x: calls.append(1) or features(x)
        for cap, expected in ((0, 18), (2 * one + 1, 16), (1 << 30, 9)):
            predictor = TiledPredictor(model.rrdb, model.unet, lr, plan, cap)
            calls.clear()
            with torch.inference_mode():
                for _ in range(2):
                    predictor.predict(torch.zeros(1, 3, 160, 160), torch.tensor([3]))
            assert len(calls) == expected
    finally:
        del model.rrdb.features


def smooth_image(height, width):
    """A floating-point image with edges and texture, [H, W, 3] in 0 … 1."""
    y, x = np.mgrid[:height, :width] / 16
    waves = np.sin(x + 2 * np.sin(y)) * np.cos(1.7 * y) > 0.2
    rng = np.random.default_rng(5)
    return (0.3 + 0.3 * waves[..., None] + 0.2 * rng.random((height, width, 3))).astype(np.float32)
