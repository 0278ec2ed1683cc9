"""Damage done to checkpoints, states, published files and settings: seeded trials, each a fresh copy with one fault in it.

A trial passes if the file is refused with a CheckpointError or ConfigError, or gives what the sound one gives; any other exception, other
content, more than a few seconds of work or some hundred MB fail it.

    python -c "from samdiff.tests.helpers.damaged_checkpoints import run; print(run(range(1000, 3000)))"      more than `make test` has time for
"""

import copy
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from samdiff.errors import CheckpointError, ConfigError
from samdiff.model.checkpoints.convert import import_official
from samdiff.model.checkpoints.format import Checkpoint, load_checkpoint, save_checkpoint
from samdiff.model.checkpoints.official_names import RRDB_NAMES, UNET_NAMES, to_official
from samdiff.model.config import RunConfig, load_config
from samdiff.model.inference.upscaler import load_model
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.training.optimizer import Guard, make_optimiser, update
from samdiff.model.training.run_dir import _read_settings
from samdiff.model.training.state import fresh, resume, save_state

CPU = torch.device("cpu")
SETS = ["model.width=4", "model.multipliers=[1, 2]", "model.rrdb_blocks=2", "model.rrdb_features=4", "model.rrdb_growth=2"]
MOST_SECONDS, MOST_MB = 20.0, 400
ODD: list[Any] = [
    None, [], {}, "", "x" * 100_000, "\x1b[2J\udc80\u202e", True, -1, 0, 1, 2, 3, 50_000, 10**9, 1 << 63, 10**400, 0.5, -1e308, float("nan"),
    float("inf"), [[[[]]]], {"a": {"b": None}}, [1] * 1000, [10**9], ["1"], 1.0, "official", "joint", "paper", "linear",
]  # fmt: skip


def settings() -> RunConfig:
    """The smallest networks that there are."""
    return load_config("tiny", sets=SETS)


def saved_config() -> dict[str, Any]:
    """As a run saves it."""
    return {**settings().as_dict(), "stores": ["f"], "rrdb_from": None, "start_from": None}


def after_a_step() -> tuple[torch.nn.Module, torch.optim.Adam, Guard]:
    """A U-Net with moments that are not zero."""
    torch.manual_seed(0)
    network, guard = build_unet(settings()), Guard.new("off", CPU)
    optimiser = make_optimiser(network, settings().train)
    sum(value.square().sum() for value in network.parameters()).backward()
    update(optimiser, guard, torch.ones(()), settings().train)
    return network, optimiser, guard


def make_files(folder: Path) -> dict[str, Path]:
    """One sound file of each kind."""
    (folder / "run").mkdir(parents=True)
    config = settings()
    network, optimiser, guard = after_a_step()
    state = fresh(network, guard)
    state.step = 3
    save_state("diffusion", network, optimiser, state, folder / "run", saved_config(), config.train.batch, 1)
    (folder / "run" / "config.json").write_text(json.dumps(saved_config()))
    rrdb, unet = build_rrdb(config).state_dict(), network.state_dict()
    ours = {f"rrdb.{name}": value for name, value in rrdb.items()}
    save_checkpoint(folder / "run" / "rrdb.safetensors", Checkpoint("rrdb", ours, saved_config(), {"step": 2}))
    ours |= {f"unet.{name}": value for name, value in unet.items()}
    save_checkpoint(folder / "run" / "model.safetensors", Checkpoint("diffusion", ours, saved_config(), {"step": 3}))
    theirs = {f"rrdb.{name}": value for name, value in to_official(rrdb, RRDB_NAMES).items()}
    theirs |= {f"denoise_fn.{name}": value for name, value in to_official(unet, UNET_NAMES).items()}
    torch.save({"state_dict": {"model": theirs}, "epoch": 3}, folder / "zip.ckpt")
    torch.save({"state_dict": {"model": theirs}}, folder / "old.ckpt", _use_new_zipfile_serialization=False)
    save_file(theirs, folder / "names.safetensors")
    return {
        "state": folder / "run" / "state-diffusion-00000003.safetensors",
        "rrdb": folder / "run" / "rrdb.safetensors",
        "model": folder / "run" / "model.safetensors",
        "zip": folder / "zip.ckpt",
        "old": folder / "old.ckpt",
        "names": folder / "names.safetensors",
        "settings": folder / "run" / "config.json",
    }


def content(kind: str, file: Path) -> Any:
    """What the product makes of a file."""
    if kind == "settings":
        return json.dumps(_read_settings(file), sort_keys=True)
    if kind in ("zip", "old", "names"):
        found = import_official(file)
    elif kind == "state":
        network, guard = build_unet(settings()), Guard.new("off", CPU)
        optimiser = make_optimiser(network, settings().train)
        state = resume("diffusion", network, optimiser, guard, file.parent, saved_config())
        assert state is not None
        kept = optimiser.state_dict()["state"]
        moments = {f"{key}.{name}": value for key, each in kept.items() for name, value in each.items()}
        tensors = {**network.state_dict(), **{f"ema.{name}": value for name, value in state.ema.items()}, **moments}
        return tensors | vars(state.guard), [state.step, state.best]
    else:
        found = load_checkpoint(file, "diffusion" if kind == "model" else "rrdb")
        if kind == "model":
            load_model(file, CPU)
    return found.tensors, [found.kind, found.config, {key: value for key, value in found.facts.items() if key != "sha256"}]


