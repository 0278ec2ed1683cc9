"""Text in images, whatever a file is called: drawn by Pillow with the font that Pillow ships. Pure.

OpenCV's text drawing ends the process on names that are not UTF-8 and knows ASCII only.
"""

from __future__ import annotations

import math
import unicodedata
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...errors import printable

INK = (20, 20, 20)
_CUT = "…"
_NOBODYS = "\uffff"  # no font has a glyph for it: it is drawn as a missing one is


def draw_text(
    image: np.ndarray, text: str, *, x: int, y: int, width: int, size: int = 13, ink: tuple[int, int, int] = INK
) -> np.ndarray:
    """An image with one line of text on it.

    Args:
        image: uint8 [H, W, 3] RGB.
        text: any, surrogates and control characters too: these, and what the font has no glyph for, are drawn as escapes such as `\\u65e5`.
        x: of the left end, in pixels.
        y: of the top of the line.
        width: room for the line; a longer one loses its middle.
        size: of the font in pixels.
        ink: its colour.

    Returns:
        uint8 [H, W, 3], a copy.
    """
    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text((x, y), fitted(text, width, size), fill=ink, font=_font(size))
    return np.array(canvas)


def fitted(text: str, width: int, size: int) -> str:
    """The text as it is drawn: escaped, and with `…` for its middle if it is longer than `width` pixels."""
    shown = "".join(map(_drawable, unicodedata.normalize("NFC", printable(text))))
    font, keep = _font(size), len(shown)
    line = shown
    while keep > 1 and font.getlength(line) > width:
        keep -= 1
        head = -(-keep // 2)
        line = shown[:head] + _CUT + shown[len(shown) - (keep - head) :]
    return line


def text_width(text: str, size: int) -> int:
    """Pixels that a line of plain text takes."""
    return math.ceil(_font(size).getlength(text))


@cache
def _drawable(character: str) -> str:
    """A character as the font has it: itself, without its accents, or as an escape."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    known = next((text for text in (character, plain) if text and all(map(_has_glyph, text))), None)
    return character.encode("unicode_escape").decode() if known is None else known


def _has_glyph(character: str) -> bool:
    font = _font(13)
    return character.isascii() or bytes(font.getmask(character)) != bytes(font.getmask(_NOBODYS))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
