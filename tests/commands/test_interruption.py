"""The message after Ctrl-C matches what the command keeps; the levels of `-v`."""

import logging

import pytest

from samdiff.cli import app
from samdiff.commands.common import set_verbosity
from samdiff.commands.interruption import _RESUMES, after_interrupt
from samdiff.model.evaluation.perceptual import OF_FOLDERS


@pytest.mark.parametrize(
    ("words", "resumes"),
    [
        (["prepare", "photos"], True),
        (["-v", "prepare", "photos"], True),
        (["prepare", "photos", "--dry-run"], False),
        (["train", "--shards", "a.zarr"], True),
        (["infer", "a", "b"], True),
        (["infer", "a", "--no-provenance"], False),
        (["infer", "a", "--overwrite"], False),
        (["evaluate", "--benchmark", "a", "--metrics", "lpips,dists"], True),
        (["evaluate", "--benchmark", "a", "--metrics=lpips,fid"], False),
        (["compare", "a.png"], False),
        (["export", "a", "b"], False),
        (["verify", "a"], False),
        (["masks", "a.png"], False),
        ([], False),
    ],
)
def test_the_promise(words, resumes):
    assert ("resumes" in after_interrupt(words)) == resumes
    assert ("starts again" in after_interrupt(words)) != resumes


def test_the_table_names_commands_and_metrics_that_exist():
    names = {command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    assert set(_RESUMES) <= names
    for name in OF_FOLDERS:
        assert after_interrupt(["evaluate", "--metrics", name]) == "starts again"


@pytest.mark.parametrize(
    ("verbose", "ours", "others"),
    [
        (0, logging.WARNING, logging.WARNING),
        (1, logging.INFO, logging.WARNING),
        (2, logging.DEBUG, logging.INFO),
        (3, logging.DEBUG, logging.DEBUG),
    ],
)
def test_whose_messages_are_shown(verbose, ours, others):
    """Other libraries' INFO (Dask's) from -vv on, their DEBUG from -vvv on."""
    loggers = [logging.getLogger(name) for name in ("", "samdiff", "samdiff.model.training.run", "distributed.x", "PIL.x")]
    before = [logger.level for logger in loggers]
    try:
        loggers[0].setLevel(logging.WARNING)
        loggers[1].setLevel(logging.NOTSET)
        logging.getLogger("distributed").setLevel(logging.NOTSET)
        set_verbosity(verbose, quiet=False)
        assert loggers[2].getEffectiveLevel() == ours
        assert [logger.getEffectiveLevel() for logger in loggers[3:]] == [others, others]
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
