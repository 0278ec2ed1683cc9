"""Options generated from settings: all settings in help, --set, TOML and schema; former names work."""

import ast
import contextlib
import io
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import samdiff
from samdiff.cli import app, main
from samdiff.commands.data.masks import MasksSettings
from samdiff.commands.data.prepare import PrepareSettings
from samdiff.commands.examples import EXAMPLES
from samdiff.commands.models.evaluate import EvaluateSettings
from samdiff.commands.models.infer import InferSettings
from samdiff.commands.options import OLD_OPTIONS, options_of
from samdiff.commands.panels import PanelCommand
from samdiff.model.config import RunConfig, load_config, taken_from
from samdiff.settings import build, read_toml, to_toml

ROOTS = {
    "prepare": PrepareSettings,
    "masks": MasksSettings,
    "train": RunConfig,
    "infer": InferSettings,
    "evaluate": EvaluateSettings,
}
GROUP = typer.main.get_command(app)
ROOT = Path(samdiff.__file__).parent


def run(*words: str) -> str:
    """What a command prints; the commands are made once for all tests."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert not GROUP.main(list(words), prog_name="samdiff", standalone_mode=False)
    return out.getvalue()


def options(command: str):
    found = options_of(ROOTS[command], dotted=command == "train")
    return [option for option in found if command != "train" or option.path[0] != "student"]  # of distill


def another(option) -> tuple[str, object]:
    """A value that is not the default: as it is typed, and as it is in TOML."""
    setting = option.setting
    if setting.facts.choices:
        result = next(choice for choice in reversed(setting.facts.choices) if choice != setting.default)
        return str(result), result
    if setting.kind is bool:
        return "", not setting.default
    if setting.kind in (int, float):
        step = 4 if setting.kind is int else 0.125
        low = setting.facts.min if setting.facts.min is not None else 0
        result = setting.kind(low + step) if setting.default != low + step else setting.kind(low + 2 * step)
        return str(result), result
    special = {"perceptual": "dists", "mtf_gains": "0.3,0.4", "range": "1,2", "nodata": "3"}
    if option.path[-1] in special:
        return special[option.path[-1]], special[option.path[-1]]
    if setting.kind in (str, Path):
        return "other", "other"
    return "[2, 2]", [2, 2]


def every(commands=ROOTS):
    return [
        pytest.param(command, option, id=f"{command}:{'.'.join(option.path)}")
        for command in commands
        for option in options(command)
    ]


@pytest.mark.parametrize("command", ROOTS)
def test_every_setting_in_the_help(command):
    """With its sentence, its choices, and under a heading."""
    text = "".join(run(command, "--help").split())  # lines may break at hyphens, too
    for option in options(command):
        assert option.shown in text
        assert "".join(option.setting.help.split()) in text, option.path
        assert all(str(choice) in text for choice in option.setting.facts.choices)
        assert option.panel
        assert not [old for old in option.former if f"{old}<" in text]
    for panel in {option.panel for option in options(command)} | {"Run"}:
        assert f"{panel.replace(' ', '')}:" in text
    assert text.index("Common:") < text.index("Run:") < text.index("Examples:")


@pytest.mark.parametrize(("command", "option"), every())
def test_all_faces_agree(command, option, tmp_path):
    """A value given by option, by --set and in a file prints the same TOML. Some settings need others."""
    typed, value = another(option)
    beside = {
        "start_time": ["infer.start=rrdb"],
        "mtf_gains": [f"{option.path[0]}.degradation=mtf"],
        "degradation_seed": ["evaluate.degradation=blind"],
        "compile": ["masks.mode=fast"],
        "fast_share": ["masks.mode=fast"],
        "bits": ["output.format=png"],
    }
    needed = beside.get(option.path[-1], []) if command != "train" else []
    if option.path == ("diffusion", "process"):
        needed = ["diffusion.base=rrdb", "diffusion.modulation=none"]
    if option.path == ("diffusion", "scale_from"):
        needed = ["diffusion.modulation=none"]
    words = [f"--set={text}" for text in needed]
    name = ".".join(option.path)
    if option.path[-1] == "degradation":
        pytest.skip("needs files")
    flag = (
        [option.shown if value else option.declarations()[-1].split("/")[1]]
        if option.setting.kind is bool
        else [option.shown, typed]
    )
    if option.path[-1] in ("stride", "tile") and command == "prepare":
        flag, value, typed = [option.shown, "64"], 64, "64"
    by_option = run(command, "--print-config", *words, *flag)
    by_set = run(command, "--print-config", *words, f"--set={name}={json.dumps(value)}")
    file = tmp_path / "a.toml"
    file.write_text(by_option)
    by_file = run(command, "--print-config", "--config", str(file))
    assert by_option == by_set == by_file
    result = tomllib.loads(by_option)
    for key in option.path:
        result = result[key]
    assert result == value


@pytest.mark.parametrize("command", ROOTS)
def test_printed_settings_are_the_defaults(command):
    default = load_config("paper") if command == "train" else ROOTS[command]()
    printed = run(command, "--print-config")
    assert printed == to_toml(default)
    assert build(ROOTS[command], read_toml(printed, "printed")) == default


def test_precedence(tmp_path):
    """Defaults < file < --set < named options."""
    file = tmp_path / "a.toml"
    file.write_text("[infer]\nsteps = 1\ntile = 2\nbatch = 3\n")
    words = [
        "infer",
        "--print-config",
        "--config",
        str(file),
        "--set",
        "infer.tile=20",
        "--set",
        "infer.steps=10",
        "--steps",
        "100",
    ]
    result = tomllib.loads(run(*words))["infer"]
    assert (result["steps"], result["tile"], result["batch"], result["overlap"]) == (100, 20, 3, 16)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["infer", "--average", "3", "--consistent", "--regress"], ["infer", "--num-samples", "3", "--back-project", "--rrdb-only"]),
        (["infer", "--precision", "bf16"], ["infer", "--amp", "bf16"]),
        (["infer", "--set", "infer.precision=fp32", "--precision", "fp32"], ["infer"]),
        (["infer", "--no-provenance"], ["infer", "--set", "output.say_so=false"]),
        (["evaluate", "--average", "2"], ["evaluate", "--num-samples", "2"]),
        (["prepare", "--degrade", "blind"], ["prepare", "--degradation", "blind"]),
        (["prepare", "--lr", "x"], ["prepare", "--lr-dir", "x"]),
        (["train", "--set", "train.clip=1", "--set", "train.ema=0.5"], ["train", "--train.grad_clip", "1", "--train.ema_decay", "0.5"]),
        (["train", "--set", "train.workers=1", "--set", "train.accumulate=2"], ["train", "--set", "train.num_workers=1", "--set", "train.grad_accum=2"]),
    ],
)  # fmt: skip
def test_former_options(old, new):
    assert run(*old, "--print-config") == run(*new, "--print-config")


def test_lr_dir_means_given():
    assert tomllib.loads(run("prepare", "--lr-dir", "x", "--print-config"))["prepare"]["degradation"] == "given"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["infer", "--sampler", "ddmp"], "expected one of ddpm, ddim, dpm2m, paper, paper-clipped, euler, got 'ddmp' (did you mean 'ddpm'?)"),
        (["infer", "--set", "infr.steps=3", "a.png"], "unknown setting infr (did you mean 'infer'?)"),
        (["infer"], "infer: expected IMAGE, got none"),
        (["train"], "train: expected STORE, got none"),
        (["info"], "info: expected STORE, got none"),
        (["evaluate", "--set", "infer.seed=1"], "unknown setting infer.seed"),
        (["train", "--print-config", "--train.lr", "0"], "train.lr: expected above 0, got 0"),
        (["prepare", "--tile", "10", "--print-config"], "prepare.tile: expected a multiple of the scale 4"),
    ],
)  # fmt: skip
def test_one_clear_error(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_ranges_are_told_before_any_work(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--scale", "17"])
    assert stopped.value.code == 2
    assert "--scale" in capsys.readouterr().err


def test_the_schema_is_printed():
    schema = json.loads(run("train", "--print-schema"))
    keys = {
        (section, key)
        for section in ("model", "diffusion", "loss", "train", "validate")
        for key in schema["properties"][section]["properties"]
    }
    assert {option.path for option in options("train")} <= keys  # fmt: skip


def test_summaries_are_short():
    """In the list of commands none is cut."""
    text = run("--help")
    assert "..." not in text.partition("Commands:")[2]
    for name, command in GROUP.commands.items():
        assert isinstance(command, PanelCommand)
        assert len(command.get_short_help_str(45)) <= 45
        assert command.get_short_help_str(45).rstrip(".") == command.help.split("\n")[0].rstrip("."), name


@pytest.mark.parametrize("name", GROUP.commands)
def test_the_panels_of_every_command(name):
    """Each option is under a heading that says something, once; Common is the first and Run the last, and `-h` is in it."""
    text = run(name, "--help").partition("Examples:")[0]
    headings = re.findall(r"^(\S.*):$", text.partition("\n\n")[2], re.MULTILINE)
    assert "Options" not in headings
    assert len(set(headings)) == len(headings)
    assert [heading for heading in headings if heading in ("Arguments", "Common", "Run")] == [
        heading for heading in ("Arguments", "Common", "Run") if heading in headings
    ]
    assert headings[-1] == "Run"
    assert "--help" in text.rpartition("Run:")[2]


def test_two_examples_for_each_command():
    """Their options exist, and none of them is a former one."""
    assert set(EXAMPLES) == set(GROUP.commands)
    for name, lines in EXAMPLES.items():
        assert len(lines) == 2
        command = GROUP.commands[name]
        old = getattr(command.callback, OLD_OPTIONS, frozenset())
        known = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)} - old
        for line in lines:
            words = line.split()
            assert words[:2] == ["samdiff", name]
            assert {word for word in words if word.startswith("-")} <= known
            assert line in run(name, "--help")


def test_out_has_a_short_form_everywhere():
    for name, command in GROUP.commands.items():
        outs = [param for param in command.params if "--out" in param.opts]
        assert all("-o" in param.opts for param in outs)
        assert outs or name in ("info", "verify", "download", "weights", "demo")


def test_stores_are_taken_alike():
    """Positional, by --store and by --shards."""
    for name in ("train", "info", "verify"):
        params = {param.name: param for param in GROUP.commands[name].params}
        assert params["stores"].param_type_name == "argument"
        assert params["more_stores"].opts == ["--store", "--shards"]


def completions(words: str) -> list[str]:
    environment = {"_SAMDIFF_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = CliRunner().invoke(app, [], env=environment, prog_name="samdiff")
    return done.output.split()


def test_choices_and_options_are_completed():
    assert completions("samdiff infer --sampler d") == ["ddpm", "ddim", "dpm2m"]
    assert completions("samdiff train --modulation ") == ["none", "official", "paper", "joint"]
    result = completions("samdiff infer --")
    assert "--num-samples" in result
    assert "--average" not in result
    assert "--train.grad_clip" in completions("samdiff train --train.g")


def test_completion_can_be_installed(tmp_path):
    """Into the file that bash reads, below the home folder."""
    code = "import shellingham; shellingham.detect_shell = lambda *_: ('bash', '/bin/bash'); import sys; sys.argv[0] = 'samdiff'; from samdiff.cli import main; main(['--install-completion'])"
    environment = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "bash completion installed" in done.stdout
    assert list(tmp_path.rglob("*samdiff*"))


def test_print_config_is_light():
    """Neither PyTorch nor NumPy is loaded for it, nor for the help."""
    commands = [[name, "--print-config"] for name in ROOTS] + [["train", "--help"]]
    code = (
        "import sys; from samdiff.cli import main\n"
        f"for words in {commands!r}:\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_few_positional_arguments():
    """No call in the commands has more than three positional arguments."""
    many = [
        f"{file.name}:{node.lineno}"
        for file in (ROOT / "commands").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") != "samdiff"  # of the demo, whose arguments are a command line
        and len([each for each in node.args if not isinstance(each, ast.Starred)]) > 3
    ]
    assert not many


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["infer", "a.png", "-o", ""], "-o"),
        (["infer", "a.png", "--checkpoint="], "--checkpoint"),
        (["masks", "a.png", "--records", ""], "--records"),
        (["train", "s.zarr", "--out", ""], "-o"),
        (["evaluate", "--benchmark", "b", "--benchmark", ""], "--benchmark"),
        (["compare", "a.png", ""], "images"),
        (["publish", "", "-o", "m.safetensors", "--licence", "x"], "run"),
        (["demo", "--folder", ""], "--folder"),
    ],
)
def test_an_empty_path_is_no_folder(words, option, capsys):
    """A script's variable that is not set must not mean the current folder."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"samdiff: {option}: expected a path, got an empty name; for the current folder write .\n"


