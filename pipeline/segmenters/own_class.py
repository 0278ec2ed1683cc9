"""`MODULE:CLASS`: a segmenter of the user. Its module is imported, so its code is run; the user has asked for that by naming it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path

import torch

from ...errors import ConfigError, printable
from ..masks.settings import MaskConfig
from .checked import CheckedSegmenter


def make_own(name: str, *, device: torch.device, weights: Path | None, settings: MaskConfig) -> CheckedSegmenter:
    """An instance of the class. It is called with those of the keywords device, weights and settings that it takes.

    Args:
        name: `MODULE:CLASS`; the module is looked for on Python's path, then in the current folder.
        device: torch.device of the model.
        weights: Path of `--sam-weights`, or None.
        settings: of mask generation.

    Raises:
        ConfigError: no such module or class; it lacks `describe` or `generate_batch`; its code raises an exception; or it does not take a keyword that was given.
    """
    kind = load_class(name)
    given = {"device": device, "weights": weights, "settings": settings}
    try:
        signature = inspect.signature(kind).parameters
    except (TypeError, ValueError):  # classes of C extensions
        signature = inspect.signature(lambda: None).parameters
    takes = given if any(each.kind is each.VAR_KEYWORD for each in signature.values()) else set(given) & set(signature)
    if weights is not None and "weights" not in takes:
        raise ConfigError(f"--sam-weights: the class {name} takes no keyword `weights`; leave it out")
    if settings != MaskConfig() and "settings" not in takes:
        raise ConfigError(f"--sam {name}: the class takes no keyword `settings`; leave out the options of mask generation")
    required = [
        each.name
        for each in signature.values()
        if each.default is each.empty and each.name not in takes and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    if required:
        raise ConfigError(
            f"--sam {name}: expected a class that needs no more than device, weights and settings; it needs {required[0]}"
        )
    try:
        made = kind(**{key: given[key] for key in takes})
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the user's code may raise anything
        raise ConfigError(
            f"--sam {name}: cannot be constructed: {_reason(error)}; run it alone in Python to see where"
        ) from error
    return CheckedSegmenter(made, name)


def load_class(name: str) -> type:
    """Import `MODULE:CLASS`.

    Raises:
        ConfigError: there is no such module or class, or the module cannot be imported.
    """
    module_name, _, class_name = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last: a file of the folder hides no package
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError(f"--sam {name}: its module needs {printable(error.name)}, which is not installed") from error
        raise ConfigError(
            f"--sam {name}: there is no module {module_name} on Python's path or in {printable(here)}; set PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the user's code may raise anything, and end the process
        raise ConfigError(
            f"--sam {name}: its module cannot be imported: {_reason(error)}; run `python -c 'import {module_name}'` to see where"
        ) from error
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        classes = [
            key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__
        ]
        raise ConfigError(
            f"--sam {name}: {module_name} has no class {class_name}; its classes: {printable(', '.join(classes)) or 'none'}"
        )
    return kind


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {printable(error)}"[:300]
