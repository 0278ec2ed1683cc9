"""What the headers of an answer say of a file; nothing in them is believed before it has been checked. Pure."""

from __future__ import annotations

import re
from typing import Any

from .transport import Again, DownloadError, brief


def length_of(headers: Any) -> int | None:
    """Bytes of this answer's body; None: it is sent in chunks, or until the connection ends."""
    coding = (headers.get("Transfer-Encoding") or "").strip().lower()
    if coding not in ("", "identity", "chunked"):
        raise Again(f"a transfer coding that was not requested: {brief(coding)!r}")
    text = headers.get("Content-Length")
    if text is None or coding == "chunked":
        return None
    length = number_of(text.strip())
    if length is None:
        raise Again(f"Content-Length: expected a number, got {brief(text)!r}")
    return length


def total_of(headers: Any, start: int, length: int | None) -> int | None:
    """The whole file's length by the Content-Range of an answer to `Range: bytes=START-`; None: not told.

    Raises:
        Again: it is another range, or contradicts itself.
    """
    text = headers.get("Content-Range") or ""
    found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", text.strip())
    first, last = (int(found[1]), int(found[2])) if found else (-1, -1)
    total = number_of(found[3]) if found else None
    if first == start <= last and length in (None, last - first + 1) and (total is None or last < total):
        return total
    raise Again(f"requested bytes from {start}, the server sends {brief(text)!r}; from the beginning")


def check_unknown(headers: Any, total: int | None) -> None:
    """Where we know nothing of the file, the answer itself must show that it is one, and when it is whole."""
    if "text/html" in (headers.get("Content-Type") or ""):
        raise DownloadError("the server sends an HTML page (a login or error page?) in place of the file")
    coding = (headers.get("Content-Encoding") or "identity").strip().lower()
    if coding != "identity":
        raise DownloadError(f"the server sends the file encoded as {brief(coding)!r}, which was not requested")
    if total is None and (headers.get("Transfer-Encoding") or "").strip().lower() != "chunked":
        raise DownloadError("neither its length nor its SHA-256 is known, and the server names none: its end cannot be told")


def mark_of(headers: Any) -> str:
    """What a change of the file would show by."""
    etag = (headers.get("ETag") or "").strip()
    mark = etag if etag and is_mark(etag) else (headers.get("Last-Modified") or "").strip()
    return mark if is_mark(mark) else ""


def wrong_length(headers: Any, total: int, size: int) -> str:
    """The message of a length that is not the expected one."""
    page = " (an HTML page: a login or error page in place of the file?)"
    return (
        f"expected {size} bytes, the server offers {total}{page if 'text/html' in (headers.get('Content-Type') or '') else ''}"
    )


def is_mark(text: str) -> bool:
    """Whether an ETag or a date can be kept in a line and sent back in a header."""
    return re.fullmatch(r"[\x20-\x7e]{0,200}", text) is not None and not text.startswith("W/")


def number_of(text: str | None) -> int | None:
    """A count in plain digits, below 10^18; None for anything else."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else None