def test_home_in_any_path(monkeypatch, tmp_path, capsys):
    """No shell replaces the `~` of `--out=~/x`: a folder named `~` is what nobody meant, and deletes a home when it is removed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"out = '{tmp_path}/large'" in run("infer", "--print-config", "--out=~/large").replace('"', "'")
    monkeypatch.chdir(tmp_path)
    assert f"out = '{tmp_path}/~'" in run("infer", "--print-config", "--out", "./~").replace('"', "'")
    with pytest.raises(SystemExit):
        main(["compare", "--out=~nobody-of-this-name/a.png", "a.png"])
    assert "there is no such user's home folder" in capsys.readouterr().err


def test_a_configuration_from_a_pipe():
    """Is read once: `--config <(samdiff … --print-config)`."""
    code = f"{sys.executable} -m samdiff.cli train --print-config --config <(printf '[train]\\nbatch = 3\\n')"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert tomllib.loads(done.stdout)["train"]["batch"] == 3


def test_the_preset_of_the_model(tmp_path):
    """`--init-from` without `--preset`: the model's networks; what is printed is TOML and nothing else."""
    result = build(RunConfig, read_toml(run("train", "--init-from", "shipped", "--print-config"), "printed"))
    assert result == build(RunConfig, read_toml(run("train", "--start", "shipped", "--print-config"), "printed"))
    assert result.preset == "tiny"
    assert result.train == load_config("tiny").train
    assert (result.diffusion.process, result.loss.perceptual, result.loss.weight) == ("flow", "lpips-vgg", 7.0)
    explicit = ("--set", "loss.perceptual=none", "--loss.weight", "2")
    changed = build(RunConfig, read_toml(run("train", "--init-from", "shipped", *explicit, "--print-config"), "printed"))
    assert (changed.loss.perceptual, changed.loss.weight, changed.loss.share) == ("none", 2.0, result.loss.share)
    assert taken_from(result, result) == "[model], [diffusion] and [loss] (perceptual=lpips-vgg)"
    assert taken_from(result, changed) == "[model], [diffusion] and [loss] without perceptual, weight"
    assert run("train", "--init-from", "shipped", "--preset", "small", "--print-config") == to_toml(load_config("small"))
