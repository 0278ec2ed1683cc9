"""One answer to one address: few redirects, no other schemes than http, https and file, and what the exceptions mean."""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import stat
import string
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...errors import SamdiffError, printable
from .timed_http import RetryPolicy, TooSlow, Watch, opener

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
_LONGEST_TEXT = 200  # characters of a server's words in a message


class DownloadError(SamdiffError):
    """A file could not be fetched, or is not what it should be."""


class Again(Exception):  # noqa: N818 - not an error: the attempt is repeated
    """An attempt ended early; `wait` is what the server asked for, `slow` that it came under the lowest rate."""

    def __init__(self, reason: str, wait: float | None = None, slow: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.slow = wait, slow


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the headers, and the body as it arrives."""

    status: int
    reason: str
    headers: Mapping[str, str] | Any
    read: Callable[[int], bytes]
    """Up to so many bytes, as soon as there are any; b"" at the end."""
    url: str = ""
    """The address that answered, behind all redirects."""


@contextmanager
def answer_of(url: str, headers: Mapping[str, str], patience: RetryPolicy, watch: Watch) -> Iterator[Answer]:
    """Ask an address, follow its redirects, and give the final answer, whatever its status.

    Args:
        url: `http://`, `https://` or `file://`.
        headers: of the request.
        patience: limits in time.
        watch: told by the caller of what comes (`begin_body`, `count`).

    Raises:
        DownloadError: another scheme, a redirect that leads nowhere, to another scheme or in a circle, no such file.
        OSError, HTTPException, ValueError: as of `urllib`; see `explained`.
    """
    seen: list[str] = []
    url = checked(url)
    while not url.startswith("file:"):
        response: Any = _ask(url, headers, patience, watch)
        with response:  # a redirect's body is not read
            if response.status not in _REDIRECTS:
                yield Answer(response.status, response.reason, response.headers, response.read1, url=url)
                return
            seen.append(url)
            where = f"HTTP {response.status}: "
            url = next_address(url, response.headers.get("Location"), where)
        if url in seen or len(seen) > _MOST_REDIRECTS:
            raise DownloadError(f"{where}redirected in a circle, or more than {_MOST_REDIRECTS} times ({brief(url)})")
    with _open_file(url) as file:
        yield Answer(200, "OK", {"Content-Length": str(os.fstat(file.fileno()).st_size)}, file.read, url=url)


def _ask(url: str, headers: Mapping[str, str], patience: RetryPolicy, watch: Watch) -> Any:
    return opener(watch).open(urllib.request.Request(url, headers=dict(headers)), timeout=patience.stall)


def checked(url: str) -> str:
    """An address with everything quoted that must be.

    Raises:
        DownloadError: its scheme is not one of ours, or it has no host.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port  # reads it
    except ValueError as error:
        raise DownloadError(f"the address cannot be understood ({brief(error)})") from error
    if parts.scheme not in ("http", "https", "file"):
        raise DownloadError(f"expected an address with http://, https:// or file://, got {brief(url)!r}")
    if parts.scheme != "file" and (not parts.hostname or port == 0):
        raise DownloadError(f"the address names no host or no port: {brief(url)!r}")
    safe = string.punctuation  # what is quoted already stays as it is
    path, query = (urllib.parse.quote(part, safe=safe, errors="surrogateescape") for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def next_address(url: str, location: str | None, where: str = "") -> str:
    """Where a redirect from `url` leads.

    Raises:
        DownloadError: nowhere, to a scheme other than http and https, or from https back to http.
    """
    if not location or not location.strip():
        raise DownloadError(f"{where}a redirect without an address")
    try:
        following = urllib.parse.urljoin(url, location.strip())
    except ValueError as error:
        raise DownloadError(f"{where}a redirect to {brief(location)!r} ({brief(error)})") from error
    scheme = following.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise DownloadError(f"{where}a redirect to {brief(following)!r}; only http:// and https:// are followed")
    if scheme == "http" and url.startswith("https:"):
        raise DownloadError(f"{where}a redirect from https to {brief(following)!r}, which is not encrypted")
    return checked(following)


def _open_file(url: str) -> io.BufferedReader:
    """A regular file by its address, opened without waiting for anybody."""
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise DownloadError(f"file:// addresses are of this machine, got the host {brief(parts.netloc)!r}")
    try:
        number = os.open(urllib.request.url2pathname(parts.path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise DownloadError(f"there is no such file ({error.strerror})") from error
    except (OSError, ValueError) as error:
        raise DownloadError(f"the file cannot be read ({brief(getattr(error, 'strerror', None) or error)})") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise DownloadError("expected a regular file, got a folder, a device or a pipe")
    return open(number, "rb")


def explained(error: Exception) -> Exception:
    """What to raise for an exception of the network: `Again`, or `DownloadError` where another attempt would not help."""
    reason = getattr(error, "reason", error)
    if not isinstance(reason, Exception):
        reason = error
    if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
        return DownloadError(f"the address is not known here ({reason.strerror}): no network, or a wrong name")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(f"the server's certificate is not trusted here ({brief(reason.verify_message)})")
    if isinstance(reason, ValueError | OverflowError | http.client.InvalidURL) and not isinstance(reason, OSError):
        return DownloadError(f"the address or the answer cannot be understood ({brief(reason)})")
    return Again(f"{type(reason).__name__}: {brief(reason)}", slow=isinstance(reason, TooSlow))


def brief(text: object) -> str:
    """Words of a server or of a file, printable and short."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST_TEXT else f"{shown[:_LONGEST_TEXT]}…"
