"""Reads pickles of nested dicts of float32 NumPy arrays without running code: the three globals that they need have placeholders.

Nothing that the pickle names is imported. An array uses its bytes in the file as memory, so declared sizes are not trusted.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

_MOST_DEPTH, _MOST_AXES = 8, 8


class _DType:
    """Placeholder for `numpy.dtype`: only little-endian float32."""

    def __init__(self, code: object = None, *_: object) -> None:
        if code not in ("f4", "<f4"):
            raise pickle.UnpicklingError(f"expected arrays of float32, got {str(code)[:40]!r}")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "="):
            raise pickle.UnpicklingError("expected a little-endian dtype")


class _Array:
    """Placeholder for an array that is being read."""

    value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("expected an array's state of five parts")
        _, shape, dtype, fortran, data = state
        if (
            not isinstance(shape, tuple)
            or len(shape) > _MOST_AXES
            or not all(type(side) is int and side >= 0 for side in shape)
        ):
            raise pickle.UnpicklingError("expected an array's shape as a few integers")
        if not isinstance(dtype, _DType) or not isinstance(data, bytes) or len(data) != 4 * math.prod(shape):
            raise pickle.UnpicklingError(f"expected the bytes of a float32 array {shape}")
        self.value = np.frombuffer(data, "<f4").reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


class _NDArray:
    """Placeholder for the class that `_reconstruct` is called with."""


_GLOBALS: Mapping[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # its name in NumPy 2
    ("numpy", "ndarray"): _NDArray,
    ("numpy", "dtype"): _DType,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"names {module[:60]}.{name[:60]}, which is not an array; it is not imported"
            ) from None

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("holds a reference to something outside the file")


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a pickle by their path in its dicts, such as `VGG16_0/Conv_0/kernel`; read-only float32.

    Raises:
        pickle.UnpicklingError: anything but dicts with names and float32 arrays, or a damaged file.
    """
    try:
        content = _Unpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises many kinds of exceptions: reported for this file
        raise pickle.UnpicklingError(f"damaged: {type(error).__name__}: {str(error)[:100]}") from error
    arrays: dict[str, np.ndarray] = {}
    _collect(content, "", arrays)
    return arrays


def _collect(content: object, path: str, arrays: dict[str, np.ndarray]) -> None:
    if isinstance(content, _Array) and content.value is not None:
        arrays[path] = content.value
    elif isinstance(content, dict) and all(isinstance(name, str) for name in content) and path.count("/") < _MOST_DEPTH:
        for name, inner in content.items():
            _collect(inner, f"{path}/{name}" if path else name, arrays)
    else:
        raise pickle.UnpicklingError(f"expected dicts of arrays, got {type(content).__name__} at {path[:80]!r}")
