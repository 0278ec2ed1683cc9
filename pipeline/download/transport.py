"""One response from one address: few redirects, no schemes but http, https and file; what the exceptions mean."""

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
from typing import Protocol

from ...errors import SamdiffError, printable
from .timed_http import TooSlow, Watch, opener

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
_LONGEST_TEXT = 200  # characters of a server's text in a message


class DownloadError(SamdiffError):
    """A file could not be downloaded, or is not the expected one."""


class RetryRequest(Exception):  # noqa: N818 - not an error: the attempt is repeated
    """An attempt ended early and can be repeated.

    Args:
        reason: for the log and the error message.
        wait: seconds that the server requested (Retry-After); None: not requested.
        slow: whether the body fell below the lowest rate.
    """

    def __init__(self, reason: str, *, wait: float | None = None, slow: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.slow = wait, slow


class Headers(Protocol):
    """Headers of a response; names are case-insensitive for HTTP."""

    def get(self, name: str, /) -> str | None:
        """The value of a header; None: it is absent."""


@dataclass(frozen=True)
class Response:
    """An HTTP response, or a local file in the same form."""

    status: int
    reason: str
    headers: Headers
    read: Callable[[int], bytes]
    """Returns at most this many bytes of the body, as soon as any have arrived; b"" at the end."""
    url: str = ""
    """The final address, after all redirects."""


@contextmanager
def open_url(url: str, headers: Mapping[str, str], *, watch: Watch) -> Iterator[Response]:
    """Request an address, follow its redirects, and yield the final response, whatever its status.

    Args:
        url: `http://`, `https://` or `file://`.
        headers: of the request.
        watch: time limits; the caller reports the body to it (`begin_body`, `count`).

    Raises:
        DownloadError: another scheme; a redirect without an address, to another scheme, or in a loop; no such file.
        OSError, HTTPException, ValueError: raised by `urllib`; see `network_error`.
    """
    seen: list[str] = []
    url = checked(url)
    while not url.startswith("file:"):
        with _request(url, headers, watch) as http:  # the body of a redirect is not read
            if http.status not in _REDIRECTS:
                yield Response(http.status, reason=http.reason, headers=http.headers, read=http.read1, url=url)
                return
            seen.append(url)
            where = f"HTTP {http.status}: "
            url = next_address(url, http.headers.get("Location"), where)
        if url in seen or len(seen) > _MOST_REDIRECTS:
            raise DownloadError(f"{where}a redirect loop, or more than {_MOST_REDIRECTS} redirects ({brief(url)})")
    with _open_file(url) as file:
        length = str(os.fstat(file.fileno()).st_size)
        yield Response(200, reason="OK", headers={"Content-Length": length}, read=file.read, url=url)


def _request(url: str, headers: Mapping[str, str], watch: Watch) -> http.client.HTTPResponse:
    return opener(watch).open(urllib.request.Request(url, headers=dict(headers)), timeout=watch.retry.stall)


def checked(url: str) -> str:
    """An address with its path and query percent-encoded where necessary; a fragment is dropped.

    Raises:
        DownloadError: the scheme is not http, https or file, or the address has no host.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port  # raises for a port that is no number
    except ValueError as error:
        raise DownloadError(f"the address is invalid ({brief(error)})") from error
    if parts.scheme not in ("http", "https", "file"):
        raise DownloadError(f"expected an address with http://, https:// or file://, got {brief(url)!r}")
    if parts.scheme != "file" and (not parts.hostname or port == 0):
        raise DownloadError(f"the address has no host, or port 0: {brief(url)!r}")
    safe = string.punctuation  # includes %: existing escapes are kept
    path, query = (urllib.parse.quote(part, safe=safe, errors="surrogateescape") for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def next_address(url: str, location: str | None, where: str = "") -> str:
    """The absolute address that a redirect from `url` leads to.

    Args:
        url: address of the redirect.
        location: its header Location.
        where: start of an error message.

    Raises:
        DownloadError: there is no address, a scheme other than http and https, or a redirect from https to http.
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
    """Open the regular file of a file:// address without blocking."""
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise DownloadError(f"file://: expected a file of this machine, got the host {brief(parts.netloc)!r}")
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


def network_error(error: Exception) -> Exception:
    """The exception to raise for a network error: `RetryRequest`, or `DownloadError` where another attempt would not help."""
    reason = getattr(error, "reason", error)
    if not isinstance(reason, Exception):
        reason = error
    if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
        return DownloadError(f"the host name cannot be resolved ({reason.strerror}): no network, or a wrong name")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(f"the server's certificate is not trusted ({brief(reason.verify_message)})")
    if isinstance(reason, ValueError | OverflowError | http.client.InvalidURL) and not isinstance(reason, OSError):
        return DownloadError(f"the address or the response is invalid ({brief(reason)})")
    return RetryRequest(f"{type(reason).__name__}: {brief(reason)}", slow=isinstance(reason, TooSlow))


def brief(text: object) -> str:
    """Text of a server or of a file, printable, cut after 200 characters."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST_TEXT else f"{shown[:_LONGEST_TEXT]}…"
