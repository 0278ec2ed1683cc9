"""HTTP connections with limits: time for the header, a lowest rate for the body, bytes of a header.

The total time is not limited, since a data set may take hours; every phase without progress is.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_HEADER_BYTES = 1 << 20  # of one response, including interim responses before the final status


class TooSlow(TimeoutError):
    """The body fell below the lowest rate."""


@dataclass(frozen=True)
class RetryPolicy:
    """Number of attempts, waits between them, timeouts and the lowest rate of a download."""

    attempts: int = 5
    """Per address; reset whenever the download makes progress."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled each time, unless the server requests a time."""
    longest_wait: float = 60.0
    """Bound on a wait, in seconds."""
    stall: float = 60.0
    """Seconds without a byte after which a connection is closed."""
    header: float | None = None
    """Seconds within which the header of a response must be complete; None: as `stall`, at least 1."""
    window: float | None = None
    """Seconds over which the rate of a body is measured; None: as `stall`, at least 1."""
    lowest_rate: float = 1000.0
    """Bytes per second over a window; a slower connection is closed, and counts as a failed attempt."""
    short_connections: int = 50
    """Number of consecutive connections that may each end after fewer than `window * lowest_rate` bytes; further ones are failed attempts."""
    most_bytes: int = 1 << 36
    """Bound on the bytes of a file of unknown length."""
    busy: float = 600.0
    """Seconds to wait for another process that downloads the same file and receives no data."""
    ca_file: str | None = None
    """PEM file with the certificates to trust for https; None: the system's."""

    @property
    def header_seconds(self) -> float:
        """`header` in use."""
        return max(1.0, self.stall) if self.header is None else self.header

    @property
    def window_seconds(self) -> float:
        """`window` in use."""
        return max(1.0, self.stall) if self.window is None else self.window

    @property
    def window_bytes(self) -> float:
        """Bytes that must arrive in a window."""
        return self.window_seconds * self.lowest_rate


class Watch:
    """Time limits of one connection: a deadline for the header, a lowest rate for the body."""

    def __init__(self, retry: RetryPolicy) -> None:
        self.retry = retry
        self.begin_header()

    def begin_header(self) -> None:
        """Start the deadline of a header."""
        self._body, self._count, self._until = False, 0, time.monotonic() + self.retry.header_seconds

    def begin_body(self) -> None:
        """Start a window of the body; the caller then calls `count` for each block."""
        self._body, self._count, self._until = True, 0, time.monotonic() + self.retry.window_seconds

    def count(self, size: int) -> None:
        """Add bytes of the body, without the framing of chunks."""
        self._count += size

    def arrived(self, size: int) -> None:
        """Add bytes that were read from the socket.

        Raises:
            HTTPException: the header is too long.
        """
        if not self._body:
            self._count += size
            if self._count > _HEADER_BYTES:
                raise http.client.HTTPException(f"the header is longer than {_HEADER_BYTES} bytes")

    def left(self) -> float:
        """Seconds that the next read may take.

        Raises:
            TimeoutError: the header is late, or (`TooSlow`) the body fell below the lowest rate.
        """
        now, retry = time.monotonic(), self.retry
        if now >= self._until:
            if not self._body:
                raise TimeoutError(f"no complete header within {retry.header_seconds:g} s")
            if self._count < retry.window_bytes:
                raise TooSlow(f"{self._count} bytes in {retry.window_seconds:g} s, fewer than {retry.lowest_rate:g} per second")
            self.begin_body()
        return max(0.001, min(retry.stall, self._until - now))


class _TimedSocket(io.RawIOBase):
    """A socket as a raw stream whose reads obey the limits of a `Watch`."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, watch: Watch) -> None:
        self._sock, self._raw, self._watch = sock, raw, watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        start = time.monotonic()
        while True:
            self._sock.settimeout(self._watch.left())
            try:
                count = self._sock.recv_into(buffer)
            except TimeoutError:
                if time.monotonic() - start >= self._watch.retry.stall:
                    raise TimeoutError(f"no byte for {self._watch.retry.stall:g} s") from None
                continue  # a window ended: `left` raises if it was too slow
            self._watch.arrived(count)
            return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()  # the socket closes when its last stream is closed
            super().close()


def _response_class(watch: Watch) -> type[http.client.HTTPResponse]:
    class TimedResponse(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None) -> None:
            super().__init__(sock, debuglevel=debuglevel, method=method, url=url)
            watch.begin_header()
            self.fp = io.BufferedReader(_TimedSocket(sock, self.fp.detach(), watch))

    return TimedResponse


class _HTTP(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        connect: Callable[..., http.client.HTTPConnection] = self._connect  # do_open passes the host and the timeout alone
        return self.do_open(connect, req)

    def _connect(self, host: str, *, timeout: float) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(host, timeout=timeout)
        connection.response_class = _response_class(self.watch)
        return connection


class _HTTPS(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        connect: Callable[..., http.client.HTTPConnection] = self._connect
        return self.do_open(connect, req)

    def _connect(self, host: str, *, timeout: float) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self.watch.retry.ca_file)
        connection = http.client.HTTPSConnection(host, timeout=timeout, context=context)
        connection.response_class = _response_class(self.watch)
        return connection


def opener(watch: Watch) -> urllib.request.OpenerDirector:
    """Opens http and https through the proxies of the environment. Does not follow redirects, open files, or raise for a status."""
    director = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), _HTTP(watch), _HTTPS(watch)):
        director.add_handler(handler)
    return director
