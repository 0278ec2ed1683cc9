"""Declaring, checking, reading and writing settings, on a small example and on our own."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samdiff.commands.data.masks import MasksSettings
from samdiff.commands.data.prepare import PrepareSettings
from samdiff.commands.models.evaluate import EvaluateSettings
from samdiff.commands.models.infer import InferSettings
from samdiff.errors import ConfigError
from samdiff.model.config import PRESETS, RunConfig, config_from, config_of, load_config
from samdiff.model.infer_config import InferConfig
from samdiff.settings import (
    build,
    changed,
    check,
    layers_of,
    merge,
    old_names,
    parse_sets,
    read_toml,
    section,
    setting,
    settings_of,
    to_schema,
    to_toml,
)

ROOTS = (PrepareSettings, MasksSettings, InferSettings, EvaluateSettings, RunConfig)


@old_names
@dataclass(frozen=True)
class Inner:
    """A section."""

    rate: float = setting(0.5, above=0, max=1, was=("speed",))
    """How fast."""
    size: int | None = setting(None, min=2, none="the best one")
    """How large;
    over two lines."""
    kind: str = setting("a", choices=("a", "b"), was_values={"old": "b"})
    """Which."""
    levels: tuple[int, ...] = (1, 2)
    """Several."""
    where: Path | None = None
    """A path."""
    on: bool = False
    """A flag."""
    hidden: object = setting(None, python_only=True)
    """Not in files."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Outer:
    """A root."""

    title: str = "x"
    """A text."""
    inner: Inner = section(Inner)
    """Section one."""
    part: Inner = section(Inner, without=("on",))
    """Section two, without the flag."""


def test_a_setting_knows_its_sentence_type_and_default():
    found = {each.name: each for each in settings_of(Inner)}
    assert found["size"].help == "How large; over two lines."
    assert (found["size"].kind, found["size"].optional, found["size"].default) == (int, True, None)
    assert (found["rate"].kind, found["rate"].optional, found["rate"].default) == (float, False, 0.5)
    assert next(each for each in settings_of(Outer) if each.name == "part").is_section


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0}, "rate: expected above 0 and at most 1, got 0"),
        ({"rate": 1.5}, "rate: expected above 0 and at most 1, got 1.5"),
        ({"rate": math.nan}, "rate: expected above 0"),
        ({"rate": "fast"}, "rate: expected a number, got 'fast'"),
        ({"size": 1}, "size: expected at least 2, got 1"),
        ({"size": 2.0}, "size: expected an integer, got 2.0"),
        ({"size": True}, "size: expected an integer, got True"),
        ({"kind": "c"}, r"kind: expected one of a, b, got 'c'"),
        ({"on": 1}, "on: expected true or false, got 1"),
    ],
)
def test_values_are_checked(values, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        Inner(**values)


def test_numbers_of_numpy_become_python_numbers():
    made = Inner(size=np.int64(3), rate=np.float32(0.25))
    assert (type(made.size), type(made.rate), made.size, made.rate) == (int, float, 3, 0.25)


def test_former_names_and_values_work_everywhere():
    """As keywords, attributes, keys, `--set` and changes; both names at once are an error."""
    assert Inner(speed=0.25) == Inner(rate=0.25)
    assert Inner(rate=0.25).speed == 0.25
    assert Inner(kind="old").kind == "b"
    assert build(Outer, {"inner": {"speed": 0.25, "kind": "old"}}).inner == Inner(rate=0.25, kind="b")
    assert changed(Inner(), {"speed": 0.25}, "f") == Inner(rate=0.25)
    assert merge(Outer, [{"inner": {"speed": 0.1}}, parse_sets(["inner.rate=0.2"])]) == {"inner": {"rate": 0.2}}
    assert merge(Outer, [{"inner": {"rate": 0.1}}, parse_sets(["inner.speed=0.2"])]) == {"inner": {"rate": 0.2}}
    for both in (lambda: Inner(rate=0.1, speed=0.2), lambda: build(Outer, {"inner": {"rate": 0.1, "speed": 0.2}})):
        with pytest.raises(ConfigError, match="given twice"):
            both()
    with pytest.raises(AttributeError):
        Inner().spede  # noqa: B018


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"iner": {}}, r"unknown setting iner \(did you mean 'inner'\?\)"),
        ({"inner": {"rat": 1}}, r"unknown setting inner.rat \(did you mean 'rate'\?\); known: rate, size"),
        ({"inner": {"hidden": 1}}, "unknown setting inner.hidden"),
        ({"part": {"on": True}}, "unknown setting part.on"),
        ({"inner": 3}, r"inner: expected a section \[inner\] with keys rate, size"),
        ({"inner": {"rate": 2.0}}, "inner.rate: expected above 0 and at most 1, got 2.0"),
        ({"inner": {"size": 1 << 63}}, "inner.size: expected a number below"),
        ({"inner": {"levels": [1, "x"]}}, "inner.levels: expected int, got 'x'"),
        ({"inner": {"levels": [1] * 1001}}, "inner.levels: expected a short list"),
        ({"inner": {"where": ""}}, "inner.where: expected a path, got ''"),
        ({"title": None}, "title: expected str, got None"),
    ],
)
def test_layers_are_checked(layer, message):
    with pytest.raises(ConfigError, match=message):
        build(Outer, layer)


