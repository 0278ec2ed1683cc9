"""Files of packages from a package index on this machine: both kinds of pages, resuming, hashes, pip's settings."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from samdiff.pipeline.download import package_index
from samdiff.pipeline.download.fetch import DownloadError, RetryPolicy
from samdiff.pipeline.download.package_index import (
    DEFAULT_INDEX,
    IndexConfig,
    PackageFile,
    fetch_package_file,
    index_of,
    pip_index,
    without_login,
)

DATA = bytes(range(256)) * 40
WANTED = PackageFile("Some_Project", "some_project-1.0.tar.gz", bytes=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
QUICK = RetryPolicy(attempts=2, first_wait=0, stall=5)


class Index:
    """`/json/`, `/html/`, `/moved/` and `/empty/` are indexes; the file comes in pieces that end early `cuts` times."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.cuts = self.busy = 0
        self.data = DATA
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers.get("Range")))
                index.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        kind, body, status, headers = "text/html", b"", 200, {}
        if request.path == "/json/some-project/":
            kind = "application/vnd.pypi.simple.v1+json"
            files = [
                {"filename": "other.whl", "url": "other.whl"},
                {"filename": WANTED.file, "url": f"../../files/{WANTED.file}"},
            ]
            body = json.dumps({"files": files}).encode()
        elif request.path in ("/html/some-project/", "/empty/some-project/"):
            link = f'<a href="../../files/{WANTED.file}#sha256=00">x</a>' if "html" in request.path else ""
            body = f"<html><a href='a'>b</a>{link}</html>".encode()
        elif request.path == "/moved/some-project/":
            status, headers = 302, {"Location": "/html/some-project/"}
        elif request.path == f"/files/{WANTED.file}":
            kind, body = "application/octet-stream", self.data
        else:
            status = 404
        if self.busy:
            self.busy -= 1
            status, body = 503, b""
        start = 0
        if (wanted := request.headers.get("Range")) and status == 200:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status, headers = 206, {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        request.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body) - start), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        body = body[start:]
        if self.cuts and kind == "application/octet-stream":
            self.cuts -= 1
            body = body[: len(body) // 2]
        request.wfile.write(body)


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("kind", ["json", "html", "moved"])
def test_both_kinds_of_pages(index, tmp_path, kind):
    """The project's normalised name is asked for, and one file; addresses are relative to the final page."""
    target = fetch_package_file(WANTED, tmp_path / WANTED.file, index=IndexConfig((f"{index.url}/{kind}",)), retry=QUICK)
    assert target.read_bytes() == DATA
    assert [path for path, _ in index.asked if "moved" not in path] == [
        f"/{kind.replace('moved', 'html')}/some-project/",
        f"/files/{WANTED.file}",
    ]


def test_a_cut_download_is_resumed(index, tmp_path):
    index.cuts = 1
    fetch_package_file(WANTED, tmp_path / WANTED.file, index=IndexConfig((f"{index.url}/json",)), retry=QUICK)
    assert (tmp_path / WANTED.file).read_bytes() == DATA
    assert [asked for path, asked in index.asked if "files" in path] == [None, f"bytes={len(DATA) // 2}-"]


def test_other_bytes_are_refused(index, tmp_path):
    index.data = DATA[:-1] + b"x"
    with pytest.raises(DownloadError, match="expected SHA-256"):
        fetch_package_file(WANTED, tmp_path / WANTED.file, index=IndexConfig((f"{index.url}/json",)), retry=QUICK)
    assert not (tmp_path / WANTED.file).exists()


def test_the_next_index_is_asked(index, tmp_path):
    """One without the file, one that is not there, one that has it; when none has it, each says why, without its login."""
    roots = (f"{index.url}/empty", f"{index.url}/nowhere", f"{index.url}/html/")
    assert fetch_package_file(WANTED, tmp_path / WANTED.file, index=IndexConfig(roots), retry=QUICK).read_bytes() == DATA
    none_has_it = IndexConfig((*roots[:2], "http://me:secret@127.0.0.1:1/x"))
    with pytest.raises(DownloadError) as caught:
        fetch_package_file(WANTED, tmp_path / "b", index=none_has_it, retry=QUICK)
    text = str(caught.value)
    assert "/empty: its page of Some_Project does not list some_project-1.0.tar.gz" in text
    assert "/nowhere: HTTP 404" in text
    assert "contains a login" in text
    assert "secret" not in text


def test_a_right_file_needs_no_index(tmp_path):
    (tmp_path / "a").write_bytes(DATA)
    assert fetch_package_file(WANTED, tmp_path / "a", index=IndexConfig(())) == tmp_path / "a"
    with pytest.raises(DownloadError, match="no package index"):
        fetch_package_file(WANTED, tmp_path / "b", index=IndexConfig(()))


def test_a_busy_index_is_asked_again(index, tmp_path):
    index.busy = 1
    root = IndexConfig((f"{index.url}/json",))
    assert fetch_package_file(WANTED, tmp_path / "a", index=root, retry=QUICK).read_bytes() == DATA
    index.busy = 9
    with pytest.raises(DownloadError, match=r"gave up after 2 attempts \(HTTP 503"):
        fetch_package_file(WANTED, tmp_path / "b", index=root, retry=QUICK)


def test_another_file_of_that_length_is_kept_aside(index, tmp_path):
    (tmp_path / "a").write_bytes(DATA[::-1])
    fetch_package_file(WANTED, tmp_path / "a", index=IndexConfig((f"{index.url}/json",)), retry=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA
    assert [path.read_bytes() for path in tmp_path.glob("a.kept*")] == [DATA[::-1]]


def test_pages_that_are_none(index, tmp_path, monkeypatch):
    """No JSON where JSON is said, and a page without end."""
    monkeypatch.setattr(package_index, "_PAGE_BYTES", 10)
    with pytest.raises(DownloadError, match="longer than 10 bytes"):
        package_index.find_file(f"{index.url}/json", WANTED, retry=QUICK)
    for text in ("{", "[]", '{"files": [1]}', '{"files": {"a": 1}}', "[" * 100_000):
        with pytest.raises(DownloadError, match="is invalid"):
            package_index._json_links(text)


def test_a_folder_as_an_index(tmp_path):
    """`file://`, as pip takes it: PROJECT/index.html."""
    page = tmp_path / "simple" / "some-project" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{WANTED.file}">x</a>')
    (page.parent / WANTED.file).write_bytes(DATA)
    root = IndexConfig(((tmp_path / "simple").as_uri(),))
    assert fetch_package_file(WANTED, tmp_path / "got", index=root, retry=QUICK).read_bytes() == DATA


def test_settings_of_pip(monkeypatch):
    """A variable counts more than `[download]`, that more than `[global]`; pip's own default without any."""
    assert index_of({}) == IndexConfig((DEFAULT_INDEX,), None)
    config = {"global.index-url": "https://a", "download.index-url": "https://b", "global.cert": "/ca.pem"}
    assert index_of(config) == IndexConfig(("https://b",), "/ca.pem")
    config |= {
        ":env:.index-url": "https://c",
        "global.extra-index-url": "\nhttps://d\nhttps://c",
        "install.index-url": "https://e",
    }
    assert index_of(config) == IndexConfig(("https://c", "https://d"), "/ca.pem")
    assert index_of(config | {":env:.no-index": "1"}).urls == ()
    monkeypatch.setattr(package_index, "_pip_config", dict)  # an environment without pip
    assert pip_index({"PIP_INDEX_URL": "https://f", "PIP_EXTRA_INDEX_URL": "https://g"}).urls == ("https://f", "https://g")
    assert without_login("https://u:p@host:8/x") == "https://host:8/x"


def test_certificates_that_are_not_there(tmp_path):
    config = IndexConfig(("https://127.0.0.1:1/simple",), ca_file=str(Path(tmp_path, "none.pem")))
    with pytest.raises(DownloadError, match=r"setting cert: no such file .*none\.pem"):
        fetch_package_file(WANTED, tmp_path / "a", index=config, retry=QUICK)
