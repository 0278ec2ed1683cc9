"""Stores that were damaged, or made by somebody who means harm: seeded changes of a sound store, and what a user does with one.

Kinds in `DAMAGE` leave the store's record as it was: what is read afterwards is refused, or equal. Kinds in `STRANGER` make the store
whole again around the change (every digest, the record, the root): what contradicts itself is refused, and nothing traces back.
"""

import json
import os
import shutil
from pathlib import Path

import google_crc32c
import numpy as np

from samdiff.pipeline.shards.codec import encode_chunk
from samdiff.pipeline.shards.schema import ARRAYS
from samdiff.pipeline.storage.local import LocalStore

from .resigned import resign, rewrite, seal_any

INTEGERS = (
    -1,
    0,
    1,
    2,
    3,
    5,
    63,
    64,
    65,
    255,
    4096,
    65535,
    65537,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**62,
    2**63,
    2**64 - 1,
    10**30,
)
VALUES = (
    *INTEGERS,
    1.0,
    0.5,
    -0.0,
    1e300,
    True,
    None,
    "4",
    "\x1b[31mred",
    "\ud800",
    [],
    {},
    [4],
    {"a": 1},
    float("nan"),
    float("inf"),
)
NAMES = (
    b"",
    b"/etc/evil.png",
    b"../../evil.png",
    b"a/../../b.png",
    b"\xff\xfe.png",
    b"\x1b[2Jclear.png",
    b"..",
    b"a\0b",
    b"\xed\xa0\x80",
)


def _files(store: Path, documents: bool | None = None) -> list[Path]:
    keys = sorted(LocalStore(store).list_keys())
    return [store / key for key in keys if documents is None or key.endswith("zarr.json") == documents]


def _pick(rng: np.random.Generator, items):
    return items[int(rng.integers(len(items)))]


