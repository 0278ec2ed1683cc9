"""Downloads that survive: resumed by byte range, retried, checked, and moved into place only when whole.

The part lies beside its target as `NAME.part` with `NAME.part.tag` (the address, and what the server said of the file), so another run
resumes it, and a file that changed on the server begins anew. Where the SHA-256 is known, another mirror resumes the part as well.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime import progress
from .answers import check_unknown, length_of, mark_of, number_of, total_of, wrong_length
from .part_file import PartFile, Tag
from .timed_http import RetryPolicy, Watch
from .transport import Again, Answer, DownloadError, answer_of, brief, explained

__all__ = ["DownloadError", "RetryPolicy", "check_disk", "fetch"]

log = logging.getLogger(__name__)

_BLOCK = 1 << 18
_SPARE = 64 * 2**20  # bytes of free disk beyond the file itself
_LOOK_AGAIN = 16 * 2**20  # bytes after which free disk is looked at once more


@dataclass(frozen=True)
class _Expected:
    """What is known of the file."""

    sha256: str | None
    size: int | None


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    patience: RetryPolicy | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> Path:
    """Fetch a file from the first address that gives it; returns `target`.

    Args:
        urls: `http://`, `https://` or `file://` addresses of the same content, tried in order.
        target: where the file goes; its folder exists. A file that is there already is taken if it fits `sha256` and `size`; if not,
            it is kept under another name (`NAME.kept-1`) when the right one is whole.
        sha256: of the whole file, hexadecimal; None: only the length is checked, which is logged.
        size: bytes; None: as the server says.
        patience: how long to try.
        sleep: injectable clock.

    Raises:
        DownloadError: every address failed; one line for each says expected, got and what was done.
        BusyError: another process is downloading it and does not proceed.
    """
    patience = patience or RetryPolicy()
    expected = _Expected(checked_sha256(sha256), size)
    if _is_here(target, expected):
        return target
    if sha256 is None:
        log.warning("%s: no SHA-256 is published for it; only its length is checked", target.name)
    failures = []
    with PartFile(target, patience, sleep) as part:
        if part.waited and _is_here(target, expected):
            return target
        for url in urls:
            try:
                _complete(url, part, expected, patience, sleep)
                part.finish()
                return target
            except DownloadError as error:
                failures.append(f"{brief(url)}: {error}")
    raise DownloadError("; ".join(failures) or "no address is known")


def checked_sha256(text: str | None) -> str | None:
    """A SHA-256 in lower case.

    Raises:
        DownloadError: it is none.
    """
    if text is None or re.fullmatch("[0-9a-fA-F]{64}", text):
        return text and text.lower()
    raise DownloadError(f"SHA-256: expected 64 hexadecimal digits, got {brief(text)!r}")


def _is_here(target: Path, expected: _Expected) -> bool:
    """Whether the right file lies there already."""
    if not os.path.lexists(target):
        return False
    problem: str | None = "a link to nothing"
    if target.exists():
        if not stat.S_ISREG(target.stat().st_mode):
            raise DownloadError(f"{target}: expected a file, got a folder, a device or a pipe; move it away")
        with open(target, "rb") as file:
            problem = _misfit(file, expected)
    if problem is not None:
        log.warning("%s: %s; it is fetched again", target, problem)
    return problem is None


def _complete(url: str, part: PartFile, expected: _Expected, patience: RetryPolicy, sleep: Callable[[float], Any]) -> None:
    """Make the part whole and right; a part of unknown history may be what is wrong: then once more from the beginning."""
    for resumed in (part.size > 0, False):
        _fetch_from(url, part, expected, patience, sleep)
        with part.reader() as file:
            problem = _misfit(file, expected)
        if problem is None:
            return
        part.discard()
        if not resumed:
            break
        log.warning("%s: %s after a part was resumed; once more from the beginning", brief(url), problem)
    raise DownloadError(f"{problem}; the download was deleted")


def _fetch_from(url: str, part: PartFile, expected: _Expected, patience: RetryPolicy, sleep: Callable[[float], Any]) -> None:
    """Resume the part until it is whole. Attempts are counted anew by bytes beyond the furthest point that was ever reached."""
    wait, left, furthest, short = patience.first_wait, patience.attempts, part.size, 0
    while True:
        try:
            _attempt(url, part, expected, patience)
            return
        except Again as again:
            gained, furthest = part.size - furthest, max(part.size, furthest)
            short = 0 if gained >= patience.window_bytes else short + 1
            if short == 0 or (gained > 0 and short <= patience.short_connections and not again.slow):
                left, wait = patience.attempts, patience.first_wait
            else:
                left -= 1
            if left <= 0:
                raise DownloadError(
                    f"gave up after {patience.attempts} attempts ({again}); {part.size} bytes are kept, run it again"
                ) from again
            pause = min(again.wait if again.wait is not None else wait, patience.longest_wait)
            log.warning("%s: %s; again in %.0f s from byte %d", brief(url), again, pause, part.size)
            sleep(pause)
            wait *= 2


def _attempt(url: str, part: PartFile, expected: _Expected, patience: RetryPolicy) -> None:
    """One connection: append to the part until the end. `Again` if it ended early."""
    tag = part.tag() if part.size else Tag()
    tag = tag if tag.url == url else Tag()  # another server's tag means nothing here
    too_long = expected.size is not None and part.size > expected.size
    if too_long or (not tag.mark and expected.sha256 is None):  # nothing could tell a mixture from the file
        part.discard()
    headers = {"User-Agent": "samdiff", "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if tag.mark:
            headers["If-Range"] = tag.mark
    watch = Watch(patience)
    try:
        with answer_of(url, headers, patience, watch) as answer:
            if not _is_whole(answer, part, expected):
                _check_status(answer, part)
                total = _begin(answer, url, part, tag, expected)
                _receive(answer, part, total, expected, watch)
    except (DownloadError, Again):
        raise
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        raise explained(error) from error


def _is_whole(answer: Answer, part: PartFile, expected: _Expected) -> bool:
    """Whether the server has nothing beyond the part."""
    if answer.status != 416 or not part.size:
        return False
    told = number_of((answer.headers.get("Content-Range") or "").strip().removeprefix("bytes */"))
    return part.size == (told if expected.size is None else expected.size)


def _check_status(answer: Answer, part: PartFile) -> None:
    reason = f"HTTP {answer.status} {brief(answer.reason)}".rstrip()
    if answer.status == 416 and part.size:
        part.discard()
        raise Again("the server does not know this range; from the beginning")
    if answer.status == 429 or answer.status >= 500:
        wait = number_of((answer.headers.get("Retry-After") or "").strip())
        raise Again(reason, None if wait is None else float(wait))
    if answer.status != 200 and not (answer.status == 206 and part.size):
        raise DownloadError(reason)


def _begin(answer: Answer, url: str, part: PartFile, tag: Tag, expected: _Expected) -> int | None:
    """Where the answer's bytes belong: checks the headers, empties the part where it must; returns the whole file's length if told."""
    headers = answer.headers
    total, mark = length_of(headers), mark_of(headers)
    if answer.status == 206:
        try:
            total = total_of(headers, part.size, total)
            if (tag.mark and mark and mark != tag.mark) or (tag.total is not None and total not in (None, tag.total)):
                raise Again("the file changed on the server; from the beginning")
        except Again:
            part.discard()
            raise
    if expected.size is not None and total is not None and total != expected.size:
        raise DownloadError(wrong_length(headers, total, expected.size))
    if expected == _Expected(None, None):
        check_unknown(headers, total)
    if answer.status == 200:  # also where ranges are ignored, or the file changed
        part.discard()
        part.note(Tag(url, mark, total))
    check_disk(part.path.parent, (expected.size or total or 0) - part.size)
    return total


def _receive(answer: Answer, part: PartFile, total: int | None, expected: _Expected, watch: Watch) -> None:
    whole = expected.size if expected.size is not None else total
    limit = whole if whole is not None else watch.patience.most_bytes
    have, looked = part.size, part.size
    watch.begin_body()
    with progress(desc=part.target.name, total=whole, initial=have, unit="B", unit_scale=True) as bar:
        while block := answer.read(_BLOCK):  # what there is: a stall loses nothing that came before it
            watch.count(len(block))
            have += len(block)
            if have > limit:
                part.discard()
                raise DownloadError(f"more than the {'expected' if whole is not None else 'allowed'} {limit} bytes came")
            part.append(block)
            bar.update(len(block))
            if have - looked >= _LOOK_AGAIN:
                looked = have
                _check_left(part, whole)
            if have == whole:
                break  # whatever may follow, even without end
    if whole is not None and have < whole:
        raise Again(f"the connection ended at byte {have} of {whole}")


def _check_left(part: PartFile, whole: int | None) -> None:
    """Free disk while writing: others write too, and a body without a length may have no end."""
    try:
        check_disk(part.path.parent, 0 if whole is None else whole - part.size)
    except DownloadError as error:
        kept = f"{part.size} bytes are kept"
        if whole is None:
            kept = f"{part.size} bytes of unknown length came and were deleted"
            part.discard()
        raise DownloadError(f"{error}; {kept}") from error


def _misfit(file: Any, expected: _Expected) -> str | None:
    """What is wrong with a file that is open at its start, None if nothing is."""
    found = os.fstat(file.fileno()).st_size
    if expected.size is not None and found != expected.size:
        return f"expected {expected.size} bytes, got {found}"
    if expected.sha256 is not None:
        start = file.read(512).lstrip().lower()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != expected.sha256:
            page = " (it is an HTML page)" if start.startswith((b"<!doctype html", b"<html")) else ""
            return f"expected SHA-256 {expected.sha256}, got {digest}{page}"
    return None


def check_disk(folder: Path, needed: int) -> None:
    """Raises DownloadError if so many bytes and a little more are not free."""
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise DownloadError(
            f"{needed / 1e9:.2f} GB are needed in {folder}, {free / 1e9:.2f} GB are free; make room or use another disk"
        )
