"""samdiff: structure-encoded shards and diffusion super-resolution.

The public names are listed here one by one and load on first use, so that `import samdiff` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time a name is loaded when it is first used
    from .model.diffusion.schedule import Schedule as Schedule
    from .model.inference.upscaler import load_model as load_model
    from .pipeline.degrade.imresize import imresize as imresize
    from .pipeline.encode.structure import encode_structure as encode_structure
    from .pipeline.encode.structure import rope_table as rope_table
    from .pipeline.masks.generator import MaskGenerator as MaskGenerator
    from .pipeline.stream.dataset import ShardDataset as ShardDataset
    from .pipeline.stream.dataset import open_store as open_store
    from .pipeline.stream.loader import ShardLoader as ShardLoader
    from .pipeline.stream.loader import ShardStream as ShardStream

__version__ = "0.1.0"

# public name -> module that owns it
_PUBLIC = {
    "imresize": ".pipeline.degrade.imresize",
    "rope_table": ".pipeline.encode.structure",
    "encode_structure": ".pipeline.encode.structure",
    "MaskGenerator": ".pipeline.masks.generator",
    "open_store": ".pipeline.stream.dataset",
    "ShardDataset": ".pipeline.stream.dataset",
    "ShardLoader": ".pipeline.stream.loader",
    "ShardStream": ".pipeline.stream.loader",
    "Schedule": ".model.diffusion.schedule",
    "load_model": ".model.inference.upscaler",
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
