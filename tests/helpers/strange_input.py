"""Seeded makers of hostile input: JSON files of masks, and answers of an HTTP server. One seed, one input."""

import json
import random

STRANGE = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**400), 0.5, -0.0, 1e30, 1e300, float("nan"), float("inf"),
    -float("inf"), "", "x", "\ud800", "\ufeff", "\x1b[31m", "\x00", "²", [], {}, [[]], [1, 2], [1.5, 2], ["a", "b"], {"size": 1}, [None] * 4,
    [2**40] * 4, [-1] * 4, [float("nan")] * 4, [0.0, 0.0, 32.0, 24.0], [[1, 2], [3]], [[float("inf"), 1]], "9" * 5000, "a" * 10_000,
]  # fmt: skip
KEYS = ("segmentation", "predicted_iou", "stability_score", "point_coords", "crop_box", "area", "bbox", "id", "\ud800")


def mask_json(rng: random.Random, good: dict) -> bytes:
    """A file for `--import-masks`, made of a good record: values replaced, text damaged, or another shape altogether."""
    kind = rng.randrange(8)
    if kind == 0:
        depth = rng.choice([10, 500, 900, 1000, 5000, 100_000])
        text = rng.choice(["[" * depth, "[" * depth + "]" * depth, '{"masks":' * depth, '{"a":' * depth + "1" + "}" * depth])
        if rng.random() < 0.5:
            text = json.dumps([{**good, "x": "HERE"}]).replace('"HERE"', text)
        return text.encode()
    record = json.loads(json.dumps(good))
    for _ in range(rng.randrange(4)):
        place = rng.choice([record, record, record["segmentation"]]) if isinstance(record.get("segmentation"), dict) else record
        key = rng.choice(KEYS) if place is record else rng.choice(["size", "counts", "size"])
        place[key] = rng.choice(STRANGE)
        if key == "size" and rng.random() < 0.7:
            place[key] = [
                rng.choice([0, 1, 24, 25, 32, 65_535, 2**31, 2**40, -1, 24.0, "24", True])
                for _ in range(rng.choice([2, 2, 2, 3]))
            ]
        if key == "counts" and rng.random() < 0.7:
            place[key] = [rng.choice([0, 1, 5, 24, 768, 2**32, 2**63, -5, 1.5]) for _ in range(rng.randrange(6))]
    count = rng.choice([0, 1, 1, 2, 5])
    shape = rng.choice(
        [
            [record] * count,
            {"masks": [record] * count},
            {"annotations": [record] * count},
            {"masks": rng.choice(STRANGE)},
            rng.choice(STRANGE),
        ]
    )
    data = json.dumps(shape).encode()
    if kind == 1:
        data = rng.choice([b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00"]) + data
    elif kind == 2:
        data = json.dumps(shape).encode(rng.choice(["utf-16", "utf-32", "utf-16-le", "utf-8-sig"]), "surrogatepass")
    elif kind == 3 and data:
        place = rng.randrange(len(data))
        data = (
            data[:place]
            + rng.choice([b"", b"\xff", b"\x00", b"]", b'"', b"9" * 5000, b"1e999", b"NaN", b"\\ud800"])
            + data[place + rng.randrange(3) :]
        )
    elif kind == 4:
        data = data[: rng.randrange(len(data) + 1)]
    return data


_STATUS = [b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial", b"HTTP/1.0 200 OK", b"HTTP/1.1 302 Found", b"HTTP/1.1 308 x", b"HTTP/1.1 416 x",
    b"HTTP/1.1 503 Busy", b"HTTP/1.1 429 \x1b[31m", b"HTTP/1.1 404 \x9b", b"HTTP/1.1 204 None", b"HTTP/1.1 103 Early", b"HTTP/1.1 100 Continue",
    b"HTTP/2 200", b"HTTP/1.1 2\xb20 OK", b"HTTP/1.1", b"ICY 200 OK", b"", b"HTTP/1.1 999 x", b"HTTP/1.1 -200 x", b"HTTP/1.1 304 x"]  # fmt: skip
_VALUES = [b"", b"0", b"-1", b"1e3", b"\xb2", b"9" * 18, b"9" * 5000, b"20000", b"20000, 20000", b"\x1b[31m", b"\xff\xfe", b"a\r\n b", b" ", b"x" * 70_000,
    b"chunked", b"gzip", b"gzip, chunked", b"identity", b"text/html", b"bytes */20000", b"bytes 0-19999/20000", b"bytes 5-3/1", b"bytes */*",
    b"file:///etc/passwd", b"/again", b"http://[", b"http://127.0.0.1:0/", b"https://127.0.0.1:1/", b"//", b"?x", b"http://127.0.0.1:port/", b'W/"x"', b'"v"']  # fmt: skip
_NAMES = [b"Content-Length", b"Content-Range", b"Transfer-Encoding", b"Content-Encoding", b"Location", b"Retry-After", b"ETag", b"Last-Modified",
    b"Content-Type", b"Connection", b"X", b"", b"\xff", b"Set-Cookie", b":", b"Content-Length "]  # fmt: skip


def http_answer(rng: random.Random, content: bytes, start: int) -> bytes:
    """What a server sends, then closes: headers of all kinds, bodies whole, cut, changed, longer, or in (bad) chunks."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(300))
    status = rng.choice(_STATUS) if rng.random() < 0.6 else rng.choice([b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial"])
    lines = [status]
    if b"206" in status and rng.random() < 0.7:
        lines.append(b"Content-Range: bytes %d-%d/%d" % (start, len(content) - 1, len(content)))
    body = content[start:] if b"206" in status else content
    if rng.random() < 0.5:
        lines.append(b"Content-Length: %d" % len(body))
    for _ in range(rng.choice([0, 0, 1, 2, 3, 120])):
        lines.append(rng.choice(_NAMES) + rng.choice([b": ", b":", b" "]) + rng.choice(_VALUES))
    kind = rng.randrange(7)
    if kind == 1:
        body = body[: rng.randrange(len(body) + 1)]
    elif kind == 2 and body:
        place = rng.randrange(len(body))
        body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
    elif kind == 3:
        body += rng.randbytes(rng.randrange(1000))
    elif kind == 4:
        sizes = [b"%x" % len(body), b"-5", b"0x10", b"1_0", b"zz", b"", b"f" * 20, b"\xb2", b"5;" + b"x" * 500]
        body = rng.choice(sizes) + b"\r\n" + body + b"\r\n" + rng.choice([b"0\r\n\r\n", b"", b"0\r\nX: y\r\n\r\n", b"zz\r\n"])
        lines.append(b"Transfer-Encoding: chunked")
    data = rng.choice([b"\r\n", b"\r\n", b"\r\n", b"\n"]).join(lines) + b"\r\n\r\n" + body
    if rng.random() < 0.1 and data:
        place = rng.randrange(min(len(data), 300))
        data = data[:place] + rng.randbytes(rng.randrange(4)) + data[place + rng.randrange(3) :]
    return data
