"""Serves the built page on this machine: serve.py FOLDER [PORT]. With `--isolated`, it sends the headers that threads need."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Static files with the right types, and on request the headers of cross-origin isolation."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, *arguments: object, isolated: bool = False, **more: object) -> None:
        self.isolated = isolated
        super().__init__(*arguments, **more)  # type: ignore[arg-type]

    def end_headers(self) -> None:
        """Add our headers to every answer."""
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *values: object) -> None:
        """No line per request."""


def make_server(folder: Path, port: int = 0, *, isolated: bool = False) -> ThreadingHTTPServer:
    """A server of this machine alone; port 0: any that is free."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder), isolated=isolated))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--isolated"]
    with make_server(Path(words[0]), int((*words, "8000")[1]), isolated="--isolated" in sys.argv) as server:
        sys.stderr.write(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends)\n")
        server.serve_forever()
