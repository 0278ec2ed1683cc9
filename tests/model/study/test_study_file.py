"""The file of a study: what is refused with one clear error, and the order of its runs."""

import pytest

from samdiff.errors import ConfigError
from samdiff.model.config import load_config
from samdiff.model.study.config import read_study
from samdiff.model.study.plan import RRDB_ALONE, Budget, compared_budget, plan_runs, primary_budget, shares_rrdb

from ...helpers.studies import write_study


def read(folder, *lines: str, more: str = ""):
    return read_study(write_study(folder, *lines, more=more, store=False))


@pytest.mark.parametrize(
    ("line", "more", "message"),
    [
        ("sedes = [0]", "", r"unknown setting sedes \(did you mean 'seeds'\?\)"),
        ("", "priorty = 1", r"setting 'official': unknown setting priorty \(did you mean 'priority'\?\)"),
        ("crop = -4", "", "crop: expected .*0"),
        ('benchmarks = "set5"', "", "benchmarks: expected a list"),
        ('reference = "nothing"', "", "reference: expected the name of a setting, one of none, official, got 'nothing'"),
        ("", '[[setting]]\nname = "NONE"', "two settings have this name"),
        ("", '[[setting]]\nname = "a/b"', "name: expected 1 to 60 letters"),
        ("", '[[setting]]\nname = "twice"\nseeds = [1, 1]', "setting 'twice': seeds: expected up to 100 different numbers"),
        ("", '[[setting]]\nname = "x"\noverrides = 3', "setting 'x': overrides: expected sections"),
        ("", 'sampling = [{ sampler = "ddpm" }, { sampler = "ddpm" }]', "a sampler is given twice"),
        ("", 'sampling = [{ sampler = "dpm" }]', "sampling.sampler: expected one of ddpm"),
        ("", "sampling = [{ steps = [0, 2] }]", "sampling.steps: expected different numbers of at least 1"),
    ],
)
def test_wrong_files(tmp_path, line, more, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, line, more=more)
    assert str(caught.value).startswith(str(tmp_path / "study.toml"))


@pytest.mark.parametrize("section", ["train", "validate"])
def test_a_section_that_is_no_table(tmp_path, section):
    with pytest.raises(ConfigError, match=f"{section}: expected a table of settings, got 3"):
        plan_runs(read(tmp_path, more=f"overrides.{section} = 3"), 4)


def test_a_metric_of_the_primary_endpoint_is_measured(tmp_path):
    file = write_study(tmp_path, store=False)
    file.write_text(file.read_text().replace('metrics = ["psnr_y"]', 'metrics = ["lpips"]'))
    with pytest.raises(ConfigError, match="primary.metrics: lpips is not among metrics"):
        read_study(file)


def test_all_wrong_settings_in_one_message(tmp_path):
    """Before anything is opened; the names of the settings stand before their problems."""
    more = """
overrides.train.seed = 3
[[setting]]
name = "typo"
overrides.diffusion.modulaton = "none"
[[setting]]
name = "range"
overrides.train.lr = -1.0
"""
    with pytest.raises(ConfigError) as caught:
        plan_runs(read(tmp_path, more=more), 4)
    first, second, third = str(caught.value).split("; setting ")
    assert first == "setting 'official': train.seed: the study decides it for all runs; give seeds at the top of the file"
    assert second.startswith("'typo': unknown setting diffusion.modulaton (did you mean 'modulation'?)")
    assert third.startswith("'range': train.lr: expected")


def test_an_rrdb_needs_steps(tmp_path):
    file = write_study(tmp_path, store=False)
    file.write_text(file.read_text().replace("rrdb_steps = 2", ""))
    with pytest.raises(ConfigError, match="rrdb_steps: expected the training steps of the RRDB"):
        plan_runs(read_study(file), 4)


def test_order_and_settings_of_runs(tmp_path):
    """The shared RRDB, then every first seed by priority, then every second; one seed for screening."""
    more = """
[[setting]]
name = "first"
priority = 5
overrides.train.lr = 3e-3
[[setting]]
name = "screened"
seeds = [7]
priority = -1
"""
    runs = plan_runs(read(tmp_path, more=more), 4)
    names = [run.name for run in runs]
    assert names == [
        "rrdb",
        *("first-seed0", "none-seed0", "official-seed0", "screened-seed7"),
        *("first-seed1", "none-seed1", "official-seed1"),
    ]
    by_name = {run.name: run for run in runs}
    none, official = by_name["none-seed1"].config, by_name["official-seed1"].config
    assert (none.diffusion.modulation, official.diffusion.modulation) == ("none", "official")
    assert load_config().diffusion.modulation == "official"  # the default of training, which a study does not take over
    assert (none.train.seed, none.train.steps, none.validate.images, none.validate.every) == (1, 3, 2, 0)
    assert by_name["first-seed0"].config.train.lr == 3e-3
    assert by_name["rrdb"].config.train.steps == 0
    assert none.as_dict() | {"diffusion": 0} == official.as_dict() | {"diffusion": 0}


def test_budgets_are_compared_at_equal_cost(tmp_path):
    more = """
sampling = [{ sampler = "ddim", steps = [2, 4] }]
[[setting]]
name = "own"
rrdb = "own"
"""
    study = read(tmp_path, more=more)
    run = plan_runs(study, 4)[2]
    assert run.name == "official-seed0"
    assert run.budgets == (RRDB_ALONE, Budget("ddim", 2), Budget("ddim", 4))
    assert compared_budget(study, Budget("ddim", 2)) == Budget("ddpm", 2)
    assert compared_budget(study, Budget("ddpm", 1)) == Budget("ddpm", 1)
    assert compared_budget(study, Budget("ddim", 4)) is None
    assert primary_budget(study, "official") == Budget("ddim", 2)
    assert [shares_rrdb(study, name) for name in ("none", "official", "own")] == [False, True, False]
