"""Length, range and validators of a file from the headers of an HTTP response, which are untrusted. Pure."""

from __future__ import annotations

import re

from .transport import DownloadError, Headers, RetryRequest, brief


def body_length(headers: Headers) -> int | None:
    """Length of the body in bytes; None: it is sent in chunks, or until the connection ends.

    Raises:
        RetryRequest: an invalid Content-Length, or a transfer coding that was not requested.
    """
    coding = (headers.get("Transfer-Encoding") or "").strip().lower()
    if coding not in ("", "identity", "chunked"):
        raise RetryRequest(f"a transfer coding that was not requested: {brief(coding)!r}")
    text = headers.get("Content-Length")
    if text is None or coding == "chunked":
        return None
    length = parse_count(text.strip())
    if length is None:
        raise RetryRequest(f"Content-Length: expected a number, got {brief(text)!r}")
    return length


def file_length(headers: Headers, start: int, length: int | None) -> int | None:
    """Length of the whole file, from the Content-Range of a response to `Range: bytes=START-`; None: not reported.

    Args:
        headers: of a response with status 206.
        start: first byte that was requested.
        length: of the body, in bytes; None: unknown.

    Raises:
        RetryRequest: another range, or a contradiction.
    """
    text = headers.get("Content-Range") or ""
    match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", text.strip())
    first, last = (int(match[1]), int(match[2])) if match else (-1, -1)
    total = parse_count(match[3]) if match else None
    if first == start <= last and length in (None, last - first + 1) and (total is None or last < total):
        return total
    raise RetryRequest(f"requested bytes from {start}, the server sends {brief(text)!r}; downloading from the beginning")


def check_unverified(headers: Headers, total: int | None) -> None:
    """Check a response whose length and SHA-256 we do not know: no HTML page, not compressed, and with a detectable end.

    Raises:
        DownloadError: a check failed.
    """
    if "text/html" in (headers.get("Content-Type") or ""):
        raise DownloadError("the server sends an HTML page (a login or error page?) in place of the file")
    coding = (headers.get("Content-Encoding") or "identity").strip().lower()
    if coding != "identity":
        raise DownloadError(f"the server sends the file encoded as {brief(coding)!r}, which was not requested")
    if total is None and (headers.get("Transfer-Encoding") or "").strip().lower() != "chunked":
        raise DownloadError(
            "neither its length nor its SHA-256 is known, and the server reports none: a truncated file could not be detected"
        )


def validator_of(headers: Headers) -> str:
    """The strong ETag, else Last-Modified, which change with the file; empty: neither can be used."""
    etag = (headers.get("ETag") or "").strip()
    validator = etag if etag and is_validator(etag) else (headers.get("Last-Modified") or "").strip()
    return validator if is_validator(validator) else ""


def length_mismatch(headers: Headers, total: int, size: int) -> str:
    """The error message for a file of `total` bytes where `size` are expected."""
    html = "text/html" in (headers.get("Content-Type") or "")
    page = " (an HTML page: a login or error page in place of the file?)" if html else ""
    return f"expected {size} bytes, the server offers {total}{page}"


def is_validator(text: str) -> bool:
    """Whether a value can be stored in a line and sent in If-Range: printable ASCII, and no weak ETag."""
    return re.fullmatch(r"[\x20-\x7e]{0,200}", text) is not None and not text.startswith("W/")


def parse_count(text: str | None) -> int | None:
    """A non-negative integer below 10^18 in plain digits; None for anything else."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else None
