"""`export-model --only`: static tiles, manifest, int8; and `infer --onnx`, which trusts no file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samdiff.cli import main
from samdiff.errors import CheckpointError, ConfigError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.evaluation.metrics import psnr
from samdiff.model.export.calibration import read_patches
from samdiff.model.export.manifest import KEY, OVERLAP, read_manifest
from samdiff.model.export.onnx_model import load_onnx
from samdiff.model.export.tile_export import export_tile
from samdiff.model.inference.upscaler import load_model

from ...helpers.models import write_model, write_student

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SIDE = 40


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours with edges, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9 + y / 31), np.cos(y / 7), np.sin((x + y) / 5)], axis=-1)
    return np.where((x // 23 + y // 17) % 5 == 0, 230, 127 + 100 * waves.transpose(2, 0, 1)).transpose(1, 2, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hr")
    for number in range(3):
        Image.fromarray(photo(2 * 4 * SIDE, 3 * 4 * SIDE + number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"rrdb": write_model(folder / "m.safetensors"), "student": write_student(folder / "s.safetensors")}


@pytest.fixture(scope="module")
def exported(models, images, tmp_path_factory) -> dict[str, Path]:
    """The student and the RRDB in int8, and the others that tests share."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}
    patches = read_patches(images, scale=4, side=SIDE)
    for only, precision in (("student", "fp32"), ("student", "fp16"), ("student", "int8"), ("rrdb", "int8")):
        given = load_checkpoint(models[only])
        files, _ = export_tile(given, "m", folder, only=only, side=SIDE, precision=precision, patches=patches)
        made[f"{only}-{precision}"] = files[0]
    return made


def test_manifest_says_how_to_run_it(exported):
    file = exported["student-int8"]
    facts = json.loads(file.with_suffix(".json").read_text())
    assert file.name == f"student-x4-{SIDE}-int8.onnx"
    assert facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts["bytes"] == file.stat().st_size
    assert facts["input"]["shape"] == [1, 3, SIDE, SIDE]
    assert facts["output"]["shape"] == [1, 3, 4 * SIDE, 4 * SIDE]
    assert (facts["scale"], facts["overlap"], facts["receptive_field"]) == (4, OVERLAP, 2 * (2 + 2) + 1)
    assert facts["psnr_y"]["loss"] == pytest.approx(facts["psnr_y"]["checkpoint"] - facts["psnr_y"]["exported"], abs=2e-4)
    assert abs(facts["psnr_y"]["loss"]) < 1
    inside = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(inside[KEY]) == {key: value for key, value in facts.items() if key not in ("file", "bytes", "sha256")}
    manifest = read_manifest(inside[KEY], "x")
    assert (manifest.tile, manifest.scale, manifest.precision) == (SIDE, 4, "int8")


def test_the_receptive_field_is_that_of_the_network(models):
    """A pixel changed just outside of it changes nothing, one inside does."""
    for only in ("student", "rrdb"):
        from samdiff.model.export.tile_network import network_of

        network = network_of(load_checkpoint(models[only]), only, "m")
        radius = network.radius
        generator = torch.Generator().manual_seed(0)
        lr = torch.rand(1, 3, 3, 2 * radius + 9, generator=generator)
        middle = lr.shape[3] // 2

        def result(change: int, lr=lr, network=network, middle=middle):
            changed = lr.clone()
            changed[..., middle + change] += 5
            return network.unit(changed)[..., 4 * middle : 4 * middle + 4]

        assert torch.equal(result(radius + 1), network.unit(lr)[..., 4 * middle : 4 * middle + 4])
        assert not torch.equal(result(2), network.unit(lr)[..., 4 * middle : 4 * middle + 4])


