"""Records the finished images of an evaluation, so that the same command resumes after an interruption.

`OUT/unfinished.jsonl` exists while an evaluation runs: one line that identifies model and settings, then one line for each image with its
metrics, and one for each saved image file. Every line has a digest. The file is deleted when the tables are written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ConfigError, printable
from ...pipeline.storage.atomic import unreadable, unwritable, write_atomic
from ...pipeline.storage.regular import read_regular
from .evaluate import Pair, Row

FILE = "unfinished.jsonl"
_BEGINNING = b'{"evaluation": '  # of the first line
_LARGEST, _LARGEST_IMAGE = 1 << 28, 1 << 32  # bytes


class Unfinished:
    """Finished images of one evaluation.

    A file of another evaluation (another model, other settings or metrics) is replaced; a foreign file of this name is an error.
    """

    def __init__(self, folder: Path, facts: Mapping[str, object]) -> None:
        """
        Args:
            folder: of the evaluation's results; created if missing.
            facts: everything that determines the metrics of an image, as JSON values: model, settings, seeds, names of the metrics.

        Raises:
            ConfigError: a foreign file has the name of the list.
            StoreError: it cannot be read or written.
        """
        self.file = folder / FILE
        self._folder = folder
        self._key = _digest(json.dumps(facts, sort_keys=True).encode())
        self._rows: dict[str, list[list[object]]] = {}
        self._saved: dict[str, str] = {}
        existed = os.path.lexists(self.file)
        whole = self._read()
        self.replaced = existed and whole is None
        """Whether the list of another unfinished evaluation was replaced."""
        self._begun = whole is not None  # the file is made with the first finished image: a refused command leaves none
        if whole is not None and whole < self.file.stat().st_size:  # an incomplete last line
            os.truncate(self.file, whole)

    def rows(self, benchmark: str, pair: Pair) -> list[Row] | None:
        """The rows of an image that is already finished; None if it is not."""
        saved = self._rows.get(_key_of(benchmark, pair))
        if saved is None:
            return None
        return [Row(benchmark, pair.name, str(method), seed=int(seed), metrics=metrics) for method, seed, metrics in saved]  # type: ignore[arg-type, call-overload]

    def finished(self, benchmark: str, pair: Pair, rows: Sequence[Row]) -> None:
        """Record a finished image; flushed to disk."""
        kept: list[list[object]] = [[row.method, row.seed, dict(row.metrics)] for row in rows]
        key = _key_of(benchmark, pair)
        self._append({"image": key, "rows": kept})
        self._rows[key] = kept

    def saved(self, path: Path) -> None:
        """Record an image file below the folder as written by this evaluation."""
        name, digest = self._name(path), _file_digest(path)
        self._append({"saved": name, "sha256": digest})
        self._saved[name] = digest

    def is_ours(self, path: Path) -> bool:
        """Whether an image file below the folder was written by this evaluation, and has not changed since."""
        digest = self._saved.get(self._name(path))
        return digest is not None and os.path.lexists(path) and _file_digest(path) == digest

    def remove(self) -> None:
        """Delete the list: the tables are written."""
        self.file.unlink(missing_ok=True)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _append(self, values: Mapping[str, object]) -> None:
        try:
            if not self._begun:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomic(self.file, _line({"evaluation": self._key}))
                self._begun = True
            with open(self.file, "ab") as file:
                file.write(_line(values))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.file, error) from error

    def _read(self) -> int | None:
        """Read the list. Returns the number of bytes of its complete lines; None if there is no list, or another evaluation's."""
        if not os.path.lexists(self.file):
            return None
        try:
            data = read_regular(self.file, _LARGEST)
        except OSError as error:
            raise unreadable(self.file, error) from error
        if not data.startswith(_BEGINNING):
            raise ConfigError(
                f"{printable(self.file)}: expected the list of finished images of an evaluation, got another file; move it away, or give another --out"
            )
        whole = 0
        for number, line in enumerate(data.splitlines(keepends=True)):
            values = _parsed(line)
            if values is None:
                break
            if number == 0 and values.get("evaluation") != self._key:
                return None
            if "rows" in values:
                self._rows[str(values["image"])] = values["rows"]  # type: ignore[assignment]
            elif "saved" in values:
                self._saved[str(values["saved"])] = str(values["sha256"])
            whole += len(line)
        return whole or None


def _key_of(benchmark: str, pair: Pair) -> str:
    """Digest of benchmark, name and pixels of an image."""
    parts = [benchmark.encode(errors="surrogateescape"), pair.name.encode(errors="surrogateescape")]
    for pixels in (pair.lr, pair.hr):
        parts += [f"{pixels.dtype} {pixels.shape}".encode(), pixels.tobytes()]
    return _digest(b"".join(len(part).to_bytes(8, "little") + part for part in parts))


def _line(values: Mapping[str, object]) -> bytes:
    """A JSON line with a digest of its other entries."""
    text = json.dumps(values)[:-1]
    return f'{text}, "digest": "{_digest(text.encode())}"}}\n'.encode()


def _parsed(line: bytes) -> dict[str, object] | None:
    """The values of a line; None if it is incomplete or damaged."""
    text, mark, rest = line.rpartition(b', "digest": "')
    if not mark or rest != f'{_digest(text)}"}}\n'.encode():
        return None
    values: dict[str, object] = json.loads(text + b"}")
    return values


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        return _digest(read_regular(path, _LARGEST_IMAGE))
    except OSError as error:
        raise unreadable(path, error) from error