def same(ours: Any, theirs: Any) -> bool:
    """Bit for bit."""
    if isinstance(ours, str):
        return ours == theirs
    equal = ours[0].keys() == theirs[0].keys() and ours[1] == theirs[1]
    return equal and all(
        value.dtype == theirs[0][name].dtype and torch.equal(value, theirs[0][name]) for name, value in ours[0].items()
    )


def flip(data: bytes, rng: random.Random) -> bytes:
    """One bit, in every second trial within the header."""
    place = rng.randrange(min(len(data), 4096) if rng.random() < 0.5 else len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    """Cut short, made longer, or a part of it zeroed or written twice."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice(
        [
            data[:start],
            data + bytes(rng.randrange(1, 99)),
            data[:start] + bytes(end - start) + data[end:],
            data[:end] + data[start:],
        ]
    )


def edit(file: Path, rng: random.Random, with_digest: bool) -> None:
    """A tensor is dropped, renamed, retyped, reshaped, doubled; or a text of the header is changed. The digest stays, or is taken out."""
    with safe_open(file, framework="pt") as opened:
        texts = dict(opened.metadata() or {})
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    kinds = [torch.float8_e5m2, torch.bool, torch.int64, torch.complex64, torch.float64, torch.uint8, torch.int32]
    changes: list[Callable[[], Any]] = [
        lambda: tensors.pop(name),
        lambda: tensors.update({rng.choice(["zz", name + ".weight", "adam.x.y", "guard.zz", "a\x1b[2J"]): tensors.pop(name)}),
        lambda: tensors.update({name: value.to(rng.choice(kinds))}),
        lambda: tensors.update({name: value.reshape(-1, 1)}),
        lambda: tensors.update({name: torch.full_like(value, float("nan"))}),
        lambda: tensors.update(dict.fromkeys(["a"], value.clone())),
        lambda: texts.update(kind=rng.choice(["rrdb", "state", "", "diffusion\x00"])),
        lambda: texts.update(more="x"),
        lambda: texts.pop(rng.choice(sorted(texts))) if texts else None,
    ]
    for text in ("config", "facts") if texts else ():
        changes += [
            lambda text=text: texts.update(
                {text: rng.choice(["", "null", "[" * 100_000, "[]", "7", '{"a":' * 900 + "1" + "}" * 900, "\x00"])}
            ),
            *[lambda text=text: texts.update({text: json.dumps(odd(json.loads(texts[text]), rng))})] * 4,
        ]
    rng.choice(changes)()
    if not with_digest:
        texts.pop("sha256", None)
    save_file(tensors, file, texts or None)


def odd(value: dict[str, Any], rng: random.Random) -> Any:
    """Settings with one of them replaced by something odd, or left out, or one more."""
    value = copy.deepcopy(value)
    place = value
    while rng.random() < 0.6:
        inner = [each for each in place.values() if isinstance(each, dict) and each]
        if not inner:
            break
        place = rng.choice(inner)
    key = rng.choice(sorted(place) or [""])
    if rng.random() < 0.15:
        place.pop(key, None)
    else:
        place[key if rng.random() < 0.9 else "zz\x1b"] = rng.choice(ODD)
    return value if rng.random() < 0.95 else [value]


def trial(seed: int, sound: dict[str, Path], folder: Path) -> str:
    """One fault; `refused` or `same`. AssertionError with the seed if it is neither."""
    rng = random.Random(seed)
    kind = rng.choice(sorted(sound))
    file = folder / sound[kind].parent.name / sound[kind].name
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / "config.json").write_bytes(sound["settings"].read_bytes())
    data, way, with_digest = sound[kind].read_bytes(), rng.choice(["flip", "cut", "edit", "edit"]), rng.random() < 0.6
    file.write_bytes(data)
    if way == "edit" and file.suffix == ".safetensors":
        edit(file, rng, with_digest)
    elif way == "edit" and kind == "settings":
        file.write_text(json.dumps(odd(json.loads(data), rng)))
    else:
        file.write_bytes(flip(data, rng) if way != "cut" else cut(data, rng))
    # these have no digest, and one value may be as good as another: only that nothing else is raised
    lenient = kind in ("settings", "old", "names") or (way == "edit" and not with_digest)
    what, began, said = f"seed {seed}: {kind}, {way}", time.process_time(), ""
    try:
        found, outcome = content(kind, file), "same"
    except (CheckpointError, ConfigError) as error:
        said, outcome = str(error), "refused"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert said.isprintable(), f"{what}: {said!r}"
    assert len(said) < 2000, what
    spent = time.process_time() - began
    assert spent < MOST_SECONDS, f"{what}: {spent:.1f} s"
    if outcome == "same" and not same(found, content(kind, sound[kind])):
        assert lenient, f"{what}: taken with other content"
        outcome = "other, told by nothing"
    file.unlink()
    return outcome


def run(seeds: range) -> dict[str, int]:
    """Trials, and how many ended in which way."""
    ways: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        sound = make_files(Path(name) / "sound")
        for kind, file in sound.items():
            content(kind, file)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in seeds:
            outcome = trial(seed, sound, Path(name) / "damaged")
            ways[outcome] = ways.get(outcome, 0) + 1
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MOST_MB, f"{grown:.0f} MB"
    return ways
