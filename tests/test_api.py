"""The Python face: typed lazy names, `prepare` and `train` as functions, and the pages' snippets, which need no deep import."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import samdiff
from samdiff.model.checkpoints.publish import publish

from .helpers.models import write_model
from .helpers.stores import make_store

ROOT = Path(samdiff.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def write_image(folder: Path, name: str = "a.png", side: int = 64) -> Path:
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(side).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    Image.fromarray(noise).resize((side, side)).save(folder / name)
    return folder


class Halves:
    """The upper half of each image, as runs of an uncompressed COCO RLE."""

    def describe(self):
        return {"name": "halves"}

    def generate_batch(self, images):
        for image in images:
            height, width = image.shape[:2]
            counts = [0, *[height // 2] * (2 * width)]
            yield [{"segmentation": {"size": [height, width], "counts": counts}}]


def test_types_and_run_time_name_the_same():
    """The imports for type checkers are those of the lazy table, one for one, and `__all__` lists them in order."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING")
    typed = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        (name,) = node.names
        own = "" if name.name == name.asname else f":{name.name}"
        typed[name.asname] = f"{'.' * node.level}{node.module}{own}"
    assert typed == samdiff._PUBLIC
    assert samdiff.__all__ == sorted(samdiff._PUBLIC)
    assert set(samdiff.__all__) <= set(dir(samdiff))


