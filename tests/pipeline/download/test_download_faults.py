"""Servers and folders that are meant to hurt: each ends in the right bytes or in one error, in bounded time, memory and disk."""

import gzip
import os
import random
import shutil
import ssl
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from itertools import count

import pytest

from samdiff.errors import BusyError, SamdiffError, printable
from samdiff.pipeline.download import fetch as download
from samdiff.pipeline.download.fetch import DownloadError, RetryPolicy, fetch
from samdiff.pipeline.download.transport import checked, next_address

from ...helpers import faults
from ...helpers.faults import (
    CONTENT,
    OK,
    SHA256,
    RawServer,
    Server,
    after,
    answer,
    chunked,
    cut_after,
    drips,
    ranged,
    raw,
    status,
    whole,
)
from ...helpers.strange_input import http_answer

PATIENCE = RetryPolicy(attempts=2, stall=1.0, header=0.2, window=0.3, lowest_rate=10_000, most_bytes=300_000, busy=3)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def get(server, tmp_path):
    def go(*urls, **more):
        known = {"sha256": SHA256, "size": len(CONTENT), "retry": PATIENCE, "sleep": lambda _: None, **more}
        return fetch(urls or [server.url], tmp_path / "file.zip", **known)

    return go


KNOWN = ({}, {"size": None}, {"sha256": None}, {"sha256": None, "size": None})


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("slow_status", "no complete header within 0.2 s"),
        ("slow_headers", "no complete header within 0.2 s"),
        ("slow_continue", "no complete header within 0.2 s"),
        ("endless_headers", "got more than 100 headers"),
        ("huge_header_line", "header line"),
        ("endless_continue", "the header is longer than|no complete header within"),
    ],
)
def test_a_header_that_never_ends(server, get, fault, says):
    """Neither slowly nor fast; the next answer is a good one, or the attempts run out."""
    server.script = [getattr(faults, fault)]
    assert get().read_bytes() == CONTENT
    get().unlink()
    server.script = [getattr(faults, fault)] * 2
    begun = time.monotonic()
    with pytest.raises(DownloadError, match=f"gave up after 2 attempts .*({says})"):
        get()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("fault", ["endless_body", "endless_chunks", "endless_chunk_line", "endless_trailer"])
def test_a_body_that_never_ends(server, get, tmp_path, fault, known):
    """It stops at the known length, or at the bound on unknown ones; a trailer and a chunk's header are no bytes of the file."""
    server.script = [getattr(faults, fault)] * 9
    if fault == "endless_trailer" and known.get("size", 1):
        assert get(**known).read_bytes() == CONTENT  # every byte was there
        return
    with pytest.raises(DownloadError) as caught:
        get(**known, retry=replace(PATIENCE, window=0.2, lowest_rate=10**6))
    assert any(
        words in str(caught.value)
        for words in (
            "more than the",
            "bytes in 0.2 s, fewer than",
            "a truncated file could not be detected",
            "IncompleteRead",
            "LineTooLong",
        )
    )
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= len(CONTENT) + 100


@pytest.mark.parametrize("fault", ["endless_redirect_body", "endless_error_body"])
def test_the_body_of_a_redirect_or_an_error_is_not_read(server, get, fault):
    server.script = [getattr(faults, fault)] * 2
    if "redirect" in fault:
        server.script[1:] = []
        assert get().read_bytes() == CONTENT
    else:
        with pytest.raises(DownloadError, match="HTTP 404"):
            get()


def test_one_byte_after_another(server, get):
    """A rate below the lowest is a failed attempt, although bytes came; what came is kept, and resumed by a server that is quicker."""
    server.script = [drips()] * 2
    with pytest.raises(
        DownloadError, match=r"TooSlow: [0-9]+ bytes in 0.3 s, fewer than 10000 per second\); [0-9]+ bytes are kept"
    ):
        get()
    assert get().read_bytes() == CONTENT
    assert server.starts()[1] > 0
    assert server.starts()[2] > server.starts()[1]


def test_a_slow_download_has_no_limit_on_its_total_time(server, get):
    """Many windows, each above the lowest rate."""
    retry = RetryPolicy(attempts=1, header=0.1, stall=0.5, window=0.05, lowest_rate=1000)

    def steady(handler, outer, start):
        faults.headers(handler, outer, start)
        for place in range(0, len(CONTENT), 500):
            handler.wfile.write(CONTENT[place : place + 500])
            time.sleep(0.01)

    server.script = [steady]
    assert get(retry=retry).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_connections_that_bring_a_byte_each_come_to_an_end(server, get):
    server.script = [cut_after(1)] * 100
    with pytest.raises(DownloadError, match="gave up after 2 attempts"):
        get(retry=RetryPolicy(attempts=2, short_connections=10))
    assert len(server.asked) < 15


