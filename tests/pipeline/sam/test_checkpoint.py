"""Files of weights as training programs write them, and weights of another segmenter: accepted, or one clear error."""

import pytest
import torch

from samdiff.errors import WeightsError
from samdiff.pipeline.sam import load
from samdiff.pipeline.sam.checkpoint import check_architecture, read_state, recognised
from samdiff.pipeline.sam.load import load_segmenter

CPU = torch.device("cpu")
TENSORS = {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}


def patches(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


VIT = {
    name: {"image_encoder.patch_embed.proj.weight": patches(width, 3, 16, 16)}
    for name, width in (("vit_b", 768), ("vit_l", 1024), ("vit_h", 1280))
}
TINY = {"image_encoder.patch_embed.seq.0.c.weight": patches(32, 3, 3, 3)}


def hiera(width: int, blocks: int, *more: str) -> dict[str, torch.Tensor]:
    names = [*(f"image_encoder.trunk.blocks.{k}.norm1.weight" for k in range(blocks)), *more]
    return {"image_encoder.trunk.patch_embed.proj.weight": patches(width, 3, 7, 7)} | dict.fromkeys(names, patches(1))


@pytest.mark.parametrize("key", [None, "model", "model_state"])
@pytest.mark.parametrize("prefix", ["", "sam."])
def test_wrappings_of_training_programs(tmp_path, key, prefix):
    """micro-sam's training files hold `model_state` beside other values, and its names begin with `sam.`."""
    state = {prefix + name: value for name, value in TENSORS.items()}
    path = tmp_path / "x.pt"
    torch.save(state if key is None else {"epoch": 3, "optimizer_state": {"lr": 0.1}, key: state}, path)
    got = read_state(path)
    assert got.keys() == TENSORS.keys()
    assert all(torch.equal(got[name], value) for name, value in TENSORS.items())


def test_a_prefix_of_some_names_is_a_part_of_them(tmp_path):
    torch.save({"sam.a": torch.zeros(1), "decoder.b": torch.zeros(1)}, tmp_path / "x.pt")
    assert read_state(tmp_path / "x.pt").keys() == {"sam.a", "decoder.b"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "net": TENSORS, "loss": torch.zeros(2, 5)}, r"epoch \(int\), net \(dict of 2\), loss \(tensor 2 x 5\)"),
        ({str(k): k for k in range(11)}, r"0 \(int\), .*7 \(int\) and 3 more"),
        ([1, 2], "one list"),
        ({}, "nothing"),
        ({"model_state": {}}, "nothing"),
        ({"a\x1b[31m": 1}, r"a\\x1b\[31m \(int\)"),
    ],
)
def test_an_unknown_layout_lists_what_it_found(tmp_path, content, found):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(
        WeightsError, match=f"expected named tensors, or a dict that holds them as model or model_state; found {found}$"
    ):
        read_state(tmp_path / "x.pt")


def test_recognised():
    """Every published architecture; SAM 2.0 and 2.1 by their video parts, which a file of the image model alone lacks."""
    assert {name: recognised(state) for name, state in VIT.items()} == {name: (name,) for name in VIT}
    assert recognised(TINY) == ("mobile_sam",)
    for width, blocks, size in ((96, 12, "t"), (96, 16, "s"), (112, 24, "b+"), (144, 48, "l")):
        new, old = f"sam2.1_{size}", f"sam2_{size}"
        assert recognised(hiera(width, blocks)) == (new, old)
        assert recognised(hiera(width, blocks, "maskmem_tpos_enc", "no_obj_embed_spatial")) == (new,)
        assert recognised(hiera(width, blocks, "maskmem_tpos_enc")) == (old,)
    assert recognised(hiera(64, 4)) == recognised(TENSORS) == ()


@pytest.mark.parametrize(
    ("name", "state", "found"),
    [
        ("vit_b", VIT["vit_l"], "vit_l"),
        ("vit_b", TINY, "mobile_sam"),
        ("sam2.1_t", VIT["vit_b"], "vit_b"),
        ("mobile_sam", hiera(96, 12), "sam2.1_t or sam2_t"),
        ("sam2.1_t", hiera(96, 12, "maskmem_tpos_enc"), "sam2_t"),
    ],
)
def test_weights_of_another_segmenter(name, state, found):
    expected = (
        f"^file as {name}: expected the weights of {name}, got those of {found}; give --sam {found.split()[0]}, or another"
    )
    with pytest.raises(WeightsError, match=expected.replace("+", r"\+")):
        check_architecture(state, name, f"file as {name}")


def test_the_segmenter_reads_such_a_file(tmp_path, monkeypatch):
    """`--sam vit_b --sam-weights FILE`, with a small model in place of vit_b; and the error for vit_l's file."""
    monkeypatch.setattr(load, "build_segmenter", lambda _: torch.nn.Linear(3, 2).requires_grad_(False))
    weight, bias = torch.ones(2, 3), torch.zeros(2)
    path = tmp_path / "fine-tuned.pt"
    torch.save({"epoch": 1, "model_state": {"sam.weight": weight, "sam.bias": bias}}, path)
    segmenter = load_segmenter("vit_b", CPU, weights=path)
    assert torch.equal(segmenter.model.weight, weight)
    assert segmenter.weights.origin == "fine-tuned.pt"
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(1024, 3, 16, 16)}, path)
    with pytest.raises(
        WeightsError, match=r"fine-tuned.pt as vit_b: expected the weights of vit_b, got those of vit_l; give --sam vit_l"
    ):
        load_segmenter("vit_b", CPU, weights=path)
