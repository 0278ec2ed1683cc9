"""The root document of a store, which commits it, and the manifest that it names: read and checked."""

from __future__ import annotations

from ...errors import StoreError, printable
from ..scientific.sample_format import format_in
from ..storage.local import KeyStore, LocalStore, get_at_most
from .codec import DamageError, decode_chunk
from .metadata import DOCUMENT_LIMIT, Facts, manifest_files, manifest_length, parse_json, parse_manifest
from .schema import BANDS_VERSION, FORMAT, FORMAT_VERSION, LONG_ROWS, MANIFEST_KEY, Document
from .writer import ROOT_KEY, SPECS, as_written, digest, unseal

_OBJECTS = ("segmenter", "degradation", "structure", "software", "uncompared", "counts")  # attributes that are JSON objects


def read_root(place: KeyStore, data: bytes) -> Document:
    """The attributes of the root document, checked.

    Args:
        place: the store, for messages.
        data: the root document.

    Raises:
        StoreError: not a samdiff store, another format version, edited or damaged.
    """
    try:
        attributes: Document = dict(parse_json(data).get("attributes") or {})
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{place}: {ROOT_KEY} cannot be read ({printable(error)}); the store is damaged, prepare it again"
        ) from error
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{place}: expected a samdiff store, got a Zarr group that samdiff did not write; make one with `samdiff prepare`"
        )
    if attributes.get("format_version") not in (FORMAT_VERSION, BANDS_VERSION):
        raise StoreError(
            f"{place}: expected format version {FORMAT_VERSION} or {BANDS_VERSION}, got {attributes.get('format_version')!r:.80}; "
            "use the samdiff release that wrote it, or prepare it again"
        )
    try:
        attributes = unseal(data)
        manifest_files(attributes["digests"]["record"])
        _check_attributes(attributes)
        return attributes
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise StoreError(f"{place}: {ROOT_KEY}: {printable(error)}; restore the file or prepare the store again") from error


def read_manifest(place: KeyStore, own: Facts) -> Facts:
    """The manifest: key -> (bytes, SHA-256) of each file of a store, except the root document and the manifest's own files.

    Args:
        place: the store.
        own: the manifest's own files, from `metadata.manifest_files`.

    Raises:
        StoreError: one of the manifest's files is missing or damaged.
    """
    length, text = 0, b""
    for key, fact in own.items():
        is_document = key.endswith(ROOT_KEY)
        data = get_at_most(place, key, DOCUMENT_LIMIT if is_document else fact[0])
        if data is not None and is_document and digest(data) != fact[1]:
            data = as_written(data)
        if data is None or (len(data), digest(data)) != fact:
            raise StoreError(f"{place}/{key}: {'missing' if data is None else 'damaged'}; restore it or prepare again")
        try:
            if key == f"{MANIFEST_KEY}/{ROOT_KEY}":
                length = manifest_length(data, own)
            else:
                text += decode_chunk(data, SPECS["images/name"].little, (LONG_ROWS,)).tobytes()
        except (DamageError, ValueError) as error:
            raise StoreError(f"{place}/{key}: {printable(error)}; restore it or prepare again") from error
    try:
        return parse_manifest(text[:length])
    except ValueError as error:
        raise StoreError(f"{place}/{MANIFEST_KEY}: {printable(error)}; restore it or prepare again") from error


def _check_attributes(attributes: Document) -> None:
    """Raise a ValueError if an attribute that this package uses has the wrong type."""
    scale, fingerprint = attributes.get("scale"), attributes.get("fingerprint")
    if type(scale) is not int or scale < 1:
        raise ValueError(f"scale: expected an integer of at least 1, got {scale!r:.80}")
    if not isinstance(fingerprint, str):
        raise ValueError(f"fingerprint: expected text, got {fingerprint!r:.80}")
    if (attributes["format_version"] == FORMAT_VERSION) != format_in(attributes).is_rgb8:
        raise ValueError(f"format_version {attributes['format_version']} does not fit the samples that `pixels` describes")
    for name in _OBJECTS:
        if not isinstance(attributes.get(name, {}), dict):
            raise ValueError(f"{name}: expected an object, got {attributes[name]!r:.80}")


def nothing_there(place: KeyStore) -> str:
    """The error message for a place without a store: why, and what to do."""
    staging = place.sibling(".staging")
    if staging.get("settings.json") is not None:
        return f"{place}: the store is not finished ({staging} exists); resume it with the same `samdiff prepare` command"
    if isinstance(place, LocalStore) and place.root.is_file():
        return f"{place}: expected a samdiff store, got a file"
    if next(place.list_keys(), None) is not None:
        return f"{place}: expected a samdiff store, got a folder without {ROOT_KEY}"
    return f"{place}: there is no such store; make one with `samdiff prepare SOURCE --out {place}`"