def _edit(rng: np.random.Generator, value: object) -> object:
    """One number, text or member somewhere in a JSON value, changed."""
    if isinstance(value, dict) and value:
        key = _pick(rng, sorted(value))
        if rng.random() < 0.08:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _edit(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = int(rng.integers(len(value)))
        return [_edit(rng, item) if k == at else item for k, item in enumerate(value)]
    return _pick(rng, [v for v in VALUES if v != value or type(v) is not type(value)])


def _edit_document(file: Path, rng: np.random.Generator) -> None:
    text = json.dumps(_edit(rng, json.loads(file.read_bytes())), indent=1, sort_keys=True)
    if rng.random() < 0.05:
        text = _pick(rng, ["", "[" * 100_000, text[:-5], text.replace('"shape"', '"shape": [1], "shape"', 1), "\ufeff" + text])
    file.write_text(text, encoding="utf-8", errors="surrogatepass")


def metadata(store: Path, other: Path, rng: np.random.Generator) -> None:
    """A number in a document."""
    _edit_document(_pick(rng, _files(store, True)), rng)


def swapped(store: Path, other: Path, rng: np.random.Generator) -> None:
    """A file of another store of the same shape."""
    file = _pick(rng, _files(store))
    shutil.copyfile(other / file.relative_to(store), file)


def flipped(store: Path, other: Path, rng: np.random.Generator) -> None:
    """Bits of a file, or its length."""
    file = _pick(rng, _files(store))
    data = bytearray(file.read_bytes())
    for bit in rng.integers(0, len(data) * 8, 1 + int(rng.integers(3))):
        data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(_pick(rng, [bytes(data)] * 4 + [bytes(data[: len(data) // 2]), bytes(data) + b"\0", b""]))


def replaced(store: Path, other: Path, rng: np.random.Generator) -> None:
    """A FIFO, a folder, a device, a dangling link, a huge sparse file or nothing in place of a file."""
    file = _pick(rng, _files(store))
    file.unlink()
    kind = _pick(rng, ["fifo", "folder", "device", "link", "sparse", "nothing"])
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind in ("device", "link"):
        file.symlink_to("/dev/zero" if kind == "device" else "/nowhere/at/all")
    elif kind == "sparse":
        with file.open("wb") as handle:
            handle.truncate(30 * 2**30)


def signed_metadata(store: Path, other: Path, rng: np.random.Generator) -> None:
    """Numbers in documents, and every digest made right again."""
    for _ in range(1 + int(rng.integers(2))):
        _edit_document(_pick(rng, [f for f in _files(store, True) if f.parent not in (store, store / "record")]), rng)
    resign(store)


def signed_root(store: Path, other: Path, rng: np.random.Generator) -> None:
    """Attributes of the root, sealed again."""
    attributes = json.loads((store / "zarr.json").read_bytes())["attributes"]
    own = attributes.pop("digests")["record"]
    if rng.random() < 0.5:
        key = _pick(rng, ["scale", "fingerprint", "counts", "segmenter", "degradation", "software", "note"])
        attributes[key] = _edit(rng, attributes.get(key, 1)) if rng.random() < 0.5 else _pick(rng, VALUES)
    elif rng.random() < 0.5:
        own = _edit(rng, own)
    else:
        own |= {_pick(rng, ["../../../../dev/zero", "/dev/zero", "record/c/7", "record/c/0/0", "tiles", "a\0b"]): [5, "0" * 64]}
    (store / "zarr.json").write_bytes(seal_any(attributes, own))


def signed_record(store: Path, other: Path, rng: np.random.Generator) -> None:
    """Lines of the record, sealed again."""
    hostile = [
        "../../../../dev/zero",
        "/dev/zero",
        "tiles/../../x",
        "tiles/hr/c/9/0/0/0",
        "images/name",
        "a\x1b[2J",
        "record/c/0",
    ]

    def change(lines: list[str]) -> list[str]:
        at, kind = int(rng.integers(len(lines))), int(rng.integers(5))
        sha256, _, key = lines[at].rstrip("\n").split("  ")
        if kind == 0:
            return lines[:at] + lines[at + 1 :]
        if kind == 1:
            return [*lines, lines[at]]
        if kind == 2:
            return [*lines, f"{'0' * 64}  {_pick(rng, INTEGERS)}  {_pick(rng, hostile)}\n"]
        if kind == 3:
            return [
                *lines[:at],
                f"{sha256}  {_pick(rng, VALUES[:-4])}  {key}\n".encode(errors="replace").decode(),
                *lines[at + 1 :],
            ]
        return [*lines[:at], _pick(rng, ["\n", "x\n", lines[at][:-1], f"{sha256}  1e9  {key}\n"]), *lines[at + 1 :]]

    resign(store, lines=change)


def signed_tables(store: Path, other: Path, rng: np.random.Generator) -> None:
    """Values of tables, every digest right."""
    tables = [spec.path for spec in ARRAYS if spec.path not in ("tiles/hr", "tiles/lr", "images/sha256")]

    def change(rows: dict[str, np.ndarray]) -> None:
        for _ in range(1 + int(rng.integers(3))):
            path = _pick(rng, tables)
            table = rows[path]
            if not table.size:
                continue
            values = [*INTEGERS, np.nan, np.inf] if table.dtype.kind == "f" else INTEGERS
            flat = table.reshape(-1)
            at = _pick(rng, [0, len(flat) - 1, int(rng.integers(len(flat)))])
            with np.errstate(all="ignore"):
                flat[at] = np.array(float(_pick(rng, values))).astype(table.dtype) if rng.random() < 0.8 else flat[at] + 1
            if rng.random() < 0.15:
                rng.shuffle(flat)

    rewrite(store, change)


def signed_names(store: Path, other: Path, rng: np.random.Generator) -> None:
    """Names and notes that no source has."""

    def change(rows: dict[str, np.ndarray]) -> None:
        for column in ("name", "note"):
            offsets, text = rows[f"images/{column}_offset"].tolist(), rows[f"images/{column}"].tobytes()
            texts = [text[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
            texts[int(rng.integers(len(texts)))] = _pick(rng, (*NAMES, texts[0]))
            rows[f"images/{column}"] = np.frombuffer(b"".join(texts), np.uint8)
            rows[f"images/{column}_offset"] = np.cumsum([0, *map(len, texts)]).astype(np.uint64)

    rewrite(store, change)


def signed_chunks(store: Path, other: Path, rng: np.random.Generator) -> None:
    """zstd frames whose headers lie, and indices of shards that point elsewhere; checksums and digests right."""
    file = _pick(rng, _files(store, False))
    data = file.read_bytes()
    if file.relative_to(store).parts[:2] in (("tiles", "hr"), ("tiles", "lr"), ("tiles", "labels")):
        tail = 64 * 16 + 4 if rng.random() < 0.8 else 4100
        index = np.frombuffer(data[-tail:-4], "<u8").copy() if len(data) > tail else np.zeros(8, "<u8")
        index[int(rng.integers(min(8, len(index))))] = np.uint64(_pick(rng, [v for v in INTEGERS if 0 <= v < 2**64]))
        table = index.tobytes()
        data = data[:-tail] + table + google_crc32c.value(table).to_bytes(4, "little")
    else:
        frame = bytearray(data[:-4])
        kind = int(rng.integers(4))
        if kind == 0:
            frame[4 + int(rng.integers(9))] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            frame = bytearray(encode_chunk(np.zeros(int(_pick(rng, [1, 1000, 2**20, 2**26])), np.uint8), 3)[:-4])
        elif kind == 2:
            frame += encode_chunk(np.zeros(1000, np.uint8), 3)[:-4]
        else:
            frame = bytearray(b"\x50\x2a\x4d\x18\x04\0\0\0abcd") + frame
        data = bytes(frame) + google_crc32c.value(bytes(frame)).to_bytes(4, "little")
    file.write_bytes(data)
    resign(store)


def signed_swap(store: Path, other: Path, rng: np.random.Generator) -> None:
    """Files of another store, every digest right."""
    for _ in range(1 + int(rng.integers(4))):
        file = _pick(rng, _files(store, False))
        if "record" not in file.parts:
            shutil.copyfile(other / file.relative_to(store), file)
    resign(store)


DAMAGE = (metadata, swapped, flipped, replaced)
STRANGER = (signed_metadata, signed_root, signed_record, signed_tables, signed_names, signed_chunks, signed_swap)
