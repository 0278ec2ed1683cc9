"""Settings of `samdiff report`. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, printable
from ..settings import check, setting


@dataclass(frozen=True)
class ReportConfig:
    """Where the page goes, and how many images are drawn in which size."""

    out: Path = setting(Path("report.html"), short="-o", panel="Common")
    """The page. Images go into a folder beside it, such as report_files, if they are too many for the page."""
    images: int = setting(200, min=0, panel="Common")
    """Number of images to draw of each store, run and evaluation; the others are listed with their numbers only."""
    side: int = setting(1280, min=64, max=8192)
    """Longest side of the drawn images of stores and runs, in pixels; larger images are reduced."""
    result_side: int = setting(2048, min=64, max=8192)
    """Longest side of the results of an evaluation, in pixels; larger images are reduced, so their pixels are not exact."""
    inline_mb: float = setting(8.0, min=0)
    """Images of at most this size together, in MB, are stored in the page itself."""
    overwrite: bool = setting(False, panel="Common")
    """Replace the page and its images if they exist."""

    def __post_init__(self) -> None:
        check(self)
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"--out {printable(self.out)}: expected a file ending in .html")

    @property
    def folder(self) -> Path:
        """The folder beside the page: `report_files` for `report.html`."""
        return self.out.with_name(f"{self.out.stem}_files")
