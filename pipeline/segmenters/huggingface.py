"""`hf:MODEL_ID`: models of Hugging Face's task `mask-generation` (SAM, SAM-HQ, SAM 2, EdgeTAM, …), through transformers' own pipeline.

Its masks differ a little from those of the models' own generators: stability must be above the threshold, and one box NMS covers all
crops. It returns neither points nor stability; the store has NaN there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ...errors import ConfigError, WeightsError, missing_package, printable
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask
from ..masks.settings import MaskConfig

if TYPE_CHECKING:
    from transformers.pipelines.mask_generation import MaskGenerationPipeline

_ARGUMENTS = {
    "points_per_side": "points_per_crop",
    "points_per_batch": "points_per_batch",
    "pred_iou_thresh": "pred_iou_thresh",
    "stability_score_thresh": "stability_score_thresh",
    "stability_score_offset": "stability_score_offset",
    "mask_threshold": "mask_threshold",
    "box_nms_thresh": "crops_nms_thresh",
    "crop_n_layers": "crops_n_layers",
    "crop_overlap_ratio": "crop_overlap_ratio",
    "crop_n_points_downscale_factor": "crop_n_points_downscale_factor",
}
"""Setting -> argument of the pipeline. The other settings are refused."""
_CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Files of weights; those of the second pattern are used only where there are none of the first."""


@dataclass(frozen=True)
class ModelFolder:
    """A model's files on this machine."""

    path: Path
    origin: str
    """The model's id; of a local folder its name alone."""
    revision: str | None
    """The commit on the hub; None: a local folder."""

    def as_attributes(self) -> dict[str, object]:
        """JSON values; `sha256` is of the list of all files that decide the masks, with their hashes."""
        found = {path.name: _sha256(path) for path in _files(self.path)}
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))
        kind = "folder" if self.revision is None else "huggingface"
        digest = hashlib.sha256(listing.encode()).hexdigest()
        return {"source": kind, "origin": self.origin, "revision": self.revision, "sha256": digest, "files": found}


class HuggingFaceMasks:
    """A segmenter (`MaskSource`) for a model of the hub or of a folder.

    Args:
        model_id: `OWNER/NAME`, with `@REVISION` if it is not the latest; or a folder with `config.json`.
        device: of the model.
        settings: of mask generation.

    Raises:
        ConfigError: a setting that the pipeline does not have; a model of another task.
        MissingPackageError: transformers is not installed.
        WeightsError: the model cannot be downloaded or loaded.
    """

    def __init__(self, model_id: str, *, device: torch.device, settings: MaskConfig) -> None:
        self.arguments = pipeline_arguments(settings)
        self.settings = settings
        folder = find_model(model_id)
        assert folder is not None
        self._record = folder.as_attributes()
        self._pipeline = _load(folder, device)

    def describe(self) -> dict[str, object]:
        """The model's id, revision and hashes, every parameter, and versions."""
        return _facts(str(self._record["origin"]), self._record, self.settings)

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable]:
        """Masks of images uint8 [H, W, 3], in order, by descending predicted IoU."""
        for image in images:
            with torch.inference_mode():
                found: Any = self._pipeline(Image.fromarray(image), output_rle_mask=True, **self.arguments)
            runs = [np.asarray(rle["counts"], np.uint32) for rle in found["rle_mask"]]
            scores: list[CocoMask] = [{"predicted_iou": float(score)} for score in found["scores"]]
            yield MaskTable.of_runs(runs, scores, height=image.shape[0], width=image.shape[1])


def plan(model_id: str, settings: MaskConfig) -> tuple[dict[str, object], str]:
    """`describe()` without loading or downloading (see `plan_segmenter`), and where the model is."""
    pipeline_arguments(settings)
    folder = find_model(model_id, download=False)
    if folder is None:
        return _facts(model_id.partition("@")[0], None, settings), f"missing, to be fetched from the hub: {printable(model_id)}"
    return _facts(folder.origin, folder.as_attributes(), settings), f"here: {folder.path}"


def pipeline_arguments(settings: MaskConfig) -> dict[str, object]:
    """Arguments of transformers' pipeline for these settings.

    Raises:
        ConfigError: settings that it does not have are changed.
    """
    default = MaskConfig()
    names = [each.name for each in fields(settings)]
    changed = [name for name in names if name not in _ARGUMENTS and getattr(settings, name) != getattr(default, name)]
    if changed or settings.points_per_side is None:
        raise ConfigError(f"--sam hf: does not support {', '.join(changed or ['points_per_side=None'])}; leave it out")
    own = {"pred_iou_thresh": settings.resolved("sam").pred_iou_thresh, "mask_threshold": settings.mask_threshold or 0.0}
    return {argument: own.get(name, getattr(settings, name)) for name, argument in _ARGUMENTS.items()}


def _facts(origin: str, record: Mapping[str, object] | None, settings: MaskConfig) -> dict[str, object]:
    arguments = pipeline_arguments(settings)
    deciding = {name: arguments[argument] for name, argument in _ARGUMENTS.items() if name != "points_per_batch"}
    return {
        "name": f"hf:{origin}",
        "weights": record,
        "dtype": "float32",
        **deciding,
        "masks_from": "hr",
        "uncompared": settings.uncompared(),
        "versions": {library: version(library) for library in ("torch", "torchvision", "transformers")},
    }


def find_model(model_id: str, download: bool = True) -> ModelFolder | None:
    """A model's files: a local folder, the hub's cache, or the hub. None: they are not here, and `download` is False.

    Raises:
        MissingPackageError: transformers is not installed.
        WeightsError: no such model, or no network.
    """
    _require()
    given = Path(model_id)
    if given.is_dir():
        return ModelFolder(given, origin=given.resolve().name, revision=None)
    from huggingface_hub import snapshot_download

    name, _, revision = model_id.partition("@")
    try:
        patterns = ["*.json", _WEIGHTS[0]]
        path = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns, local_files_only=not download))
        if not any(path.glob(_WEIGHTS[0])):
            patterns.append(_WEIGHTS[1])
            path = Path(snapshot_download(name, revision=path.name, allow_patterns=patterns, local_files_only=not download))
    except Exception as error:  # the hub's client raises exceptions of many types
        if not download:
            return None
        raise WeightsError(
            f"--sam hf:{printable(model_id)}: neither a folder nor a model that can be downloaded ({_short(error)}); "
            "give OWNER/NAME or a folder with config.json"
        ) from error
    return ModelFolder(path, origin=name, revision=path.name)


def _load(folder: ModelFolder, device: torch.device) -> MaskGenerationPipeline:
    """The pipeline in float32. Pickled weights are read as tensors only, and code of the model's repository is not run."""
    from transformers import pipeline

    if not (folder.path / _CONFIGS[0]).is_file():
        raise WeightsError(f"--sam hf: {folder.path} has no {_CONFIGS[0]}; expected a model saved with save_pretrained")
    try:
        made: Any = pipeline(
            "mask-generation", model=str(folder.path), device=device, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:  # transformers raises exceptions of many types for damaged files and models of other tasks
        raise WeightsError(
            f"--sam hf:{printable(folder.origin)}: not a model for the task mask-generation, or damaged ({_short(error)})"
        ) from error
    return made


def _require() -> None:
    try:
        import huggingface_hub  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise missing_package(error, extra="hf", what="--sam hf") from error


def _files(folder: Path) -> list[Path]:
    """The files that decide the masks."""
    weights = next((found for pattern in _WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
    return [*(path for name in _CONFIGS if (path := folder / name).is_file()), *weights]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")[:300]