def test_every_error_is_public_and_caught_as_one():
    errors = [getattr(samdiff, name) for name in samdiff.__all__ if name.endswith("Error")]
    assert all(issubclass(error, samdiff.SamdiffError) for error in errors)
    own = {name for name, value in vars(__import__("samdiff.errors").errors).items() if isinstance(value, type)}
    assert {name for name in own if issubclass(getattr(samdiff.errors, name), samdiff.SamdiffError)} <= set(samdiff.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_need_no_deep_import(page):
    """What a page shows in Python, or names as `samdiff.…`, is public."""
    text = page.read_text()
    for block in [*re.findall(r"```python\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]:
        assert not re.search(r"\bsamdiff\.(pipeline|model|runtime|errors|api)\b", block) or "samdiff.model`" in f"{block}`", (
            block
        )


@pytest.mark.weights
def test_the_python_page_runs(tmp_path, monkeypatch, mobile_sam, capsys):
    """docs/python.md in order, with MobileSAM's real weights and one step of each stage."""
    monkeypatch.chdir(tmp_path)
    squares = np.full((64, 64, 3), 20, np.uint8)
    squares[8:28, 8:28], squares[36:58, 36:58] = (230, 40, 40), (40, 200, 90)  # under two of the four points
    (tmp_path / "photos").mkdir()
    Image.fromarray(squares).save(tmp_path / "photos/a.png")
    scope: dict[str, object] = {}
    for block in snippets("docs/python.md"):
        exec(block, scope)  # noqa: S102
    assert Image.open("a_x4.png").size == (256, 256)
    assert "looks like channels first" in capsys.readouterr().out


def test_short_snippets_run(tmp_path, monkeypatch):
    """docs/loading.md and docs/inference.md, and the store page's own line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    make_store(tmp_path / "data/photos.zarr")
    write_model(tmp_path / "runs/NAME/model.safetensors")
    image = np.zeros((5, 6, 3), np.uint8)
    for page in ("docs/loading.md", "docs/inference.md", "docs/store.md"):
        scope: dict[str, object] = {"image": image}
        blocks = snippets(page)
        assert blocks
        for block in blocks:
            exec(block.replace("steps=25", "steps=2"), scope)  # noqa: S102
        if page == "docs/loading.md":
            assert int(scope["batch"]["position"][0]) >= 20  # of the third epoch
        if page == "docs/inference.md":
            assert scope["large"].shape == (20, 24, 3)


def test_prepare_and_train_as_functions(tmp_path, monkeypatch):
    """Few arguments, a store and a model back; the same calls again do nothing and give the same."""
    monkeypatch.chdir(tmp_path)
    write_image(write_image(tmp_path / "photos"), "b.png", side=128)
    (tmp_path / "photos/notes.png").write_text("none")
    threads = torch.get_num_threads()
    store = samdiff.prepare("photos", masks=Halves(), tile=32, limits=samdiff.PrepareConfig().limits)
    assert torch.get_num_threads() == threads
    assert str(store.place) == "data/photos.zarr"
    assert (len(store), store.scale, store.tile, store.n_masks) == (4 + 16, 4, 32, 2)
    assert list(store.skipped()) == ["notes.png"]
    assert store[0]["labels"].min() == 1
    again = samdiff.prepare(Path("photos"), "data/photos.zarr", masks=Halves(), config=samdiff.PrepareConfig(tile=32))
    assert again.fingerprint == store.fingerprint
    reported: list[str] = []
    small = {"train.batch": 2, "train.patch": 16, "validate.every": 0, "model.rrdb_blocks": 2, "model.multipliers": [1, 2]}
    call = {"preset": "tiny", "steps": 1, "rrdb_steps": 1, "settings": small, "device": "cpu", "report": reported.append}
    file = samdiff.train(store, **call)
    assert file == Path("runs/photos-tiny/model.safetensors")
    assert samdiff.load_model(file).upscale(np.zeros((4, 4), np.uint8), steps=1).shape == (16, 16)
    assert samdiff.train(["data/photos.zarr"], "runs/photos-tiny", **call) == file
    assert any("nothing to do" in line for line in reported)


def test_fine_tuning_takes_the_settings_of_the_model(tmp_path, monkeypatch):
    """Without a preset: networks, process and loss of the model, unless they are set; published models carry them all."""
    monkeypatch.chdir(tmp_path)
    store = make_store(tmp_path / "a.zarr", n=40)
    flow = ("diffusion.modulation=none", "diffusion.base=rrdb", "diffusion.process=flow", "diffusion.residual_scale=4")
    model = write_model(tmp_path / "m.safetensors", *flow, "loss.perceptual=lpips-vgg", "loss.weight=3")
    publish(model, tmp_path / "p.safetensors", licence="CC0", attribution="")
    reported: list[str] = []
    own = {"train.batch": 2, "train.patch": 16, "validate.every": 0, "loss.perceptual": "none"}
    call = {"steps": 0, "rrdb_steps": 0, "settings": own, "device": "cpu", "report": reported.append}
    made = samdiff.load_model(samdiff.train(store, "runs/x", init_from="p.safetensors", **call)).config
    assert (made.preset, made.diffusion.process, made.loss.perceptual, made.loss.weight) == ("tiny", "flow", "none", 3.0)
    assert "as in p.safetensors: preset tiny, [model], [diffusion] and [loss] without perceptual" in reported
    with pytest.raises(samdiff.CheckpointError, match="check preset and scale"):
        samdiff.train(store, "runs/y", preset="tiny", init_from="p.safetensors", **call)


def test_lr_and_imported_masks(tmp_path, monkeypatch):
    """`lr=` means given LR; a folder of JSON files means imported masks."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "hr")
    write_image(tmp_path / "lr", side=16)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.json").write_text("[]")
    store = samdiff.prepare("hr", "s.zarr", masks="masks", lr="lr", tile=32)
    assert store.attrs["degradation"]["kind"] == "given"
    assert store.attrs["segmenter"]["name"] == "imported"
    np.testing.assert_array_equal(store[0]["lr"], np.asarray(Image.open("lr/a.png"))[:8, :8])


def test_calls_that_cannot_be_meant(tmp_path, monkeypatch):
    """Each is one clear error before any work."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photos")
    for call, message in (
        ({"tiles": 32}, "prepare: unknown setting tiles.*did you mean.*tile"),
        ({"masks": Halves(), "sam": "vit_h"}, "masks: cannot be combined with sam"),
        ({"masks": Halves(), "points_per_side": 8}, "cannot be combined with .* settings of the mask generation"),
        ({"masks_from": "lr", "degradation": "blind"}, "cannot be combined with degradation 'blind'"),
        ({"masks": Halves(), "threads": 0}, "threads: expected at least 1, got 0"),
        ({"masks": Halves(), "tile": 30}, "tile: expected a multiple of the scale 4"),
    ):
        with pytest.raises(samdiff.ConfigError, match=message):
            samdiff.prepare("photos", "s.zarr", **call)
    with pytest.raises(samdiff.ConfigError, match="out: needed with several sources"):
        samdiff.prepare(["photos", "photos"], masks=Halves())
    store = make_store(tmp_path / "a.zarr")
    for call, message in (
        ({"settings": {"train.lrr": 1}}, "unknown setting train.lrr"),
        ({"settings": {"lr": 1}}, "expected section.key=value"),
        ({"settings": {"train.lr": object()}}, "train.lr: expected a number, a string, a list"),
        ({"rrdb": "x.safetensors", "rrdb_steps": 3}, "rrdb: replaces stage one"),
        ({"preset": "large"}, "preset: expected one of tiny, small, paper"),
    ):
        with pytest.raises(samdiff.ConfigError, match=message):
            samdiff.train(store, "runs/x", **call)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "s.zarr").exists()
