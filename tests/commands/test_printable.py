"""What reaches a terminal: nothing in it is obeyed, everything in it can be encoded."""

from hypothesis import given
from hypothesis import strategies as st

from samdiff.errors import printable


def test_escapes_directions_and_surrogates_are_visible() -> None:
    assert printable("a\x1b[31mred\x9b\x07") == r"a\x1b[31mred\x9b\x07"
    assert printable("x\u202egnp.exe") == r"x\u202egnp.exe"
    assert printable("caf\udce9.png") == r"caf\xe9.png"
    assert printable("two\nlines\r\tand\u2028three") == r"two\nlines\r\tand\u2028three"


def test_ordinary_names_stay_as_they_are() -> None:
    assert printable("Übung 写真 (1) [x4].png") == "Übung 写真 (1) [x4].png"
    assert printable("one\ntwo", lines=True) == "one\ntwo"


@given(st.text(st.characters(exclude_categories=())))
def test_whatever_comes_can_be_encoded_and_holds_no_control(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert all(character.isprintable() or character.isspace() for character in shown)
    assert not set(shown) & {chr(code) for code in (*range(32), *range(127, 160))}
