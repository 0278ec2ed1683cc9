"""A segmenter by the value of `--sam`: a name of the mask engine, `hf:MODEL_ID`, or `MODULE:CLASS`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ...errors import ConfigError
from ..encode.mask_table import MaskTable
from ..masks.settings import MaskConfig, number_type, segmenter_facts
from ..sam.load import check_installed
from ..sam.names import FORMS, SEGMENTERS
from ..sam.weights import plan_weights

HF = "hf:"


class Segmenter(Protocol):
    """A `MaskSource` whose masks are tables."""

    def describe(self) -> dict[str, object]:
        """JSON-able facts that decide the masks."""

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable]:
        """Masks of uint8 [H, W, 3] images, in order."""


def make_segmenter(
    name: str,
    device: torch.device,
    *,
    weights: Path | str | None = None,
    source: str = "auto",
    settings: MaskConfig,
    keep_embeddings: Path | None = None,
) -> Segmenter:
    """A segmenter, loaded.

    Args:
        name: see above. The module of a `MODULE:CLASS` is imported, so its code is run.
        device: of the model.
        weights: file of the weights; None: see `find_weights`.
        source: where the weights of a named segmenter may come from.
        settings: of mask generation.
        keep_embeddings: see `MaskGenerator`.

    Raises:
        ConfigError: an unknown name, or a setting that this segmenter does not have.
        MissingPackageError: the package of an extra is not installed.
        WeightsError: the weights cannot be found, downloaded, verified or loaded.
    """
    weights = None if weights is None else Path(weights)
    if name in SEGMENTERS:
        from ..masks.generator import MaskGenerator

        return MaskGenerator(
            name, device=device, weights=weights, source=source, settings=settings, keep_embeddings=keep_embeddings
        )
    _refuse_embeddings(name, keep_embeddings)
    if name.startswith(HF):
        from .huggingface import HuggingFaceMasks

        _refuse_weights(name, weights)
        return HuggingFaceMasks(name.removeprefix(HF), device=device, settings=settings)
    if ":" in name:
        from .own_class import make_own

        return make_own(name, device=device, weights=weights, settings=settings)
    raise ConfigError(f"segmenter: expected one of {', '.join([*SEGMENTERS, *FORMS])}, got {name!r}")


def plan_segmenter(
    name: str,
    device: torch.device,
    *,
    weights: Path | None = None,
    source: str = "auto",
    settings: MaskConfig,
    keep_embeddings: Path | None = None,
) -> tuple[dict[str, object], str]:
    """`describe()` of the segmenter that `make_segmenter` would return, and where its weights are, as text.

    Nothing is downloaded, and no weights are loaded; a class of the user is imported and constructed. `weights` of the facts is None
    where they have not been downloaded yet. Arguments and errors as of `make_segmenter`.
    """
    if name in SEGMENTERS:
        check_installed(name)
        record, where = plan_weights(name, file=weights, source=source)
        known = None if record is None else record.as_attributes()
        half, dtype = keep_embeddings is not None, number_type(settings.mode, device)
        return segmenter_facts(name, weights=known, settings=settings, dtype=dtype, half_embeddings=half), where
    _refuse_embeddings(name, keep_embeddings)
    if name.startswith(HF):
        from .huggingface import plan

        _refuse_weights(name, weights)
        return plan(name.removeprefix(HF), settings)
    return make_segmenter(name, device, weights=weights, source=source, settings=settings).describe(), f"of the class {name}"


def _refuse_embeddings(name: str, folder: Path | None) -> None:
    if folder is not None:
        raise ConfigError(
            f"--keep-embeddings: expected a segmenter of samdiff's mask engine ({', '.join(SEGMENTERS)}), got {name}"
        )


def _refuse_weights(name: str, weights: Path | None) -> None:
    if weights is not None:
        raise ConfigError(f"--sam-weights: {name} has its weights in the model's folder; give --sam hf:FOLDER instead")
