"""HTTP connections with limits: time for the header, a lowest rate for the body, bytes of a header.

The total time has no limit (a data set may take hours); every phase in which nothing useful comes has one.
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
from functools import partial
from typing import Any

_HEADER_BYTES = 1 << 20  # of one answer, with everything that comes before the final status


class TooSlow(TimeoutError):
    """The body came under the lowest rate."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long to try."""

    attempts: int = 5
    """Per address, counted anew whenever bytes arrive."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled each time, unless the server names a time."""
    longest_wait: float = 60.0
    """Bound on a wait, in seconds."""
    stall: float = 60.0
    """Seconds without a byte after which a connection is given up."""
    header: float | None = None
    """Seconds within which the header of an answer must be complete; None: as `stall`, at least 1."""
    window: float | None = None
    """Seconds over which the rate of a body is measured; None: as `stall`, at least 1."""
    lowest_rate: float = 1000.0
    """Bytes per second over a window; a connection that brings less is given up, and counts as a failed attempt."""
    short_connections: int = 50
    """So many connections in a row may end after fewer than `window * lowest_rate` bytes each; more are failed attempts."""
    most_bytes: int = 1 << 36
    """Bound on a file whose length neither we nor the server know."""
    busy: float = 600.0
    """Seconds to wait for another process that is at the same file and brings no bytes."""
    ca_file: str | None = None
    """Certificates to trust for https, a PEM file; None: the system's."""

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
        """What must come in a window."""
        return self.window_seconds * self.lowest_rate


class Watch:
    """The limits in time of one connection."""

    def __init__(self, patience: RetryPolicy) -> None:
        self.patience = patience
        self.begin_header()

    def begin_header(self) -> None:
        """From now on a header is awaited."""
        self._body, self._count, self._until = False, 0, time.monotonic() + self.patience.header_seconds

    def begin_body(self) -> None:
        """From now on `count` is told of each block of the body."""
        self._body, self._count, self._until = True, 0, time.monotonic() + self.patience.window_seconds

    def count(self, size: int) -> None:
        """Bytes of the body came: the file's own, not those of its framing."""
        self._count += size

    def arrived(self, size: int) -> None:
        """Bytes came from the socket."""
        if not self._body:
            self._count += size
            if self._count > _HEADER_BYTES:
                raise http.client.HTTPException(f"the header is longer than {_HEADER_BYTES} bytes")

    def left(self) -> float:
        """Seconds that the next read may take.

        Raises:
            TimeoutError: the header did not come in time, or (`TooSlow`) the body came under the lowest rate.
        """
        now, patience = time.monotonic(), self.patience
        if now >= self._until:
            if not self._body:
                raise TimeoutError(f"no complete header within {patience.header_seconds:g} s")
            if self._count < patience.window_bytes:
                raise TooSlow(
                    f"{self._count} bytes in {patience.window_seconds:g} s, fewer than {patience.lowest_rate:g} per second"
                )
            self.begin_body()
        return max(0.001, min(patience.stall, self._until - now))


class _TimedSocket(io.RawIOBase):
    """What a response reads from: a socket that asks the watch before each read."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, watch: Watch) -> None:
        self._sock, self._raw, self._watch = sock, raw, watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        begun = time.monotonic()
        while True:
            self._sock.settimeout(self._watch.left())
            try:
                count = self._sock.recv_into(buffer)
            except TimeoutError:
                if time.monotonic() - begun >= self._watch.patience.stall:
                    raise TimeoutError(f"no byte for {self._watch.patience.stall:g} s") from None
                continue  # a window ended: the watch says whether it was a good one
            self._watch.arrived(count)
            return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()  # the socket counts its readers
            super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, watch: Watch, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        watch.begin_header()
        self.fp: Any = io.BufferedReader(_TimedSocket(sock, self.fp.detach(), watch))


def _connection(kind: Any, watch: Watch) -> Callable[..., Any]:
    def make(*arguments: Any, **options: Any) -> Any:
        made = kind(*arguments, **options)
        made.response_class = partial(_Response, watch)
        return made

    return make


class _HTTP(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, req: Any) -> Any:
        return self.do_open(_connection(http.client.HTTPConnection, self.watch), req)


class _HTTPS(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, req: Any) -> Any:
        make: Any = _connection(http.client.HTTPSConnection, self.watch)
        return self.do_open(make, req, context=ssl.create_default_context(cafile=self.watch.patience.ca_file))


def opener(watch: Watch) -> urllib.request.OpenerDirector:
    """Opens http and https, through the proxies of the environment; does not follow redirects, read files or raise for a status."""
    director = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), _HTTP(watch), _HTTPS(watch)):
        director.add_handler(handler)
    return director
