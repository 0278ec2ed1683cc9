"""The page: parts and images as one HTML document with a Content-Security-Policy that allows nothing from a network.

Text of parts is data: it is in a JSON block, which no HTML parser interprets, or escaped by jinja2. The scripts of the page are allowed by
their SHA-256, so no other script runs, even if a name of a file could be one.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import missing_package
from .parts import Part, as_values

if TYPE_CHECKING:
    from jinja2 import Template

MARK = '<meta name="generator" content="samdiff report'
"""In the head of each page."""
SCRIPTS = ("core.js", "viewer.js", "store.js", "run.js", "evaluation.js")
_WHAT = "samdiff report"


def render(parts: Sequence[Part], *, title: str, inline: Mapping[str, str], folder: str) -> str:
    """The HTML document.

    Args:
        parts: what the page shows.
        title: of the page.
        inline: key -> data URL, of the images in the page.
        folder: of the other images, relative to the page.

    Raises:
        MissingPackageError: jinja2 or plotly is not installed.
    """
    template, plotly = load_packages()
    needs_plots = any(getattr(part, "histograms", ()) or getattr(part, "curves", ()) for part in parts)
    script = "\n".join(["(() => {", '"use strict";', *map(_asset, SCRIPTS), "start();", "})();"])
    allowed = [_source(script), *([_source(plotly)] if needs_plots else [])]
    policy = [
        "default-src 'none'",
        "img-src 'self' file: data: blob:",
        f"script-src {' '.join(allowed)}",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    data = {"parts": as_values(parts), "folder": folder, "inline": bool(inline)}
    return template.render(
        title=title,
        version=__version__,
        parts=parts,
        policy="; ".join(policy),
        style=_asset("style.css"),
        script=script,
        data=as_script(data),
        images=as_script(dict(inline)),
        plotly=base64.b64encode(gzip.compress(plotly.encode(), 6, mtime=0)).decode() if needs_plots else "",
    )


def load_packages() -> tuple[Template, str]:
    """The template of the page, and plotly's script.

    Raises:
        MissingPackageError: jinja2 or plotly is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_package(error, extra="report", what=_WHAT) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html")), str(get_plotlyjs())


def as_script(value: object) -> str:
    """JSON that may stand in a script element: it cannot end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _source(script: str) -> str:
    """A script as a source of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (resources(__package__) / "assets" / name).read_text(encoding="utf-8").rstrip()
