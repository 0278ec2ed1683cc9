"""Text in images, for any file name: drawn by Pillow with the font that it ships. Pure.

OpenCV's text drawing is limited to ASCII, and aborts the process on names that are not UTF-8.
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
_MISSING_GLYPH = "\uffff"  # a noncharacter: drawn with the glyph for missing characters


def draw_text(
    image: np.ndarray, text: str, *, x: int, y: int, width: int, size: int = 13, ink: tuple[int, int, int] = INK
) -> np.ndarray:
    """A copy of an image with one line of text.

    Args:
        image: uint8 [H, W, 3] RGB.
        text: any text; control characters, surrogates and characters without a glyph are drawn as escapes such as `\\u65e5`.
        x: of the left end, in pixels.
        y: of the top of the line.
        width: maximum width in pixels; the middle of a longer text is replaced by `…`.
        size: of the font in pixels.
        ink: its RGB colour.

    Returns:
        uint8 [H, W, 3], a copy.
    """
    drawing = Image.fromarray(image)
    ImageDraw.Draw(drawing).text((x, y), fitted(text, width, size), fill=ink, font=_font(size))
    return np.array(drawing)


def fitted(text: str, width: int, size: int) -> str:
    """The text as drawn: escaped, and with its middle replaced by `…` if it is wider than `width` pixels."""
    shown = _shown(text)
    font = _font(size)
    if font.getlength(shown) <= width or len(shown) <= 1:
        return shown

    def cut(keep: int) -> str:
        head = -(-keep // 2)
        return shown[:head] + _CUT + shown[len(shown) - (keep - head) :]

    low, high = 1, len(shown) - 1  # characters kept: bisected, since a label may be very long
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(cut(middle)) <= width else (low, middle - 1)
    return cut(low)


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels, as `draw_text` draws it."""
    return math.ceil(_font(size).getlength(_shown(text)))


def _shown(text: str) -> str:
    return "".join(map(_drawable, unicodedata.normalize("NFC", printable(text))))


@cache
def _drawable(character: str) -> str:
    """A character as the font can draw it: itself, without accents, or as an escape."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    known = next((text for text in (character, plain) if text and all(map(_has_glyph, text))), None)
    return character.encode("unicode_escape").decode() if known is None else known


def _has_glyph(character: str) -> bool:
    font = _font(13)
    return character.isascii() or bytes(font.getmask(character)) != bytes(font.getmask(_MISSING_GLYPH))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
