"""Progress for people: plain lines where there is no terminal, one line while something silent takes long."""

import io
import time

import pytest

from samdiff import progress as module
from samdiff.progress import PlainProgress, activity, duration, progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_plain_line_every_thirty_seconds():
    """Count, numbers, rate and time left; nothing before 30 s; a last line at the end."""
    clock, out = Clock(), io.StringIO()
    with PlainProgress(desc="masks", total=100, unit="image", stream=out, clock=clock) as bar:
        bar.set_postfix(masks=7)
        for _ in range(100):
            clock.now += 4
            bar.update()
    lines = out.getvalue().splitlines()
    assert lines[0] == "masks: 8 of 100 images, 7 masks, 4.0 s per image, about 6 min left"
    assert len(lines) == 100 // 8 + 1
    assert lines[-1] == "masks: 100 of 100 images, 7 masks, 4.0 s per image"


def test_short_work_is_silent():
    clock, out = Clock(), io.StringIO()
    for _ in PlainProgress(range(20), desc="scan", unit="file", stream=out, clock=clock):
        clock.now += 1
    assert out.getvalue() == ""


def test_a_total_estimate_replaces_the_bars_own_and_bytes_are_counted():
    clock, out = Clock(), io.StringIO()
    bar = PlainProgress(desc="rrdb", total=500, unit="step", stream=out, clock=clock, initial=100)
    clock.now = 10
    bar.n = 120
    bar.set_postfix_str("loss 0.1000, about 3 h left")
    bar.write_line()
    bar.write_line(gap=1.0)
    down = PlainProgress(desc="a.zip\x1b", total=4_000_000_000, unit="B", unit_scale=True, stream=out, clock=clock)
    clock.now += 40
    down.update(100_000_000)
    assert out.getvalue().splitlines() == [
        "rrdb: 120 of 500 steps, loss 0.1000, about 3 h left",
        "a.zip\\x1b: 100.0 MB of 4.0 GB, 2.5 MB/s, about 26 min left",
    ]


def test_which_one_a_user_gets(monkeypatch):
    """A terminal: tqdm's bar. None: lines. Quiet: nothing."""
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    assert isinstance(progress([1], desc="a"), PlainProgress)
    monkeypatch.setenv("SAMDIFF_QUIET", "1")
    assert progress([1], desc="a").disable  # type: ignore[attr-defined]
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bar = progress([1], desc="a")
    assert not isinstance(bar, PlainProgress)
    assert not bar.disable  # type: ignore[attr-defined]
    bar.close()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (600, "10 min"), (9000, "2.5 h"), (200_000, "2.3 days")]
)
def test_duration(seconds: float, text: str):
    assert duration(seconds) == text


def test_waiting_has_a_line_only_if_it_is_long(monkeypatch, capsys):
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    monkeypatch.setattr(module, "_SILENT", 0.05)
    with activity("loading the weights of vit_h"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "loading the weights of vit_h …\n"
    monkeypatch.setattr(module, "_SILENT", 5.0)
    with activity("loading"):
        pass
    monkeypatch.setenv("SAMDIFF_QUIET", "1")
    monkeypatch.setattr(module, "_SILENT", 0.0)
    with activity("loading"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""
