"""Limits on what is read from untrusted image files and archives. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import check, setting

MAX_ARCHIVE_GB = 100.0
"""Default of `Limits.max_archive_gb`; Flickr2K has 11.6 GB."""


@dataclass(frozen=True)
class Limits:
    """How untrusted image files are read: bounds on sizes, and colour conversion."""

    max_megapixels: float = setting(200.0, above=0, max=10_000)
    """Maximum size of an image in millions of pixels; larger images are skipped and listed before they are decoded."""
    max_archive_gb: float = setting(MAX_ARCHIVE_GB, above=0, max=1_000_000)
    """Maximum unpacked size of an archive's images in 10^9 bytes; a larger archive is refused before any image is read."""

    to_srgb: bool = False
    """Convert colours to sRGB with the embedded profile; otherwise another profile is noted and not applied."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def max_bytes(self) -> int:
        """Bound on the bytes of a file: 16 bits and four channels per pixel, uncompressed, and 16 MiB."""
        return int(self.max_megapixels * 8e6) + (1 << 24)

    @property
    def max_archive_bytes(self) -> int:
        """`max_archive_gb` in bytes."""
        return int(self.max_archive_gb * 1e9)
