"""What a user does with a store that was damaged or made by somebody who means harm (`hostile_changes.py`), and what came of it."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from samdiff import ShardDataset, open_store
from samdiff.errors import StoreError
from samdiff.pipeline.prepare.info import store_lines
from samdiff.pipeline.shards.schema import ARRAYS
from samdiff.pipeline.shards.verify import verify_store
from samdiff.pipeline.storage.local import LocalStore

from .hostile_changes import DAMAGE, NAMES, STRANGER
from .resigned import other_store, resign, rewrite

__all__ = ["DAMAGE", "NAMES", "STRANGER", "other_store", "read_everything", "resign", "rewrite", "same", "trial"]


def read_everything(store: Path) -> str:
    """All that a reader can be asked for, as one SHA-256; StoreError where it refuses."""
    opened, whole = open_store(store), hashlib.sha256()
    lines = "\n".join(store_lines(opened))
    assert not any(c in lines for c in "\x1b\0\ud800"), lines
    for spec in ARRAYS:
        whole.update(opened.table(spec.path).tobytes())
    for image, name in enumerate(opened.names()):
        whole.update(f"{name!r} {opened.note(image)!r} {len(opened.masks(image))}".encode())
    data = ShardDataset(store, seed=1)
    table, offset = data.codes()
    batch = data.batch(0, min(8, len(data)))
    whole.update(table[offset[batch["image"]][:, None, None] + batch["labels"]].tobytes())
    return whole.hexdigest()


def trial(change: Callable, sound: Path, other: Path, work: Path, seed: int, expected: str) -> str:
    """One change and what comes of it: `refused`, `equal` or `differs` (a stranger's store that is whole), then ` named` if `verify` finds fault.

    Any exception but StoreError comes out.
    """
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(sound, work)
    change(work, other, np.random.default_rng(seed))
    try:
        result = "equal" if read_everything(work) == expected else "differs"
    except StoreError as error:
        str(error).encode()  # no surrogates: it can be printed
        result = "refused"
    try:
        problems = verify_store(work, deep=True)
        assert all("\x1b" not in problem for problem in problems), problems
        "\n".join(problems).encode()
    except StoreError:
        problems = ["no store"]
    return f"{result}{' named' if problems else ''}"


def same(sound: Path, work: Path) -> bool:
    """Whether every file is as it was."""
    keys = list(LocalStore(sound).list_keys())
    try:
        return keys == list(LocalStore(work).list_keys()) and all(
            LocalStore(work).size(k) == LocalStore(sound).size(k) and LocalStore(work).get(k) == LocalStore(sound).get(k)
            for k in keys
        )
    except StoreError:
        return False
