"""Files for tests that nothing may be lost: small images, what lies in a folder, a command that is refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from samdiff.cli import main


def image(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (4, 4, 3), dtype=np.uint8)


def tree(folder: Path) -> dict[str, object]:
    """Every name below a folder, with its content, or what it is."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else path.stat().st_mode
    return found


def refused(capsys, *words: object) -> str:
    """The one line of a command that is refused."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    said = capsys.readouterr().err
    assert stopped.value.code in (1, 2), said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def main_done(words: list[object]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code in (0, None)
