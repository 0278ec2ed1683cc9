"""samdiff: structure-encoded shards and diffusion super-resolution.

The public names are loaded on first use, so that `import samdiff` is fast.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers; `_PUBLIC` is used at run time
    from .api import prepare as prepare
    from .api import train as train
    from .errors import BusyError as BusyError
    from .errors import ChangedError as ChangedError
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import ImageError as ImageError
    from .errors import IndexKindError as IndexKindError
    from .errors import MissingPackageError as MissingPackageError
    from .errors import PositionError as PositionError
    from .errors import SamdiffError as SamdiffError
    from .errors import StoreError as StoreError
    from .errors import WeightsError as WeightsError
    from .model.diffusion.schedule import Schedule as Schedule
    from .model.infer_config import InferConfig as InferConfig
    from .model.inference.resolver import OneStepResolver as OneStepResolver
    from .model.inference.upscaler import SuperResolver as SuperResolver
    from .model.inference.upscaler import load_model as load_model
    from .model.losses import load_perceptual as load_perceptual
    from .model.losses import perceptual_distance as perceptual_distance
    from .pipeline.degrade.imresize import imresize as imresize
    from .pipeline.download.fetch import DownloadError as DownloadError
    from .pipeline.encode.rle import decode as decode_mask
    from .pipeline.encode.structure import encode_structure as encode_structure
    from .pipeline.encode.structure import rope_table as rope_table
    from .pipeline.export.export import export_folder as export_folder
    from .pipeline.export.export import export_hdf5 as export_hdf5
    from .pipeline.export.mask_export import export_labels as export_labels
    from .pipeline.export.mask_export import export_masks as export_masks
    from .pipeline.masks.generator import MaskGenerator as MaskGenerator
    from .pipeline.masks.settings import MaskConfig as MaskConfig
    from .pipeline.prepare.settings import PrepareConfig as PrepareConfig
    from .pipeline.shards.reader import Store as Store
    from .pipeline.stream.dataset import ShardDataset as ShardDataset
    from .pipeline.stream.dataset import e_sam as e_sam
    from .pipeline.stream.dataset import open_store as open_store
    from .pipeline.stream.loader import ShardLoader as ShardLoader
    from .pipeline.stream.loader import ShardStream as ShardStream

__version__ = "0.1.0"

_PUBLIC = {
    "BusyError": ".errors",
    "ChangedError": ".errors",
    "CheckpointError": ".errors",
    "ConfigError": ".errors",
    "DownloadError": ".pipeline.download.fetch",
    "ImageError": ".errors",
    "IndexKindError": ".errors",
    "InferConfig": ".model.infer_config",
    "MaskConfig": ".pipeline.masks.settings",
    "MaskGenerator": ".pipeline.masks.generator",
    "MissingPackageError": ".errors",
    "OneStepResolver": ".model.inference.resolver",
    "PositionError": ".errors",
    "PrepareConfig": ".pipeline.prepare.settings",
    "SamdiffError": ".errors",
    "Schedule": ".model.diffusion.schedule",
    "ShardDataset": ".pipeline.stream.dataset",
    "ShardLoader": ".pipeline.stream.loader",
    "ShardStream": ".pipeline.stream.loader",
    "Store": ".pipeline.shards.reader",
    "StoreError": ".errors",
    "SuperResolver": ".model.inference.upscaler",
    "WeightsError": ".errors",
    "decode_mask": ".pipeline.encode.rle:decode",
    "e_sam": ".pipeline.stream.dataset",
    "encode_structure": ".pipeline.encode.structure",
    "export_folder": ".pipeline.export.export",
    "export_hdf5": ".pipeline.export.export",
    "export_labels": ".pipeline.export.mask_export",
    "export_masks": ".pipeline.export.mask_export",
    "imresize": ".pipeline.degrade.imresize",
    "load_model": ".model.inference.upscaler",
    "load_perceptual": ".model.losses",
    "open_store": ".pipeline.stream.dataset",
    "perceptual_distance": ".model.losses",
    "prepare": ".api",
    "rope_table": ".pipeline.encode.structure",
    "train": ".api",
}
"""Public name -> its module, with `:NAME` if it has another name there."""

__all__ = [
    "BusyError",
    "ChangedError",
    "CheckpointError",
    "ConfigError",
    "DownloadError",
    "ImageError",
    "IndexKindError",
    "InferConfig",
    "MaskConfig",
    "MaskGenerator",
    "MissingPackageError",
    "OneStepResolver",
    "PositionError",
    "PrepareConfig",
    "SamdiffError",
    "Schedule",
    "ShardDataset",
    "ShardLoader",
    "ShardStream",
    "Store",
    "StoreError",
    "SuperResolver",
    "WeightsError",
    "decode_mask",
    "e_sam",
    "encode_structure",
    "export_folder",
    "export_hdf5",
    "export_labels",
    "export_masks",
    "imresize",
    "load_model",
    "load_perceptual",
    "open_store",
    "perceptual_distance",
    "prepare",
    "rope_table",
    "train",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from difflib import get_close_matches
        from importlib import import_module

        if name not in _PUBLIC:
            near = get_close_matches(name, __all__, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"module 'samdiff' has no attribute {name!r}{hint}; the public names are {', '.join(__all__)}")
        module, _, own = _PUBLIC[name].partition(":")
        value = getattr(import_module(module, __name__), own or name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