def test_sets_hold_toml_or_bare_words():
    assert parse_sets(["a.x=1e-4", "a.y = word", "a.z=[1, 2]", "b.c.d=true"]) == {
        "a": {"x": 1e-4, "y": "word", "z": [1, 2]},
        "b": {"c": {"d": True}},
    }
    for wrong in ("x", "x=1", "=1", "a.x"):
        with pytest.raises(ConfigError, match="--set"):
            parse_sets([wrong])
    with pytest.raises(ConfigError, match="it is no section"):
        parse_sets(["a.b=1", "a.b.c=2"])


def test_files_are_bounded_and_named(tmp_path):
    file = tmp_path / "a.toml"
    file.write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match=r"a.toml: expected settings in at most"):
        layers_of(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        layers_of(tmp_path / "none.toml")


@given(
    st.builds(
        Inner,
        rate=st.floats(1e-9, 1),
        size=st.none() | st.integers(2, 1 << 40),
        kind=st.sampled_from("ab"),
        levels=st.lists(st.integers(-5, 1 << 40)).map(tuple),
        where=st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0~"), min_size=1).map(Path),
        on=st.booleans(),
    ),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_toml_can_be_read_again(inner, title):
    """Any text, also quotes, line feeds and control characters."""
    made = Outer(title, inner)
    assert build(Outer, read_toml(to_toml(made), "here")) == made


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_our_settings_can_be_read_again(root):
    assert build(root, read_toml(to_toml(root()), "here")) == root()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_can_be_read_again(preset, tmp_path):
    """Also from JSON, and over another preset."""
    made = load_config(preset, None, ["train.grad_clip=3", "diffusion.modulation=joint"], scale=2)
    file = tmp_path / "run.toml"
    file.write_text(to_toml(made))
    assert load_config(None, file) == made
    assert config_from(json.loads(json.dumps(made.as_dict()))) == made
    assert load_config("tiny", file) == replace(made, preset="tiny")


def test_saved_settings_of_before_are_read():
    """A configuration with the former keys, as checkpoints and runs hold it, is the same run."""
    now = load_config("tiny", None, ["train.ema_decay=0.9", "train.grad_accum=2", "train.num_workers=0", "train.grad_clip=1"])
    saved = now.as_dict()
    train = saved["train"]
    for old, new in (("ema", "ema_decay"), ("accumulate", "grad_accum"), ("workers", "num_workers"), ("clip", "grad_clip")):
        train[old] = train.pop(new)
    assert config_of({**saved, "stores": ["x"], "threads": 2}) == now
    assert now.train.ema == 0.9


def test_the_model_gives_the_preset(tmp_path):
    """Without a preset: its networks and process, and the preset's training. With one, by name or in the file, only that counts."""
    model = load_config("tiny", None, ["model.width=48", "diffusion.lr_levels=256", "train.batch=3"])
    found = load_config(None, model=model)
    assert (found.preset, found.model.width, found.diffusion.lr_levels) == ("tiny", 48, 256)
    assert found.train == load_config("tiny").train
    assert load_config("small", model=model) == load_config("small")
    file = tmp_path / "a.toml"
    file.write_text('preset = "small"\n')
    assert load_config(None, file, model=model) == load_config("small")
    assert load_config(None).preset == "paper"


def test_precedence():
    """Preset < file < --set < named options."""
    named = {"train": {"lr": 4e-4}}
    found = load_config("small", None, ["train.lr=3e-4", "train.batch=3"], named=named)
    assert (found.train.lr, found.train.batch, found.train.patch) == (4e-4, 3, 96)


def _leaves(kind, prefix=()):
    for each in settings_of(kind):
        if each.is_section:
            yield from ((*prefix, each.name, *rest) for rest in _leaves(each.kind))
        elif not each.facts.python_only:
            yield (*prefix, each.name)


def test_the_schema_says_what_the_classes_say():
    """Each key with its sentence, type, default, range and choices; others are refused."""
    schema = to_schema(RunConfig, "a title")
    json.dumps(schema)
    assert schema["properties"]["train"]["additionalProperties"] is False
    for section_, *key in _leaves(RunConfig):
        found = schema["properties"][section_]
        assert (found["properties"][key[0]] if key else found)["description"]
    train = schema["properties"]["train"]["properties"]
    assert train["lr"] == {"description": "Adam's learning rate.", "type": "number", "default": 2e-4, "exclusiveMinimum": 0}
    assert train["num_workers"]["maximum"] == 1024
    assert train["amp"]["enum"] == ["off", "bf16", "fp16"]
    assert train["ema"]["deprecated"]
    assert schema["properties"]["model"]["properties"]["multipliers"]["items"] == {"type": "integer"}


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_every_setting_has_a_sentence(root):
    def walk(kind):
        for each in settings_of(kind):
            if each.is_section:
                yield from walk(each.kind)
            else:
                yield each

    for each in walk(root):
        assert each.help.endswith(".") or each.help.endswith("…"), each.name
        assert each.default is None or not each.facts.choices or each.default in each.facts.choices


def test_infer_settings_of_before():
    """Python's users may still write them."""
    assert InferConfig(regress=True, average=3, consistent=True, precision="bf16") == InferConfig(
        rrdb_only=True, num_samples=3, back_project=True, amp="bf16"
    )
    assert InferConfig(precision="fp32").amp == "off"


def test_the_generator_takes_settings_and_changes():
    """Unknown ones are named before a model is loaded."""
    from samdiff.pipeline.masks.generator import MaskGenerator

    with pytest.raises(
        ConfigError, match=r"MaskGenerator: unknown setting point_per_side \(did you mean 'points_per_side'\?\)"
    ):
        MaskGenerator("mobile_sam", point_per_side=3)
    with pytest.raises(ConfigError, match="points_per_side: expected at least 1, got 0"):
        MaskGenerator("mobile_sam", points_per_side=0)


def test_a_new_setting_is_one_field():
    """Without `setting(…)`, too: it has a sentence, and stands in TOML and schema."""

    @dataclass(frozen=True)
    class More(Inner):
        """Inherits the others."""

        new: int = 7
        """A new one."""

    assert "new = 7  # A new one.\n" in to_toml(More())
    assert "rate = 0.5  # How fast.\n" in to_toml(More())
    assert to_schema(More, "x")["properties"]["new"] == {"description": "A new one.", "type": "integer", "default": 7}
