"""Text that is meant to hurt a terminal, and what a terminal must not get."""

import re
import unicodedata

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202egnp.\u2066a\x7f\x08\udc9bé写"
"""Escapes that clear the screen and rename the window, C1 controls, direction marks, a surrogate: without `/` and NUL a file name."""
FORGED = "x\nsamdiff: all is well\nWARNING "
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def assert_harmless(*texts: str | bytes) -> None:
    for text in texts:
        shown = text.decode("utf-8") if isinstance(text, bytes) else text
        found = {character for character in shown if unicodedata.category(character) in OBEYED} - {"\n"}
        assert not found, f"{found} in {shown!r}"
        assert not re.search(r"^samdiff: all is well", shown, re.MULTILINE), shown
