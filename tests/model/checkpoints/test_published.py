"""Published files: what they claim is held against their bytes before PyTorch reads them; odd ones are refused with the reason."""

import os
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff.cli import main
from samdiff.errors import CheckpointError
from samdiff.model.checkpoints.convert import import_official
from samdiff.model.checkpoints.format import load_checkpoint, weights_digest

from ...helpers import damaged_checkpoints as damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    return damage.make_files(tmp_path_factory.mktemp("sound") / "files")


class Claims:
    """Pickles as a call of a global with arguments."""

    def __init__(self, function, *arguments):
        self.given = function, arguments

    def __reduce__(self):
        return self.given


def published(sound: dict[str, Path]) -> dict[str, torch.Tensor]:
    return torch.load(sound["zip"], weights_only=True)["state_dict"]["model"]


def test_pickles_claim_no_more_than_they_hold(sound, tmp_path):
    """Expanded and overlapping tensors, packed archives, calls that make memory: refused before PyTorch reads the file."""
    state = published(sound)
    name = "rrdb.HRconv.weight"
    small, file = torch.zeros(1), tmp_path / "a.ckpt"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shared = torch.zeros(1000)
    for old in (False, True):
        for content in (
            {**state, name: small.expand(50_000, 50_000, 3, 3)},
            {**state, name: small.half().expand(10**12)},
            {**state, name: torch.as_strided(shared, (900, 100), (1, 1))},
            {f"rrdb.RRDB_trunk.{number}.RDB1.conv1.bias": shared[:] for number in range(900)},
            {**state, name: Claims(bytearray, 10**10)},
            {**state, name: Claims(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (10**9,), (1,), False)},
            {**state, (1, 2): small},
        ):
            torch.save(content, file, _use_new_zipfile_serialization=not old)
            with pytest.raises(
                CheckpointError, match="cannot be read as a checkpoint|not a checkpoint that holds only tensors"
            ):
                import_official(file)
    torch.save(state, file)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("a/data/zz", bytes(100_000_000))
    with pytest.raises(CheckpointError, match="entries are compressed"):
        import_official(tmp_path / "packed.ckpt")
    file.write_bytes(pickle.dumps([1]) * 9)
    with pytest.raises(CheckpointError):
        import_official(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_what_publishers_write_is_read(sound, tmp_path):
    """Both formats, parameters, half precision, and files with a step: equal weights from all of them."""
    state = published(sound)
    known = weights_digest(import_official(sound["zip"]).tensors)
    for number, (content, old) in enumerate(
        (
            ({"state_dict": {"model": {name: torch.nn.Parameter(value) for name, value in state.items()}}}, False),
            ({f"module.{name}": value for name, value in state.items()}, True),
            (
                {"state_dict": {name: value.double() for name, value in state.items()}, "epoch": 3, "best": 0.5, "note": "x"},
                True,
            ),
        )
    ):
        torch.save(content, tmp_path / f"{number}.pth", _use_new_zipfile_serialization=not old)
        assert weights_digest(import_official(tmp_path / f"{number}.pth").tensors) == known


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.update({"rrdb.RRDB_trunk.1000000000.RDB1.conv1.bias": torch.zeros(4)}), "missing|unknown"),
        (lambda s: s.update({"rrdb.RRDB_trunk.zz.RDB1.conv1.bias": torch.zeros(4)}), "is unknown"),
        (lambda s: s.update({"rrdb.conv_first.bias": torch.tensor(1.0)}), "of another shape"),
        (lambda s: s.update({"denoise_fn.cond_proj.weight": torch.zeros(2)}), "of another shape"),
        (lambda s: s.update({"denoise_fn.cond_proj.bias": torch.zeros(0)}), "of another shape"),
        (lambda s: s.update({"betas": torch.zeros(2_000_000)}), "neither the cosine nor the linear"),
        (lambda s: s.update({"betas": torch.zeros(())}), "neither the cosine nor the linear"),
        (lambda s: s.update({"rrdb.HRconv.bias": torch.zeros(4, dtype=torch.int64)}), "is torch.int64, expected weights"),
        (lambda s: s.update({"module.rrdb.HRconv.bias": torch.zeros(4)}), "twice, under two prefixes"),
        (lambda s: s.update({"a\x1b[2J": torch.zeros(4)}), r"a\\x1b\[2J"),
    ],
)
def test_odd_published_files(sound, tmp_path, change, match):
    state = published(sound)
    change(state)
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=match):
        import_official(tmp_path / "a.ckpt")


def test_packed_arrays_and_things_that_are_no_files(tmp_path, capsys):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(100_000_000, np.uint8))
    os.mkfifo(tmp_path / "pipe.ckpt")
    for name, status in (("a.npz", 1), ("pipe.ckpt", 1), (".", 2), ("x" * 300, 1)):
        with pytest.raises(SystemExit) as stopped:
            main(["import-checkpoint", str(tmp_path / name), "-o", str(tmp_path / "out.safetensors")])
        assert stopped.value.code == status
        assert capsys.readouterr().err.startswith("samdiff: ")
    with pytest.raises(SystemExit):
        main(["import-checkpoint", "."])
    assert "got a folder" in capsys.readouterr().err
    for name, reason in (("pipe.ckpt", "a named pipe has this name"), ("nothing", "there is no such file")):
        with pytest.raises(CheckpointError, match=reason):
            import_official(tmp_path / name)
    for name in ("pipe.ckpt", "x" * 300):
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / name)
