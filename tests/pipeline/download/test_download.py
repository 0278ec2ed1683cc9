"""Downloads against a server on loopback that does everything wrong: each ends in the right bytes or in an error that says why."""

from collections import namedtuple

import numpy as np
import pytest

from samdiff.pipeline.download import fetch as download
from samdiff.pipeline.download.fetch import DownloadError, RetryPolicy, fetch

from ...helpers.faults import CONTENT, SHA256, Server, cut_after, ignores_ranges, page, sends, stalls_after, status, whole

PATIENCE = RetryPolicy(attempts=3, first_wait=1.0, longest_wait=8.0, stall=5.0)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def get(server, tmp_path, waits):
    """Fetch the server's file; what is known of it can be changed."""

    def go(*urls, **more):
        known = {"sha256": SHA256, "size": len(CONTENT), "retry": PATIENCE, "sleep": waits.append, **more}
        return fetch(urls or [server.url], tmp_path / "file.zip", **known)

    return go


def left_over(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("known", [{}, {"sha256": None}, {"size": None}, {"sha256": None, "size": None}])
def test_cut_off_many_times_in_one_run(server, get, tmp_path, waits, known):
    """Each connection resumes where the last one ended, whatever is known of the file; bytes make waits short again."""
    cuts = [0, 1, 2, 500, 4095, 4096, 4097, 1000]
    server.script = [cut_after(count) for count in cuts]
    assert get(**known).read_bytes() == CONTENT
    assert server.starts() == [0, *np.cumsum(cuts).tolist()]
    assert waits == [1.0] * len(cuts)
    assert left_over(tmp_path) == ["file.zip"]


def test_cut_off_anywhere_and_run_again(server, get, tmp_path):
    """At many offsets the process gives up; another one resumes from the kept bytes."""
    for offset in range(0, len(CONTENT), 997):
        server.script, server.asked = [cut_after(offset), status(503)], []
        with pytest.raises(DownloadError, match=f"{offset} bytes are kept, run it again"):
            get(retry=RetryPolicy(attempts=1))
        assert get().read_bytes() == CONTENT
        assert server.starts()[-1] == offset
        (tmp_path / "file.zip").unlink()


def test_a_server_that_ignores_ranges(server, get):
    """From the beginning, not appended."""
    server.script = [cut_after(7000), ignores_ranges]
    assert get().read_bytes() == CONTENT
    server.script = [cut_after(7000)] + [lambda *a: cut_after(100)(a[0], a[1], 0)] * 9
    with pytest.raises(DownloadError, match="gave up after 3 attempts"):
        get(sha256="0" * 64)


def test_a_server_that_sends_another_range(server, get):
    """Its word on where the bytes belong is checked."""
    server.script = [cut_after(7000), lambda handler, outer, start: whole(handler, outer, 5000)]
    assert get(sha256=None).read_bytes() == CONTENT
    assert server.starts() == [0, 7000, 0]


def test_a_file_that_changed_on_the_server(server, get, tmp_path):
    """The tag tells; without one, nothing is mixed where no hash could find it."""
    server.script = [cut_after(9000), status(503)]
    with pytest.raises(DownloadError):
        get(sha256=None, size=None, retry=RetryPolicy(attempts=1))
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert get(sha256=None, size=None).read_bytes() == CONTENT[::-1]
    (tmp_path / "file.zip").unlink()
    server.etag = ""
    server.script = [cut_after(9000)]
    assert get(sha256=None, size=None).read_bytes() == CONTENT[::-1]
    assert server.starts()[-1] == 0


def test_a_part_that_was_wrong_is_fetched_once_more(server, get, tmp_path):
    """A damaged part, or one of another file, is found by the hash; the whole file comes after it."""
    (tmp_path / "file.zip.part").write_bytes(b"x" * 5000)
    assert get().read_bytes() == CONTENT
    assert server.starts() == [5000, 0]


def test_wrong_length_wrong_hash_and_a_page(server, get, tmp_path):
    """Nothing wrong is ever put in place; the message says expected and got."""
    with pytest.raises(DownloadError, match=r"expected 12345 bytes, the server offers 20000$"):
        get(size=12345)
    with pytest.raises(DownloadError, match=f"expected SHA-256 {'0' * 64}, got {SHA256}; the download was deleted"):
        get(sha256="0" * 64)
    for known, says in (
        ({}, r"the server offers 41 \(an HTML page"),
        ({"size": None}, r"\(it is an HTML page\)"),
        ({"size": None, "sha256": None}, "sends an HTML page"),
    ):
        server.script = [page]
        with pytest.raises(DownloadError, match=says):
            get(**known)
    server.script = [sends(CONTENT + b"more")]
    with pytest.raises(DownloadError, match="more than the expected 20000 bytes"):
        get()
    server.script = [sends(CONTENT[:-1])] * 3
    with pytest.raises(DownloadError, match=r"gave up after 1 attempts \(the connection ended at byte 19999 of 20000\)"):
        get(size=20_000, sha256=None, retry=RetryPolicy(attempts=1))
    assert not (tmp_path / "file.zip").exists()
    server.script = []
    assert get().read_bytes() == CONTENT


def test_status_codes(server, get, waits):
    """404 is final; 429 and 503 are waited out as the server says or ever longer, up to a bound."""
    server.script = [status(404)]
    with pytest.raises(DownloadError, match="HTTP 404 Not Found"):
        get()
    assert len(server.asked) == 1
    server.script = [status(429, Retry_After="7"), status(503, Retry_After="3600")]
    assert get().read_bytes() == CONTENT
    assert waits == [7.0, 8.0]
    get().unlink()
    waits.clear()
    server.script = [status(503)] * 6
    with pytest.raises(DownloadError, match=r"gave up after 6 attempts \(HTTP 503 Service Unavailable\)"):
        get(retry=RetryPolicy(attempts=6, longest_wait=8))
    assert waits == [1, 2, 4, 8, 8]


def test_redirects(server, get):
    """Followed, also with a range; a circle ends."""
    server.script = [status(302, Location="/elsewhere"), cut_after(100), status(307, Location="/elsewhere")]
    assert get().read_bytes() == CONTENT
    assert [(path, start) for path, start, _ in server.asked] == [
        ("/file.zip", 0),
        ("/elsewhere", 0),
        ("/file.zip", 100),
        ("/elsewhere", 100),
    ]
    server.script = [status(302, Location="/file.zip")] * 30
    with pytest.raises(DownloadError, match="HTTP 302"):
        get(sha256="0" * 64)


def test_a_stall_is_given_up_and_gone_on_with(server, get):
    """What came before it is kept, down to the last byte."""
    server.script = [stalls_after(123), stalls_after(0), stalls_after(7)]
    assert get(retry=RetryPolicy(attempts=3, stall=0.1)).read_bytes() == CONTENT
    assert server.starts() == [0, 123, 123, 130]


def test_nobody_answers(server, get, waits):
    """A closed port is tried again, an unknown host is not."""
    with pytest.raises(DownloadError, match="gave up after 3 attempts.*refused"):
        get("http://127.0.0.1:9/file.zip")
    assert waits == [1.0, 2.0]
    with pytest.raises(DownloadError, match="127.0.0.1:9.*; http"):
        get("http://127.0.0.1:9/file.zip", server.url + "x", sha256="0" * 64)


def test_a_mirror_goes_on_with_the_part(server, get, tmp_path):
    """Where the hash is known; where it is not, the mirror starts anew."""
    first, second = server.url, server.url + "?mirror"
    for known, start in (({}, 6000), ({"sha256": None}, 0)):
        server.script, server.asked = [cut_after(6000), status(404)], []
        assert get(first, second, **known).read_bytes() == CONTENT
        assert server.asked[-1] == ("/file.zip?mirror", start, None)
        (tmp_path / "file.zip").unlink()


def test_a_whole_part_and_a_finished_file_need_nothing_more(server, get, tmp_path):
    """Killed between the last byte and the renaming; and run again when done."""
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    server.script = [status(416)]
    assert get().read_bytes() == CONTENT
    asked = len(server.asked)
    assert get().read_bytes() == CONTENT
    assert len(server.asked) == asked
    (tmp_path / "file.zip").write_bytes(b"something else")
    assert get().read_bytes() == CONTENT


def test_files_as_addresses(get, tmp_path):
    """`file://`, there or not."""
    source = tmp_path / "a b.zip"
    source.write_bytes(CONTENT)
    assert get((tmp_path / "none.zip").as_uri(), source.as_uri()).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="there is no such file"):
        get((tmp_path / "none.zip").as_uri(), sha256="0" * 64)


def test_the_disk_is_looked_at_first(server, get, monkeypatch, tmp_path):
    """Before the first byte is written."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(DownloadError, match=r"0.00 GB are needed in .*, 0.00 GB are free; make room"):
        get()
    assert not (tmp_path / "file.zip.part").exists()
