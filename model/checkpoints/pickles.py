"""Checks the sizes that a PyTorch file declares, without creating its tensors, before `torch.load` allocates memory.

`torch.load(weights_only=True)` runs no code of the file, but trusts its sizes: a few kilobytes can make it allocate gigabytes. Here the
pickle is interpreted with placeholders for storages and tensors, and each declared size is compared with the bytes in the file.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeGuard

_ZIP = b"PK\x03\x04"
_MOST_ENTRIES, _MOST_AXES = 100_000, 8
_ITEM_BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
_LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys of the storages; the storages' bytes follow
_OPCODES = (  # written by torch.save; other opcodes create objects in other ways
    "PROTO FRAME STOP MARK GLOBAL REDUCE BUILD BINPERSID NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE SHORT_BINSTRING BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM "
    "SETITEMS BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE"
)


class _Storage(NamedTuple):
    key: str
    item: int
    numbers: int


class _Constructor(NamedTuple):
    make: Callable[..., object]


def check_claims(data: bytes) -> None:
    """Compare the sizes that a `.pt` file declares with its bytes.

    Args:
        data: the whole file, in the zip format or the older one.

    Raises:
        pickle.UnpicklingError: it holds anything but tensors, numbers and strings in dicts and lists.
        ValueError: it declares more than it holds, or overlapping tensors.
    """
    if not data.startswith(_ZIP):
        stream = io.BytesIO(data)
        reader = _Claims(stream, len(data))
        for _ in range(_LEGACY_PICKLES):
            reader.follow(stream)
        if sum(kept.item * kept.numbers for kept in reader.storages.values()) > len(data):
            raise ValueError("claims more bytes of tensors than the file has")
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        sizes = {entry.filename: entry.file_size for entry in entries}
        packed = any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries)
        if (
            packed
            or archive.comment
            or len(entries) > _MOST_ENTRIES
            or len(sizes) < len(entries)
            or sum(sizes.values()) > len(data)
        ):
            raise ValueError(
                "not an archive as PyTorch writes it: its entries are compressed, too many, duplicated or larger than the file"
            )
        (pickled,) = [name for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
        reader = _Claims(io.BytesIO(), len(data))
        reader.follow(io.BytesIO(archive.read(pickled)))
        damaged = archive.testzip()  # torch.load does not check the checksums
        if damaged is not None:
            raise ValueError(f"the checksum of its entry {damaged} is wrong")
    for kept in reader.storages.values():
        if sizes.get(f"{pickled.removesuffix('.pkl')}/{kept.key}", -1) < kept.item * kept.numbers:
            raise ValueError(f"claims {kept.numbers} numbers where the file has fewer")


class _Claims(pickle._Unpickler):  # not the one in C, which allocates memory for any memo index
    """An unpickler that creates placeholders, and bounds the bytes of all tensors."""

    stack: list[Any]

    def __init__(self, file: io.BytesIO, most: int) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}
        self.left = most

    def follow(self, file: io.BytesIO) -> None:
        """Interpret one pickle from the current position of the file."""
        super().__init__(file, encoding="utf-8")
        try:
            self.load()
        except KeyError as error:
            raise pickle.UnpicklingError(f"opcode or entry {error}") from error

    def find_class(self, module: str, name: str) -> Any:
        """A placeholder; UnpicklingError for anything that is not part of a tensor."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Constructor(_empty)
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _Constructor(self._tensor)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Constructor(lambda tensor, grad, hooks: tensor)
        kind = name.removesuffix("Storage")
        if module == "torch" and name.endswith("Storage") and kind in _ITEM_BYTES:
            return _ITEM_BYTES[kind]
        raise pickle.UnpicklingError(f"needs {module}.{name}")

    def persistent_load(self, pid: object) -> _Storage:
        """A placeholder for a storage."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or any(pid[5:]):
            raise pickle.UnpicklingError("an entry that is no storage")
        _, item, key, _, count = pid[:5]
        kept = _Storage(key, item, count)
        if not isinstance(key, str) or not _sizes((item, count)) or self.storages.setdefault(key, kept) != kept:
            raise ValueError("describes a storage in two ways, or none")
        return kept

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None) -> None:
        if not isinstance(storage, _Storage) or not _sizes((offset,)) or not _sizes(size) or not _sizes(stride):
            raise ValueError("describes a tensor by something else than numbers")
        if len(size) != len(stride) or len(size) > _MOST_AXES:
            raise ValueError(f"describes a tensor of {len(size)} axes with {len(stride)} strides")
        count = math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        expanded = any(step == 0 and length > 1 for length, step in zip(size, stride, strict=True))
        if count and (expanded or last >= storage.numbers or count > storage.numbers):
            raise ValueError(f"claims a tensor of {count} numbers where the file has {storage.numbers}")
        self.left -= count * storage.item
        if self.left < 0:
            raise ValueError("claims more bytes of tensors than the file has")

    def _reduce(self) -> None:
        arguments, constructor = self.stack.pop(), self.stack[-1]
        if not isinstance(constructor, _Constructor) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("calls what is no part of a tensor")
        self.stack[-1] = constructor.make(*arguments)

    def _build(self) -> None:
        self.stack.pop()  # attributes of a state dict, such as its versions
        if not isinstance(self.stack[-1], OrderedDict):
            raise pickle.UnpicklingError("sets attributes")

    def _set_item(self) -> None:
        _check_key(self.stack[-2])
        pickle._Unpickler.load_setitem(self)  # type: ignore[attr-defined]

    def _set_items(self) -> None:
        for key in self.stack[::2]:
            _check_key(key)
        pickle._Unpickler.load_setitems(self)  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES.split()},
        pickle.REDUCE[0]: _reduce,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
    }


def _empty() -> OrderedDict[str, object]:
    return OrderedDict()


def _check_key(key: object) -> None:
    """Keys must be simple: hashing deeply nested tuples could take forever."""
    if not isinstance(key, str | int | float):
        raise pickle.UnpicklingError(f"a dict with a key that is {type(key).__name__}")


def _sizes(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)
