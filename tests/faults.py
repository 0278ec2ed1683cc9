"""An HTTP server on loopback that does everything wrong, step by step, for tests."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CONTENT = np.random.default_rng(0).bytes(20_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Answers each request with the next step of `script`, then with `whole`; keeps the ranges that were asked for."""

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

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