def test_going_back_and_forth_comes_to_an_end(server, get):
    """Bytes that had been there before count for nothing: cut off, a wrong range, from the beginning, cut off, …"""
    server.script = [cut_after(7000), ranged("bytes 5-9/20000", b"xxxxx")] * 20
    with pytest.raises(DownloadError, match="gave up after 2 attempts"):
        get()
    assert len(server.asked) < 8


@pytest.mark.parametrize(
    "value",
    [
        "bytes 5-9/20000",
        "bytes 7000-19999/12",
        "bytes 7000-6000/20000",
        "bytes ²-9/20000",
        "bytes 7000-",
        "items 7000-19999/20000",
    ]
    + ["bytes 7000-19999/*x", f"bytes 7000-{'9' * 5000}/20000", None],
)
@pytest.mark.parametrize("known", KNOWN[2:])
def test_a_wrong_range(server, get, value, known):
    """Nothing is appended that does not say where it belongs."""
    server.script = [cut_after(7000), ranged(value, CONTENT[7000:])]
    assert get(**known).read_bytes() == CONTENT
    assert server.starts() == [0, 7000, 0]


def test_a_part_of_another_version(server, get):
    """A server that ignores If-Range and sends the rest of a changed file: told by its tag, or by its length."""
    for later, more in ((CONTENT[::-1], {"ETag": '"v2"'}), (CONTENT + b"more", {})):
        server.content, server.etag = CONTENT, '"v1"'
        body = later[7000:]
        server.script = [cut_after(7000), ranged(f"bytes 7000-{len(later) - 1}/{len(later)}", body, **more), sends_all(later)]
        assert get(sha256=None, size=None).read_bytes() == later
        get(sha256=None, size=None).unlink()


def sends_all(content):
    return answer(b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(content), body=content)


def test_a_range_that_is_not_asked_for(server, get):
    server.script = [ranged("bytes 0-19999/20000", CONTENT)]
    with pytest.raises(DownloadError, match="HTTP 206"):
        get()


@pytest.mark.parametrize("value", ["²", "-5", "1e4", "9" * 30, "20000, 20000", "0x4e20", "٣", "\x1b[31m"])
def test_a_content_length_that_is_no_number(server, get, value):
    server.script = [answer(b"HTTP/1.1 200 OK", b"Content-Length: " + value.encode("latin-1", "replace"), body=CONTENT)] * 2
    for known in KNOWN:
        with pytest.raises(DownloadError, match="Content-Length: expected a number") as caught:
            get(**known)
        server.script = [answer(b"HTTP/1.1 200 OK", b"Content-Length: " + value.encode("latin-1", "replace"), body=CONTENT)] * 2
        assert "\x1b" not in str(caught.value)


def test_a_length_that_is_a_lie(server, get, tmp_path, monkeypatch):
    """Larger than the disk: told before a byte is written; larger than the file: the connection ends early."""
    for length in (b"999999999999999999", b"20001"):
        server.script = [answer(b"HTTP/1.1 200 OK", b"Content-Length: " + length, body=CONTENT)] * 3
        with pytest.raises(DownloadError, match="GB are needed|gave up after 2 attempts"):
            get(sha256=None, size=None)
    for path in tmp_path.iterdir():
        path.unlink()


@pytest.mark.parametrize("value", ["²", "-1", "9" * 5000, "1e999", "nan", "Fri, 31 Dec 1999 23:59:59 GMT", "", "٣"])
def test_a_retry_after_that_is_no_number(server, get, value):
    """Our own waits then, which are bounded."""
    waits = []
    reply = answer(b"HTTP/1.1 503 Busy", b"Retry-After: " + value.encode("latin-1", "replace"), b"Content-Length: 0")
    server.script = [reply, reply]
    retry = RetryPolicy(attempts=3, longest_wait=5)
    assert get(retry=retry, sleep=waits.append).read_bytes() == CONTENT
    assert waits == [1.0, 2.0]


