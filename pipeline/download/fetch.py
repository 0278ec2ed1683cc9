"""Downloads that resume by byte range, retry after failures, and are moved into place only when complete and verified.

The partial file lies beside its target as `NAME.part`, with `NAME.part.tag` (its address, ETag and length): the next run resumes it, and
a file that changed on the server is downloaded from the beginning. Where the SHA-256 is known, a mirror can resume the partial file too.
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
from io import BufferedReader
from pathlib import Path

from ...runtime import progress
from .part_file import PartFile, Tag
from .response_headers import body_length, check_unverified, file_length, length_mismatch, parse_count, validator_of
from .timed_http import RetryPolicy, Watch
from .transport import DownloadError, Response, RetryRequest, brief, network_error, open_url

__all__ = ["DownloadError", "RetryPolicy", "check_disk", "fetch"]

log = logging.getLogger(__name__)

_BLOCK = 1 << 18
_SPARE = 64 * 2**20  # bytes that stay free on the disk
_CHECK_DISK_EVERY = 16 * 2**20  # bytes between two checks of the free disk space


@dataclass(frozen=True)
class _Expected:
    """What is known of the content; None: unknown."""

    sha256: str | None
    size: int | None


@dataclass(frozen=True)
class _Job:
    """One download: its partial file, what is known of the content, and how long to retry."""

    part: PartFile
    expected: _Expected
    retry: RetryPolicy
    sleep: Callable[[float], object]


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    retry: RetryPolicy | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Path:
    """Download a file from the first address that delivers it; returns `target`.

    Args:
        urls: `http://`, `https://` or `file://` addresses of the same content, tried in order.
        target: path of the file; its folder exists. An existing file is kept if `sha256` and `size` match. Otherwise it is renamed to
            `NAME.kept-1` once the download is complete.
        sha256: of the whole file, hexadecimal; None: only the length is checked, and a warning is logged.
        size: bytes; None: as the server reports.
        retry: number of attempts, timeouts and lowest rate; None: the defaults.
        sleep: called with seconds between attempts; tests replace it.

    Raises:
        DownloadError: every address failed; the message has the reason for each.
        BusyError: another process is downloading this file and receives no data.
    """
    retry = retry or RetryPolicy()
    expected = _Expected(checked_sha256(sha256), size)
    if _is_here(target, expected):
        return target
    if sha256 is None:
        log.warning("%s: no SHA-256 is published for it; only its length is checked", target.name)
    failures = []
    with PartFile(target, retry, sleep) as part:
        if part.waited and _is_here(target, expected):
            return target
        job = _Job(part, expected=expected, retry=retry, sleep=sleep)
        for url in urls:
            try:
                _complete(job, url)
                part.finish()
                return target
            except DownloadError as error:
                failures.append(f"{brief(url)}: {error}")
    raise DownloadError("; ".join(failures) or "no address is known")


def checked_sha256(text: str | None) -> str | None:
    """A SHA-256 in lower case; None stays None.

    Raises:
        DownloadError: not 64 hexadecimal digits.
    """
    if text is None or re.fullmatch("[0-9a-fA-F]{64}", text):
        return text and text.lower()
    raise DownloadError(f"SHA-256: expected 64 hexadecimal digits, got {brief(text)!r}")


def _is_here(target: Path, expected: _Expected) -> bool:
    """Whether the expected file exists already."""
    if not os.path.lexists(target):
        return False
    problem: str | None = "a dangling link"
    if target.exists():
        if not stat.S_ISREG(target.stat().st_mode):
            raise DownloadError(f"{target}: expected a file, got a folder, a device or a pipe; move it away")
        with open(target, "rb") as file:
            problem = _misfit(file, expected)
    if problem is not None:
        log.warning("%s: %s; downloading it again", target, problem)
    return problem is None


def _complete(job: _Job, url: str) -> None:
    """Download and verify. If a resumed partial file fails verification, download once more from the beginning."""
    part = job.part
    for resumed in (part.size > 0, False):
        _download(job, url)
        with part.reader() as file:
            problem = _misfit(file, job.expected)
        if problem is None:
            return
        part.discard()
        if not resumed:
            break
        log.warning("%s: %s after a partial file was resumed; downloading from the beginning", brief(url), problem)
    raise DownloadError(f"{problem}; the download was deleted")


def _download(job: _Job, url: str) -> None:
    """Resume the partial file until it is complete. The attempts left are reset when the download passes its furthest byte so far."""
    part, retry = job.part, job.retry
    wait, left, furthest, short = retry.first_wait, retry.attempts, part.size, 0
    while True:
        try:
            _attempt(job, url)
            return
        except RetryRequest as failure:
            gained, furthest = part.size - furthest, max(part.size, furthest)
            short = 0 if gained >= retry.window_bytes else short + 1
            if short == 0 or (gained > 0 and short <= retry.short_connections and not failure.slow):
                left, wait = retry.attempts, retry.first_wait
            else:
                left -= 1
            if left <= 0:
                raise DownloadError(
                    f"gave up after {retry.attempts} attempts ({failure}); {part.size} bytes are kept, run it again"
                ) from failure
            pause = min(failure.wait if failure.wait is not None else wait, retry.longest_wait)
            log.warning("%s: %s", brief(url), f"{failure}; retrying in {pause:.0f} s from byte {part.size}")
            job.sleep(pause)
            wait *= 2


def _attempt(job: _Job, url: str) -> None:
    """One connection: append to the partial file until the end.

    Raises:
        RetryRequest: it ended early.
    """
    part, expected = job.part, job.expected
    tag = part.tag() if part.size else Tag()
    tag = tag if tag.url == url else Tag()  # an ETag is valid for its own server only
    too_long = expected.size is not None and part.size > expected.size
    if too_long or (not tag.validator and expected.sha256 is None):  # a mix of two versions could not be detected
        part.discard()
    headers = {"User-Agent": "samdiff", "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if tag.validator:
            headers["If-Range"] = tag.validator
    watch = Watch(job.retry)
    try:
        with open_url(url, headers, watch=watch) as response:
            if not _is_complete(response, part, expected):
                _check_status(response, part)
                _receive(response, job, total=_start(response, job, tag=tag, url=url), watch=watch)
    except (DownloadError, RetryRequest):
        raise
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        raise network_error(error) from error


def _is_complete(response: Response, part: PartFile, expected: _Expected) -> bool:
    """Whether the server has no bytes beyond the partial file."""
    if response.status != 416 or not part.size:
        return False
    reported = parse_count((response.headers.get("Content-Range") or "").strip().removeprefix("bytes */"))
    return part.size == (reported if expected.size is None else expected.size)


def _check_status(response: Response, part: PartFile) -> None:
    reason = f"HTTP {response.status} {brief(response.reason)}".rstrip()
    if response.status == 416 and part.size:
        part.discard()
        raise RetryRequest("the server rejects this range; downloading from the beginning")
    if response.status == 429 or response.status >= 500:
        wait = parse_count((response.headers.get("Retry-After") or "").strip())
        raise RetryRequest(reason, wait=None if wait is None else float(wait))
    if response.status != 200 and not (response.status == 206 and part.size):
        raise DownloadError(reason)


def _start(response: Response, job: _Job, *, tag: Tag, url: str) -> int | None:
    """Check the headers, and empty the partial file if the body is the whole file; returns the file's length, None if not reported."""
    headers, part, expected = response.headers, job.part, job.expected
    total, validator = body_length(headers), validator_of(headers)
    if response.status == 206:
        try:
            total = file_length(headers, part.size, total)
            if (tag.validator and validator and validator != tag.validator) or (
                tag.total is not None and total not in (None, tag.total)
            ):
                raise RetryRequest("the file changed on the server; downloading from the beginning")
        except RetryRequest:
            part.discard()
            raise
    if expected.size is not None and total is not None and total != expected.size:
        raise DownloadError(length_mismatch(headers, total, expected.size))
    if expected == _Expected(None, None):
        check_unverified(headers, total)
    if response.status == 200:  # also where the server ignores ranges, or the file changed
        part.discard()
        part.note(Tag(url, validator, total))
    check_disk(part.path.parent, (expected.size or total or 0) - part.size)
    return total


