"""Downloads that survive: resumed by byte range, retried, checked, and moved into place only when whole.

The part lies beside its target as `NAME.part` with `NAME.part.tag` (the address, and what the server said of the file), so another run
goes on with it, and a file that changed on the server begins anew. Where the SHA-256 is known, another mirror goes on with the part as well.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SamdiffError
from ..runtime import progress

log = logging.getLogger(__name__)

_BLOCK = 1 << 18
_SPARE = 64 * 2**20  # bytes of free disk beyond the file itself


class DownloadError(SamdiffError):
    """A file could not be fetched, or is not what it should be."""


@dataclass(frozen=True)
class Patience:
    """How long to try."""

    attempts: int = 5
    """Per address, counted anew whenever bytes arrive."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled each time, unless the server names a time."""
    longest_wait: float = 60.0
    """Bound on a wait, in seconds."""
    stall: float = 60.0
    """Seconds without a byte after which a connection is given up."""


class _Again(Exception):  # noqa: N818 - not an error: the attempt is repeated
    """An attempt ended early; `wait` is what the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    patience: Patience | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> Path:
    """Fetch a file from the first address that gives it; returns `target`.

    Args:
        urls: `http://`, `https://` or `file://` addresses of the same content, tried in order.
        target: where the file goes; its folder exists. A file that is there already is taken if it fits `sha256` and `size`.
        sha256: of the whole file, hexadecimal; None: only the length is checked, which is logged.
        size: bytes; None: as the server says.
        patience: how long to try.
        sleep: injectable clock.

    Raises:
        DownloadError: every address failed; one line for each says expected, got and what was done.
    """
    patience = patience or Patience()
    if target.exists():
        problem = _fits(target, sha256, size)
        if problem is None:
            return target
        log.warning("%s: %s; it is fetched again", target, problem)
    if sha256 is None:
        log.warning("%s: no SHA-256 is published for it; only its length is checked", target.name)
    failures = []
    for url in urls:
        try:
            for again in (
                _part(target).exists(),
                False,
            ):  # a part of unknown history may be what is wrong: once more from the beginning
                part = _fetch_from(url, target, (sha256, size), patience, sleep)
                problem = _fits(part, sha256, size)
                if problem is None:
                    os.replace(part, target)
                    _tag(target).unlink(missing_ok=True)
                    return target
                _discard(target)
                if not again:
                    break
                log.warning("%s: %s after going on with a part; once more from the beginning", url, problem)
            failures.append(f"{url}: {problem}; the download was deleted")
        except DownloadError as error:
            failures.append(f"{url}: {error}")
    raise DownloadError("; ".join(failures) or "no address is known")


def _fetch_from(
    url: str, target: Path, expected: tuple[str | None, int | None], patience: Patience, sleep: Callable[[float], Any]
) -> Path:
    """Go on with the part until the server says that it is whole."""
    part, wait, left = _part(target), patience.first_wait, patience.attempts
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(url, target, expected, patience.stall)
            return part
        except _Again as again:
            now = part.stat().st_size if part.exists() else 0
            left, wait = (patience.attempts, patience.first_wait) if now > before else (left - 1, wait)
            if left <= 0:
                raise DownloadError(
                    f"gave up after {patience.attempts} attempts ({again}); {now} bytes are kept, run it again"
                ) from again
            pause = min(again.wait if again.wait is not None else wait, patience.longest_wait)
            log.warning("%s: %s; again in %.0f s from byte %d", url, again, pause, now)
            sleep(pause)
            wait *= 2


def _attempt(url: str, target: Path, expected: tuple[str | None, int | None], stall: float) -> None:
    """One connection: append to the part until the end. `_Again` if it ended early."""
    part, (sha256, size) = _part(target), expected
    have = part.stat().st_size if part.exists() else 0
    origin, _, tag = _tag(target).read_text().partition("\n") if have and _tag(target).exists() else ("", "", "")
    tag = tag if origin == url else ""  # another server's tag means nothing here
    if (size is not None and have > size) or (
        have and not tag and sha256 is None
    ):  # nothing could tell a mixture from the file
        _discard(target)
        have = 0
    request = urllib.request.Request(url, headers={"User-Agent": "samdiff", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tag:
            request.add_header("If-Range", tag)
    try:
        with urllib.request.urlopen(request, timeout=stall) as response:
            _append(response, url, target, have, expected)
    except urllib.error.HTTPError as error:
        _explain_status(error, target, have, size)
    except (TimeoutError, urllib.error.URLError, http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, FileNotFoundError):
            raise DownloadError(f"there is no such file ({reason})") from error
        if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
            raise DownloadError(f"the address is not known here ({reason.strerror}): no network, or a wrong name") from error
        raise _Again(f"{type(reason).__name__}: {reason}") from error


def _append(response: Any, url: str, target: Path, have: int, expected: tuple[str | None, int | None]) -> None:
    part, headers, (sha256, size) = _part(target), response.headers, expected
    if have and getattr(response, "status", 200) != 206:  # ranges are ignored, or the file changed: from the beginning
        have = 0
    place = headers.get("Content-Range", "")
    if have and place and not place.startswith(f"bytes {have}-"):
        _discard(target)
        raise _Again(f"asked for bytes from {have}, the server sends {place!r}; from the beginning")
    length = headers.get("Content-Length")
    total = have + int(length) if length is not None and length.isdigit() else None
    if size is not None and total is not None and total != size:
        raise DownloadError(_wrong_length(headers, total, size))
    if sha256 is None and size is None and "text/html" in headers.get("Content-Type", ""):
        raise DownloadError("the server sends an HTML page (a login or error page?) in place of the file")
    if have == 0:
        _discard(target)
        etag = headers.get("ETag") or ""
        _tag(target).write_text(f"{url}\n{etag if etag and not etag.startswith('W/') else headers.get('Last-Modified') or ''}")
    check_disk(target.parent, (size or total or 0) - have)
    bar = progress(desc=target.name, total=size or total, initial=have, unit="B", unit_scale=True)
    try:
        with open(part, "ab") as file:
            while block := response.read1(_BLOCK):  # what there is: a stall loses nothing that came before it
                file.write(block)
                bar.update(len(block))
                have += len(block)
                if size is not None and have > size:
                    raise DownloadError(f"more than the expected {size} bytes came")
    finally:
        bar.close()
    whole = size if size is not None else total
    if whole is not None and have < whole:
        raise _Again(f"the connection ended at byte {have} of {whole}")


def _explain_status(error: urllib.error.HTTPError, target: Path, have: int, size: int | None) -> None:
    if error.code == 416 and have:
        if size is not None and have == size:
            return  # the part was whole already
        _discard(target)
        raise _Again("the server does not know this range; from the beginning") from error
    if error.code == 429 or error.code >= 500:
        wait = error.headers.get("Retry-After", "")
        raise _Again(f"HTTP {error.code} {error.reason}", float(wait) if wait.isdigit() else None) from error
    raise DownloadError(f"HTTP {error.code} {error.reason}") from error


def _wrong_length(headers: Any, total: int, size: int) -> str:
    page = (
        " (an HTML page: a login or error page in place of the file?)" if "text/html" in headers.get("Content-Type", "") else ""
    )
    return f"expected {size} bytes, the server offers {total}{page}"


def _fits(path: Path, sha256: str | None, size: int | None) -> str | None:
    """What is wrong with a file, None if nothing is."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"expected {size} bytes, got {found}"
    if sha256 is not None:
        with open(path, "rb") as file:
            start = file.read(512).lstrip().lower()
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            page = " (it is an HTML page)" if start.startswith((b"<!doctype html", b"<html")) else ""
            return f"expected SHA-256 {sha256}, got {digest}{page}"
    return None


def check_disk(folder: Path, needed: int) -> None:
    """Raises DownloadError if so many bytes and a little more are not free."""
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise DownloadError(
            f"{needed / 1e9:.2f} GB are needed in {folder}, {free / 1e9:.2f} GB are free; make room or use another disk"
        )


def _discard(target: Path) -> None:
    _part(target).unlink(missing_ok=True)
    _tag(target).unlink(missing_ok=True)


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _tag(target: Path) -> Path:
    return target.with_name(target.name + ".part.tag")
