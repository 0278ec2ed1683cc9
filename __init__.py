"""samdiff: structure-encoded shards and diffusion super-resolution.

The public names are listed here one by one and load on first use, so that `import samdiff` stays fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# public name -> module that owns it
_PUBLIC = {
    "imresize": ".pipeline.resize",
    "rope_table": ".pipeline.structure",
    "encode_structure": ".pipeline.structure",
    "MaskGenerator": ".pipeline.masks",
    "open_store": ".pipeline.stream",
    "ShardDataset": ".pipeline.stream",
    "ShardLoader": ".pipeline.loader",
    "ShardStream": ".pipeline.loader",
    "Schedule": ".model.schedule",
    "load_model": ".model.infer",
}

__all__ = [
    "MaskGenerator",
    "Schedule",
    "ShardDataset",
    "ShardLoader",
    "ShardStream",
    "encode_structure",
    "imresize",
    "load_model",
    "open_store",
    "rope_table",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'samdiff' has no attribute {name!r}; the public names are {', '.join(__all__)}")
    value = getattr(import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
