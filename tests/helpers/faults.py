"""An HTTP server on loopback that does everything wrong, step by step, for tests."""

import hashlib
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CONTENT = np.random.default_rng(0).bytes(20_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Quiet(ThreadingHTTPServer):
    """Says nothing of clients that leave: here they are meant to."""

    daemon_threads = True

    def handle_error(self, *_):
        pass


class Server:
    """Answers each request with the next step of `script`, then with `whole`; keeps the ranges that were requested."""

    def __init__(self) -> None:
        self.script: list = []
        self.asked: list[tuple[str, int, str | None]] = []  # path, first byte, If-Range
        self.content, self.etag = CONTENT, '"v1"'
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                condition = self.headers.get("If-Range")
                outer.asked.append((self.path, start, condition))
                self.close_connection = True
                if condition not in (None, outer.etag):
                    start = 0
                step = outer.script.pop(0) if outer.script else whole
                step(self, outer, start)

            def log_message(self, *_):
                pass

        self.http = _Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.zip"

    def starts(self) -> list[int]:
        return [start for _, start, _ in self.asked]


def headers(handler, outer, start, length=None, **more):
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", len(outer.content) - start if length is None else length)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(outer.content) - 1}/{len(outer.content)}")
    for name, value in {"ETag": outer.etag, **more}.items():
        if value:
            handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def whole(handler, outer, start):
    headers(handler, outer, start)
    handler.wfile.write(outer.content[start:])


def cut_after(count, **more):
    """The connection ends `count` bytes on."""

    def step(handler, outer, start):
        headers(handler, outer, start, **more)
        handler.wfile.write(outer.content[start : start + count])

    return step


def ignores_ranges(handler, outer, start):
    whole(handler, outer, 0)


def status(code, **more):
    def step(handler, outer, start):
        handler.send_response(code)
        for name, value in {"Content-Length": 0, **more}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return step


def page(handler, outer, start):
    body = b"<!DOCTYPE html><html>Please log in</html>"
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html; charset=utf-8")
    handler.send_header("Content-Length", len(body))
    handler.end_headers()
    handler.wfile.write(body)


def stalls_after(count):
    def step(handler, outer, start):
        headers(handler, outer, start)
        handler.wfile.write(outer.content[start : start + count])
        handler.wfile.flush()
        time.sleep(1.0)

    return step


def sends(content):
    """Other bytes, without a length."""

    def step(handler, outer, start):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    return step


def raw(*pieces, pause=0.0, times=1):
    """Bytes as they are, the status line included; all of them `times` times, `pause` seconds apart, or until the client leaves."""

    def step(handler, outer, start):
        for _ in range(times):
            for piece in pieces:
                handler.wfile.write(piece)
                time.sleep(pause)

    return step


def answer(*lines, body=b""):
    """A status line and headers as they are (bytes), then a body."""
    return raw(b"\r\n".join(lines) + b"\r\n\r\n" + body)


def after(piece, then):
    """Bytes first, then another step's."""

    def step(handler, outer, start):
        handler.wfile.write(piece)
        then(handler, outer, start)

    return step


OK = b"HTTP/1.1 200 OK\r\n"
FOREVER = 10**9
slow_status = raw(*(bytes([byte]) for byte in OK * 100), pause=0.02)
slow_headers = after(OK, raw(b"X", pause=0.02, times=FOREVER))
endless_headers = after(OK, raw(b"X-More: again\r\n" * 50, times=FOREVER))
huge_header_line = after(OK, raw(b"X" * 65_536, times=FOREVER))
endless_continue = raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, times=FOREVER)
slow_continue = raw(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.02, times=FOREVER)
endless_body = after(OK + b"\r\n", raw(bytes(65_536), times=FOREVER))
endless_chunks = after(OK + b"Transfer-Encoding: chunked\r\n\r\n", raw(b"10000\r\n" + bytes(65_536) + b"\r\n", times=FOREVER))
endless_chunk_line = after(OK + b"Transfer-Encoding: chunked\r\n\r\n", raw(b"1;" + b"x" * 9998, times=FOREVER))
endless_trailer = after(
    OK + b"Transfer-Encoding: chunked\r\n\r\n4e20\r\n" + CONTENT + b"\r\n0\r\n",
    raw(b"X-More: again\r\n", pause=0.01, times=FOREVER),
)
endless_redirect_body = after(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n", raw(bytes(65_536), times=FOREVER))
endless_error_body = after(b"HTTP/1.1 404 Not Found\r\n\r\n", raw(bytes(65_536), times=FOREVER))


def drips(pause=0.02, **more):
    """One byte after another."""

    def step(handler, outer, start):
        headers(handler, outer, start, **more)
        for byte in outer.content[start:]:
            handler.wfile.write(bytes([byte]))
            time.sleep(pause)

    return step


def ranged(text, body=b"", **more):
    """206 with a Content-Range of one's own."""

    def step(handler, outer, start):
        handler.send_response(206)
        for name, value in {"Content-Range": text, "Content-Length": len(body), **more}.items():
            if value is not None:
                handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return step


def chunked(handler, outer, start):
    """The whole file in good chunks."""
    handler.wfile.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    for place in range(0, len(outer.content), 7000):
        piece = outer.content[place : place + 7000]
        handler.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


class RawServer:
    """Sends each client what `answer(first byte asked for)` returns, as it is, and closes."""

    def __init__(self) -> None:
        self.answer = lambda start: b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/file.zip"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return  # closed
            with client:
                client.settimeout(5)
                try:
                    request = client.recv(65_536)
                    start = re.search(rb"bytes=(\d+)-", request)
                    client.sendall(self.answer(int(start[1]) if start else 0))
                    client.shutdown(socket.SHUT_WR)
                    client.recv(1)  # until the client leaves: nothing is lost by a reset
                except OSError:
                    pass  # the client left first