LOCATIONS = {
    "file:///etc/passwd": "only http:// and https:// are followed",
    "ftp://127.0.0.1/x": "only http:// and https:// are followed",
    "data:text/plain,x": "only http:// and https:// are followed",
    "javascript:alert(1)": "only http:// and https:// are followed",
    "http://[": "a redirect to",
    "http://[::1": "a redirect to",
    "http://": "has no host|a redirect to|loop",
    "http://127.0.0.1:port/": "is invalid",
    "http://127.0.0.1:99999/": "is invalid",
    "http://127.0.0.1:0/": "the address has no host",
    "http://user:word@127.0.0.1:9/": "gave up|is invalid|cannot be resolved",
    "http://" + "a" * 300 + "/": "is invalid|cannot be resolved|gave up",
    "http://a..b/": "is invalid|cannot be resolved|gave up",
    "": "a redirect without an address",
    "   ": "a redirect without an address",
}


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_redirect_that_leads_nowhere(server, get, location):
    server.script = [answer(b"HTTP/1.1 302 Found", b"Location: " + location.encode(), b"Content-Length: 0")] * 2
    with pytest.raises(DownloadError, match=LOCATIONS[location]):
        get()


def test_redirects_are_few_and_never_lead_out_of_tls(server, get):
    server.script = [status(302)]
    with pytest.raises(DownloadError, match="a redirect without an address"):
        get()
    numbers = count()
    server.script = [lambda *a: status(302, Location=f"/{next(numbers)}")(*a)] * 30
    with pytest.raises(DownloadError, match="HTTP 302: a redirect loop, or more than 10 redirects"):
        get()
    assert next(numbers) == 11
    with pytest.raises(DownloadError, match="from https to 'http://b/', which is not encrypted"):
        next_address("https://a/x", "http://b/")
    assert next_address("https://a/x/y?q", "//b/z") == "https://b/z"
    assert next_address("http://a/x/y", "../ü z?q=ü#f") == "http://a/%C3%BC%20z?q=%C3%BC"
    server.script = [answer("HTTP/1.1 302 Found\r\nLocation: /ä b".encode("latin-1"))]
    assert get().read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["x", "", "ftp://a/b", "data:,x", "http://", "http:///x", "http://[", "http://a:99999/", "//a/b"]
)
def test_an_address_of_no_use(get, server, url):
    """One error that quotes it, and the next address is tried."""
    with pytest.raises(DownloadError):
        checked(url)
    assert get(url, server.url).read_bytes() == CONTENT


