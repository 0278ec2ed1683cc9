"""Make a changed store whole again: every digest, the record and the root."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from samdiff import open_store
from samdiff.pipeline.shards.codec import encode_chunk
from samdiff.pipeline.shards.schema import ARRAYS, LONG_ROWS, shape_of
from samdiff.pipeline.shards.writer import SPECS, StoreWriter, canonical, digest, manifest_document, sign_root
from samdiff.pipeline.storage.local import LocalStore


def resign(store: Path, attributes: dict | None = None, lines: Callable[[list[str]], list[str]] = list) -> None:
    """The record and the root anew, from what lies there: a store that is whole, whatever it holds."""
    place = LocalStore(store)
    old = json.loads((store / "zarr.json").read_bytes())["attributes"]
    keys = [k for k in place.list_keys() if k != "zarr.json" and not k.startswith("record/") and (store / k).is_file()]
    facts = [(key, (store / key).read_bytes()) for key in keys]
    text = "".join(lines([f"{digest(data)}  {len(data)}  {key}\n" for key, data in facts])).encode()
    shutil.rmtree(store / "record", ignore_errors=True)
    own = {"record/zarr.json": canonical(manifest_document(len(text)))}
    for index, start in enumerate(range(0, len(text), LONG_ROWS)):
        own[f"record/c/{index}"] = encode_chunk(np.frombuffer(text[start:].ljust(LONG_ROWS, b"\0")[:LONG_ROWS], np.uint8), 3)
    for key, data in own.items():
        place.set(key, data)
    facts = old if attributes is None else attributes
    root = {key: value for key, value in facts.items() if key != "digests"}
    place.set("zarr.json", seal_any(root, {key: [len(data), digest(data)] for key, data in own.items()}))


def seal_any(attributes: dict, record: object) -> bytes:
    """As `sign_root`, but whatever the values are: what cannot be sealed is written all the same."""
    try:
        return sign_root(attributes, record)
    except (ValueError, TypeError):
        return json.dumps(
            {"zarr_format": 3, "node_type": "group", "attributes": {**attributes, "digests": {"record": record}}}
        ).encode()


def rewrite(store: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """The same store with other rows, every digest right."""
    opened = open_store(store)
    rows = {spec.path: opened.table(spec.path).copy() for spec in ARRAYS}
    change(rows)
    facts = {k: v for k, v in opened.attrs.items() if k not in ("digests", "format", "format_version")}
    letters = opened.sizes | {"B": len(rows["images/name"]), "B2": len(rows["images/note"]), "R": len(rows["masks/rle"])}
    shutil.rmtree(store)
    writer = StoreWriter(LocalStore(store), letters)
    writer.append({path: values.reshape(shape_of(SPECS[path], letters)) for path, values in rows.items()})
    writer.commit(facts)


def other_store(store: Path) -> None:
    """Make a store another one of the same shape: one value of every table and pixels of every tile differ."""

    def change(rows: dict[str, np.ndarray]) -> None:
        for path, table in rows.items():
            first = (
                table.reshape(-1)[:1] if not path.startswith("tiles/") or path == "tiles/place" else table.reshape(-1)[::5000]
            )
            first += np.ones((), table.dtype)

    rewrite(store, change)