@pytest.mark.parametrize("size", [(SIDE + 27, 2 * SIDE + 13), (SIDE - 9, SIDE + 1)])
@pytest.mark.parametrize(
    ("kind", "least"), [("student-fp32", 80), ("student-fp16", 55), ("student-int8", 38), ("rrdb-int8", 30)]
)
def test_infer_runs_an_exported_network(exported, models, tmp_path, monkeypatch, size, kind, least):
    """Two odd sizes, one smaller than a tile: with tiles and overlap the result is that of the checkpoint, up to the precision."""
    monkeypatch.setenv("SAMDIFF_QUIET", "1")
    Image.fromarray(photo(*size)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as stopped:
        main(["infer", str(tmp_path / "a.png"), "--onnx", str(exported[kind]), "-o", str(tmp_path / "b.png")])
    assert stopped.value.code in (0, None)
    only = kind.partition("-")[0]
    settings = {"rrdb_only": True} if only == "rrdb" else {}
    padded = np.pad(photo(*size), [*((0, max(0, SIDE - side)) for side in size), (0, 0)], mode="symmetric")
    exact = load_model(models[only], "cpu").upscale(padded, tile=SIDE, **settings)[: 4 * size[0], : 4 * size[1]]
    found = np.asarray(Image.open(tmp_path / "b.png"))
    assert found.shape == (4 * size[0], 4 * size[1], 3)
    assert psnr(found, exact) >= least
    assert Image.open(tmp_path / "b.png").info["samdiff-settings"].startswith("one step, tiles of 40 overlapping by 16")


def test_int8_is_int8(exported):
    model = onnx.load(exported["student-int8"])
    initial = {each.name: each for each in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = [makers[node.input[1]] for node in convs if node.input[1] in makers]
    assert len(weights) == len(convs) - 1 == 4  # the bicubic base image stays in float32
    assert all(node.op_type == "DequantizeLinear" for node in weights)
    assert {initial[node.input[0]].data_type for node in weights} == {onnx.TensorProto.INT8}
    assert exported["student-int8"].stat().st_size < exported["student-fp32"].stat().st_size


def changed(file: Path, target: Path, change) -> Path:
    model = onnx.load(file)
    change(model)
    target.write_bytes(model.SerializeToString())
    return target


def _external(model):
    first = model.graph.initializer[0]
    first.ClearField("raw_data")
    first.data_location = onnx.TensorProto.EXTERNAL
    entry = first.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _custom(model):
    model.opset_import.add(domain="com.evil", version=1)
    model.graph.node[0].domain = "com.evil"


def _operator(model):
    model.graph.node[0].op_type = "Loop"


def _size(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 4096


def _no_manifest(model):
    del model.metadata_props[:]


def _wrong_manifest(model):
    (entry,) = model.metadata_props
    entry.value = entry.value.replace('"tile": 40', '"tile": 40000000')


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_external, "in another file"),
        (_custom, "holds .*, which no exported network of samdiff has"),
        (_operator, "holds Loop"),
        (_size, "expected the input lr"),
        (_no_manifest, "has no manifest"),
        (_wrong_manifest, "tile of its manifest"),
    ],
)
def test_strange_files_are_not_run(exported, tmp_path, change, match):
    from samdiff.model.export.onnx_model import load_onnx

    with pytest.raises(ConfigError, match=match):
        load_onnx(changed(exported["student-fp32"], tmp_path / "x.onnx", change))


def test_what_is_no_onnx_file(exported, tmp_path, monkeypatch):
    from samdiff.model.export import onnx_model

    (tmp_path / "x.onnx").write_text("no model")
    with pytest.raises(ConfigError, match="not an ONNX file|has no manifest"):
        onnx_model.load_onnx(tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="cannot be read"):
        onnx_model.load_onnx(tmp_path / "none.onnx")
    monkeypatch.setattr(onnx_model, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="cannot be read"):
        onnx_model.load_onnx(exported["student-fp32"])


def test_settings_that_do_not_fit(exported, models, images, tmp_path):
    from samdiff.model.export.onnx_model import load_onnx

    model = load_onnx(exported["student-fp32"])
    with pytest.raises(ConfigError, match="steps: .* network of one step, without sampling; leave steps, seed out"):
        model.upscale(photo(8, 8), steps=3, seed=1)
    with pytest.raises(ConfigError, match="takes one tile of 40 x 40"):
        model.upscale(photo(8, 8), tile=64)
    given = load_checkpoint(models["student"])
    for settings, match in (
        ({"only": "rrdb"}, "which has no rrdb"),
        ({"only": "unet"}, "--only: expected rrdb or student"),
        ({"precision": "int4"}, "expected one of fp32"),
        ({"precision": "int8"}, "needs images for calibration"),
        ({"side": 32}, "--static: expected 33 to"),
    ):
        how = {"only": "student", "side": SIDE, "precision": "fp32", **settings}
        with pytest.raises((ConfigError, CheckpointError), match=match):
            export_tile(given, "m", tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="expected at least 4 patches of 4000 x 4000"):
        read_patches(images, scale=4, side=1000)


def test_existing_files_are_kept(models, tmp_path):
    (tmp_path / "student-x4-40-fp32.json").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export_tile(load_checkpoint(models["student"]), "m", tmp_path, only="student", side=SIDE, precision="fp32")
    assert [path.name for path in tmp_path.iterdir()] == ["student-x4-40-fp32.json"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--static", "64"], "--static: only together with --only"),
        (["--to", "esrgan", "--precision", "int8"], "leave --precision out"),
        (["--to", "tflite"], "expected onnx or esrgan"),
    ],
)
def test_options_that_do_not_go_together(words, match, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export-model", "--checkpoint", "shipped", *words])
    assert stopped.value.code == 2
    assert match in capsys.readouterr().err


def test_a_network_that_gives_nan_is_an_error(exported, tmp_path):
    """Such as one whose weights are damaged: no black image is written."""
    model = onnx.load(exported["student-fp32"])
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(weights)
            weights.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), weights.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(CheckpointError, match="nan.onnx: gives values that are not finite"):
        load_onnx(tmp_path / "nan.onnx").upscale(np.zeros((9, 9, 3), np.uint8))