def test_encodings_that_were_not_requested(server, get):
    """Nothing is unpacked on the way; where nothing is known of the file, it is refused."""
    bomb = gzip.compress(bytes(10**7))
    reply = answer(b"HTTP/1.1 200 OK", b"Content-Encoding: gzip", b"Content-Length: %d" % len(bomb), body=bomb)
    for known, says in zip(
        KNOWN, ("the server offers", "expected SHA-256", "the server offers", "encoded as 'gzip'"), strict=True
    ):
        server.script = [reply] * 2
        with pytest.raises(DownloadError, match=says):
            get(**known)
    server.script = [answer(b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip, chunked", body=b"5\r\nxxxxx\r\n0\r\n\r\n")] * 2
    with pytest.raises(DownloadError, match="a transfer coding that was not requested: 'gzip, chunked'"):
        get()


def test_good_chunks_and_no_length(server, get):
    """Chunks show their end; a connection that just ends does not, unless the length or the hash is known."""
    for known in KNOWN:
        server.script = [chunked]
        assert get(**known).read_bytes() == CONTENT
        get(**known).unlink()
    for known in KNOWN[:3]:
        server.script = [faults.sends(CONTENT)]
        assert get(**known).read_bytes() == CONTENT
        get(**known).unlink()
    server.script = [faults.sends(CONTENT)]
    with pytest.raises(DownloadError, match="a truncated file could not be detected"):
        get(sha256=None, size=None)


def test_words_of_a_server_are_printable(server, get):
    server.script = [answer(b"HTTP/1.1 404 \x1b[31mred\x9b" + b"x" * 1000)]
    with pytest.raises(DownloadError) as caught:
        get()
    assert "HTTP 404 \\x1b[31mred\\x9b" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_tag_that_could_not_be_sent_back(server, get):
    """Folded over two lines, or of other characters: not kept."""
    for tag in (b'"a\r\n b"', b'"\xff"', b'"' + b"x" * 5000 + b'"'):
        head = OK + b"ETag: " + tag + b"\r\nContent-Length: 20000\r\n\r\n"
        server.script, server.asked = [raw(head + CONTENT[:100])], []
        assert get().read_bytes() == CONTENT
        assert server.asked[1][1:] == (100, None)
        get().unlink()


@pytest.mark.parametrize(
    "noise", [b"", b"\r\n\r\n", b"HTTP/0.9\r\n", b"HTTP/1.1 2\xb200 OK\r\n\r\n", b"SSH-2.0-x\r\n", b"\x00" * 99, b"<html>"]
)
def test_an_answer_that_is_none(server, get, noise):
    server.script = [raw(noise)]
    assert get().read_bytes() == CONTENT
    get().unlink()
    server.script = [after(OK, raw(noise))] * 2
    with pytest.raises(DownloadError):
        get(size=None, sha256=None)


def test_free_disk_is_looked_at_while_writing(server, get, monkeypatch, tmp_path):
    """Others write too: with a known length what came is kept, of an endless body it is not."""
    usage, left = namedtuple("usage", "total used free"), [10**12, 10**9]

    def shrinking(_):
        return usage(10**12, 0, left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr(download.shutil, "disk_usage", shrinking)
    monkeypatch.setattr(download, "_CHECK_DISK_EVERY", 1000)
    monkeypatch.setattr(download, "_BLOCK", 1000)  # or one read could bring all, and the disk were looked at too seldom
    left[:] = [10**12, 10**12, 10**6]
    with pytest.raises(DownloadError, match=r"free; make room or use another disk; [0-9]+ bytes are kept"):
        get(retry=RetryPolicy(attempts=1))
    assert 0 < (tmp_path / "file.zip.part").stat().st_size <= 20_000
    left[:] = [10**12, 10**12, 10**6]
    server.script = [faults.endless_chunks]
    with pytest.raises(DownloadError, match="bytes of unknown length were received and deleted"):
        get(sha256=None, size=None)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(server, get, monkeypatch, tmp_path):
    """ENOSPC while writing is one error that says what to do."""
    real = os.write

    def full(number, data):
        if os.fstat(number).st_size >= 5000:
            raise OSError(28, "No space left on device")
        return real(number, data[:5000])

    monkeypatch.setattr(download.os, "write", full)
    with pytest.raises(DownloadError, match="No space left on device; .*5000 bytes are kept"):
        get()
    monkeypatch.undo()
    assert get().read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["file.zip.part", "file.zip.part.tag"])
@pytest.mark.parametrize("kind", ["link", "dangling", "hard", "fifo", "folder"])
def test_what_was_planted_is_not_touched(server, get, tmp_path, name, kind):
    """A link is not followed, a pipe not waited for; somebody's file keeps its bytes."""
    (tmp_path / "out").mkdir()
    theirs, place = tmp_path / "theirs", tmp_path / name
    theirs.write_bytes(b"mine")
    if kind == "link":
        place.symlink_to(theirs)
    elif kind == "dangling":
        place.symlink_to(tmp_path / "new")
    elif kind == "hard":
        place.hardlink_to(theirs)
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(DownloadError, match="expected a regular file of this download, got a link, a folder or a device"):
        get()
    assert theirs.read_bytes() == b"mine"
    assert not (tmp_path / "new").exists()
    assert os.path.lexists(place)
    assert not (tmp_path / "file.zip").exists()


def test_a_file_that_is_not_the_published_one_is_kept(server, get, tmp_path):
    """Under another name, each time; and what is no file at all is refused."""
    for k in (1, 2):
        (tmp_path / "file.zip").write_bytes(b"mine %d" % k)
        assert get().read_bytes() == CONTENT
        assert (tmp_path / f"file.zip.kept-{k}").read_bytes() == b"mine %d" % k
    (tmp_path / "file.zip").unlink()
    for make in (lambda path: path.mkdir(), os.mkfifo):
        make(tmp_path / "file.zip")
        with pytest.raises(DownloadError, match="expected a file, got a folder, a device or a pipe"):
            get()
        (tmp_path / "file.zip").rmdir() if (tmp_path / "file.zip").is_dir() else (tmp_path / "file.zip").unlink()


def test_a_sha256_in_any_case(server, get):
    """Upper-case digits are the same digits; what is no SHA-256 is refused before a byte is fetched."""
    assert get(sha256=SHA256.upper()).read_bytes() == CONTENT
    assert get(sha256=SHA256.upper()).read_bytes() == CONTENT
    asked = len(server.asked)
    for wrong in ("", SHA256[:-1], SHA256 + "0", "z" * 64, "٣" * 64):
        with pytest.raises(DownloadError, match="SHA-256: expected 64 hexadecimal digits"):
            get(sha256=wrong)
    assert len(server.asked) == asked


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"\n\n\n", b"x" * 10**6, b"a\nb\n\xb2"])
def test_a_tag_file_that_is_none(server, get, tmp_path, content):
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:500])
    (tmp_path / "file.zip.part.tag").write_bytes(content)
    assert get().read_bytes() == CONTENT
    assert server.starts() == [500]


