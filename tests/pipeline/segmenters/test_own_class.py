"""`MODULE:CLASS`: what the class is given, what it has to have, and one clear error for each result that is none."""

import json
import sys

import numpy as np
import pytest
import torch

from samdiff.cli import main
from samdiff.errors import ConfigError, SamdiffError
from samdiff.pipeline.encode.mask_table import MaskTable
from samdiff.pipeline.encode.rle import encode, to_coco
from samdiff.pipeline.masks.settings import MaskConfig, SegmenterConfig
from samdiff.pipeline.segmenters.by_name import make_segmenter, plan_segmenter
from samdiff.pipeline.segmenters.checked import CheckedSegmenter
from samdiff.pipeline.shards.reader import open_store

from ..sam.test_segmenters import sample

CPU = torch.device("cpu")
MODULE = '''
import numpy as np

class Halves:
    """The upper and the lower half."""

    def __init__(self, device, settings, split=2):
        self.device, self.settings, self.split = device, settings, split

    def describe(self):
        return {"name": "halves", "weights": None, "points": self.settings.points_per_side}

    def generate_batch(self, images):
        for image in images:
            upper = np.zeros(image.shape[:2], bool)
            upper[: len(image) // self.split] = True
            yield [{"segmentation": upper}, {"segmentation": ~upper}]

class Mute:
    def generate_batch(self, images):
        yield from ()

class Plain:
    def describe(self):
        return {"name": "plain"}

    def generate_batch(self, images):
        return ([] for _ in images)

class Needy(Plain):
    def __init__(self, secret):
        pass
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder, which is not on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    (tmp_path / "my_masks.py").write_text(MODULE)
    yield "my_masks"
    sys.modules.pop("my_masks", None)


def test_a_store_with_masks_of_ones_own(module, tmp_path):
    """From the command line; the store says what the class says of itself, and the dry run knows it before."""
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), sample("chelsea.png")[:128, :160])
    words = ["prepare", "a.png", "--out", "a.zarr", "--tile", "64", "--sam", f"{module}:Halves", "--points-per-side", "7"]
    for more in (["--dry-run"], []):
        with pytest.raises(SystemExit, match="0"):
            main([*words, *more])
    store = open_store("a.zarr")
    assert store.n_masks == 2
    assert store.attrs["segmenter"] == {"name": "halves", "weights": None, "points": 7}


def test_what_the_class_is_given(module):
    made = make_segmenter(f"{module}:Halves", CPU, settings=MaskConfig(points_per_side=3)).inner
    assert (made.device, made.settings.points_per_side, made.split) == (CPU, 3, 2)
    assert make_segmenter(f"{module}:Plain", CPU, settings=MaskConfig()).describe() == {"name": "plain"}
    assert plan_segmenter(f"{module}:Plain", CPU, settings=MaskConfig())[0] == {"name": "plain"}


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("my_masks:Mute", "the class has no method `describe`"),
        ("my_masks:Needy", "needs no more than device, weights and settings; it needs secret"),
        ("my_masks:Nobody", "my_masks has no class Nobody; its classes: Halves, Mute, Plain, Needy"),
        ("no_such_module:A", "there is no module no_such_module on Python's path or in"),
        ("vit_x", "expected one of vit_h, .*hf:MODEL_ID, MODULE:CLASS, got 'vit_x'"),
    ],
)
def test_classes_that_are_none(module, name, match):
    with pytest.raises(ConfigError, match=match):
        make_segmenter(name, CPU, settings=MaskConfig())


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("raise RuntimeError('no licence')", "its module cannot be imported: RuntimeError: no licence; run `python -c"),
        ("import sys; sys.exit(0)", "its module cannot be imported: SystemExit: 0"),
        ("class A(", "its module cannot be imported: SyntaxError"),
        ("class A:\n    def __init__(self):\n        {}['key']", "cannot be constructed: KeyError: 'key'"),
    ],
)
def test_code_that_raises(tmp_path, monkeypatch, code, match):
    """Also an end of the process, which would look like success."""
    name = f"raising_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=match):
        make_segmenter(f"{name}:A", CPU, settings=MaskConfig())


def test_options_that_the_class_does_not_take(module, tmp_path):
    with pytest.raises(ConfigError, match="takes no keyword `settings`"):
        make_segmenter(f"{module}:Plain", CPU, settings=MaskConfig(points_per_side=3))
    with pytest.raises(ConfigError, match="--sam-weights: the class my_masks:Halves takes no keyword `weights`"):
        make_segmenter(f"{module}:Halves", CPU, weights=tmp_path / "x", settings=MaskConfig())
    (tmp_path / "needs.py").write_text("import no_such_package\n")
    with pytest.raises(ConfigError, match="its module needs no_such_package, which is not installed"):
        make_segmenter("needs:A", CPU, settings=MaskConfig())


def table(height: int, width: int, **changes: object) -> MaskTable:
    made = MaskTable.of_runs([encode(np.ones((height, width), bool))], [{}], height=height, width=width)
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    return made


class Returning:
    def __init__(self, *results: object) -> None:
        self.results = results

    def describe(self) -> dict[str, object]:
        return {"name": "x"}

    def generate_batch(self, images):
        list(images)
        return iter(self.results)


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (np.zeros((2, 4, 6), bool), r"4 x 6 \(H x W\): expected a MaskTable, or a list .* got ndarray bool \[2, 4, 6\]"),
        ([np.zeros((4, 6), bool)], r"mask 0: expected .* got ndarray bool \[4, 6\]"),
        ([{"segmentation": np.zeros((4, 6), np.float32)}], r"mask 0: .* got a segmentation ndarray float32 \[4, 6\]"),
        ([{"segmentation": np.zeros((6, 4), bool)}], r"mask 0: .* got a segmentation ndarray bool \[6, 4\]"),
        ([{"segmentation": to_coco(encode(np.ones((6, 4), bool)), 6, 4)}], r"expected 4 x 6 \(H x W\).* got 6 x 4"),
        (None, "got None"),
        (table(6, 4), "made for 6 x 4"),
        (table(4, 6, box=np.zeros((1, 3))), r"box: expected an array of numbers \[1, 4\], got ndarray float64 \[1, 3\]"),
        (table(4, 6, predicted_iou=["high"]), r"predicted_iou: expected an array of numbers \[1\]"),
        (table(4, 6, counts=[np.array([0, 24])]), r"counts of mask 0: expected runs as uint32 \[R\], got ndarray int64 \[2\]"),
        (table(4, 6, counts=[np.array([0, 23], np.uint32)]), "counts of mask 0: expected runs of 24 pixels"),
    ],
)
def test_results_that_are_none(result, match):
    segmenter = CheckedSegmenter(Returning(result), "m:C")
    with pytest.raises(SamdiffError, match=f"^--sam m:C: generate_batch, an image of .*{match}"):
        next(segmenter.generate_batch([np.zeros((4, 6, 3), np.uint8)]))


def test_results_that_are_right():
    """A list of records with bool masks or COCO RLE, an empty one, a table."""
    mask = np.eye(4, 6, dtype=bool)
    results = [[{"segmentation": mask}], [{"segmentation": to_coco(encode(mask), 4, 6)}], [], table(4, 6)]
    got = list(CheckedSegmenter(Returning(*results), "m:C").generate_batch([np.zeros((4, 6, 3), np.uint8)] * 4))
    assert [len(each) for each in got] == [1, 1, 0, 1]
    assert got[0].area[0] == got[1].area[0] == 4


@pytest.mark.parametrize(("n", "match"), [(1, "more results than images"), (3, "1 results fewer than images")])
def test_another_number_of_results(n, match):
    segmenter = CheckedSegmenter(Returning([], []), "m:C")
    with pytest.raises(SamdiffError, match=match):
        list(segmenter.generate_batch([np.zeros((4, 6, 3), np.uint8)] * n))


@pytest.mark.parametrize("facts", [None, {}, {"name": 3}, {"name": "x", "a": np.zeros(2)}, {"name": "x", "a": float("nan")}])
def test_descriptions_that_are_none(facts):
    inner = Returning()
    inner.describe = lambda: facts
    with pytest.raises(ConfigError, match="--sam m:C: describe: expected"):
        CheckedSegmenter(inner, "m:C").describe()


def test_forms_of_the_setting():
    """What `--sam` takes before anything is loaded; the schema of a configuration file takes the same."""
    for name in ("vit_b", "sam2.1_b+", "hf:facebook/sam-vit-base@main", "package.module:Class"):
        assert SegmenterConfig(sam=name).sam == name
    for name in ("vit_x", "hf:", "module:", ":Class", "a b:C", "C:\\model"):
        with pytest.raises(ConfigError, match=r"sam: expected one of vit_h, .*hf:MODEL_ID, MODULE:CLASS, got"):
            SegmenterConfig(sam=name)
    from samdiff.settings import to_schema

    schema = json.dumps(to_schema(SegmenterConfig, "x"))
    assert "sam2.1_t" in schema
    assert "hf:" in schema