def _receive(response: Response, job: _Job, *, total: int | None, watch: Watch) -> None:
    """Append the body to the partial file."""
    part = job.part
    total = job.expected.size if job.expected.size is not None else total
    limit = total if total is not None else job.retry.most_bytes
    have, checked = part.size, part.size
    watch.begin_body()
    with progress(desc=part.target.name, total=total, initial=have, unit="B", unit_scale=True) as bar:
        while block := response.read(_BLOCK):  # returns what has arrived, so that a stall loses no bytes
            watch.count(len(block))
            have += len(block)
            if have > limit:
                part.discard()
                raise DownloadError(f"received more than the {'expected' if total is not None else 'allowed'} {limit} bytes")
            part.append(block)
            bar.update(len(block))
            if have - checked >= _CHECK_DISK_EVERY:
                checked = have
                _check_remaining(part, total)
            if have == total:
                break  # a faulty server may send more, without end
    if total is not None and have < total:
        raise RetryRequest(f"the connection ended at byte {have} of {total}")


def _check_remaining(part: PartFile, total: int | None) -> None:
    """Check free disk space while writing: other processes write too, and a body without a length may be endless."""
    try:
        check_disk(part.path.parent, 0 if total is None else total - part.size)
    except DownloadError as error:
        kept = f"{part.size} bytes are kept"
        if total is None:
            kept = f"{part.size} bytes of unknown length were received and deleted"
            part.discard()
        raise DownloadError(f"{error}; {kept}") from error


def _misfit(file: BufferedReader, expected: _Expected) -> str | None:
    """Why a file, open at its start, is not the expected one; None: it is."""
    size = os.fstat(file.fileno()).st_size
    if expected.size is not None and size != expected.size:
        return f"expected {expected.size} bytes, got {size}"
    if expected.sha256 is not None:
        start = file.read(512).lstrip().lower()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != expected.sha256:
            page = " (it is an HTML page)" if start.startswith((b"<!doctype html", b"<html")) else ""
            return f"expected SHA-256 {expected.sha256}, got {digest}{page}"
    return None


def check_disk(folder: Path, needed: int) -> None:
    """Check the free disk space of a folder.

    Args:
        folder: existing.
        needed: bytes; 64 MiB more must be free.

    Raises:
        DownloadError: too little is free.
    """
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise DownloadError(
            f"{needed / 1e9:.2f} GB are needed in {folder}, {free / 1e9:.2f} GB are free; make room or use another disk"
        )