def test_files_by_address(get, tmp_path):
    """Regular files of this machine only."""
    os.mkfifo(tmp_path / "pipe")
    for url, says in (
        ((tmp_path / "pipe").as_uri(), "expected a regular file"),
        (tmp_path.as_uri(), "expected a regular file"),
        ("file:///dev/zero", "expected a regular file"),
        ("file://elsewhere/x", "of this machine"),
        ("file:///a%00b", "cannot be read"),
    ):
        with pytest.raises(DownloadError, match=says):
            get(url)


HOLDER = "import sys, pathlib; from samdiff.pipeline.download.fetch import fetch; fetch([sys.argv[1]], pathlib.Path(sys.argv[2]), sha256=sys.argv[3])"


def test_two_processes_do_not_write_one_part(server, get, tmp_path):
    """The second waits for the first and takes its file; one that brings nothing is not waited for without end."""
    release = []

    def held(handler, outer, start):
        faults.headers(handler, outer, start)
        handler.wfile.write(CONTENT[:9000])
        while not release:
            time.sleep(0.01)
        handler.wfile.write(CONTENT[9000:])

    server.script = [held]
    other = subprocess.Popen([sys.executable, "-c", HOLDER, server.url, str(tmp_path / "file.zip"), SHA256])
    try:
        part, begun = tmp_path / "file.zip.part", time.monotonic()
        while not part.exists() or part.stat().st_size < 9000:
            assert other.poll() is None
            assert time.monotonic() - begun < 60
            time.sleep(0.01)
        with pytest.raises(BusyError, match="another process is downloading it and has received no data for"):
            get()
        assert get(sleep=lambda _: (release.append(1), time.sleep(0.05))).read_bytes() == CONTENT
        assert len(server.asked) == 1
    finally:
        release.append(1)
        status_of_other = other.wait(60)
    assert status_of_other == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]


def test_a_good_server_after_all(server, get):
    server.script = [whole]
    assert get().read_bytes() == CONTENT


def fuzz_answers(folder, seeds):
    """Counts of good files and errors; anything but these, or a file that does not fit what is known, is a fault."""
    server, counts = RawServer(), [0, 0]
    retry = RetryPolicy(attempts=2, stall=1, header=1, window=0.5, lowest_rate=1000, short_connections=4, most_bytes=10**6)
    try:
        for seed in seeds:
            rng, known = random.Random(seed), KNOWN[seed % 4]
            server.answer = lambda start, rng=rng: http_answer(rng, CONTENT, start)
            expected, begun = {"sha256": SHA256, "size": len(CONTENT), **known}, time.monotonic()
            try:
                path = fetch([server.url], folder / "file.zip", **expected, retry=retry, sleep=lambda _: None)
                if expected["sha256"]:
                    assert path.read_bytes() == CONTENT, seed
                if expected["size"]:
                    assert path.stat().st_size == len(CONTENT), seed
                counts[0] += 1
                says = ""
            except SamdiffError as error:
                says = str(error)
                counts[1] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
            assert printable(says) == says, seed
            assert len(says) < 1000, seed
            assert time.monotonic() - begun < 30, seed
            assert sum(item.stat().st_size for item in folder.iterdir()) <= 10**6 + 1000, seed
            for item in folder.iterdir():
                item.unlink()
    finally:
        server.listener.close()
    return counts


def test_fuzzed_answers(tmp_path):
    good, errors = fuzz_answers(tmp_path, range(200))
    assert good > 20
    assert errors > 50


@pytest.mark.slow
def test_many_fuzzed_answers(tmp_path):
    """Other seeds each time; the one of a failure is in its message."""
    first = random.SystemRandom().randrange(10**9)
    fuzz_answers(tmp_path, range(first, first + 3000))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_over_tls(server, get, tmp_path, monkeypatch):
    """A certificate that nobody vouches for is refused at once; limits hold behind a good one; redirects stay inside."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    plain, url = server.url, server.url.replace("http:", "https:")
    with pytest.raises(DownloadError, match="certificate is not trusted"):
        get(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server.script = [cut_after(5000), faults.slow_headers, status(302, Location="/b")]
    assert get(url, retry=replace(PATIENCE, attempts=3, header=0.5)).read_bytes() == CONTENT
    assert server.starts() == [0, 5000, 5000, 5000]
    get(url).unlink()
    server.script = [status(302, Location=plain)]
    with pytest.raises(
        DownloadError, match="HTTP 302: a redirect from https to 'http://127.0.0.1:[0-9]+/file.zip', which is not encrypted"
    ):
        get(url)
