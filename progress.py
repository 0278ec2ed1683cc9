"""What a user sees while something takes long: a bar on a terminal, plain lines anywhere else, and one line while weights are loaded.

Everything goes to stderr, and nothing is written with `-q` (`SAMDIFF_QUIET`). On a terminal bars are tqdm's. Under nohup, SLURM or CI a bar
would fill a log with carriage returns, so there `PlainProgress` writes one line every 30 seconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import Generic, Protocol, Self, TextIO, TypeVar, cast, overload

from .errors import printable

EVERY = 30.0
"""Seconds between two plain lines."""
_SILENT = 1.0
"""Seconds after which `activity` says what is being waited for."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Progress(Protocol[T_co]):
    """The part of tqdm's interface that is used here."""

    n: float

    def __iter__(self) -> Iterator[T_co]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...
    def update(self, n: float = 1) -> object:
        """`n` more units are done."""

    def set_description(self, desc: str) -> None:
        """What is being worked on."""

    def set_postfix(self, **values: object) -> None:
        """Numbers to show beside the count."""

    def set_postfix_str(self, s: str) -> None:
        """Text to show beside the count."""

    def clear(self) -> None:
        """Make room for a line of other output."""

    def close(self) -> None:
        """The work has ended."""


class PlainProgress(Generic[T]):
    """Progress as plain lines: at most one every `EVERY` seconds, and one at the end if there was one before.

    `masks: 120 of 800 images, 4.1 s per image, about 46 min left`
    """

    def __init__(
        self,
        items: Iterable[T] = (),
        *,
        desc: str,
        total: int | None = None,
        unit: str = "it",
        initial: int = 0,
        unit_scale: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            items: what `__iter__` passes on, one unit each.
            desc: what is being worked on.
            total: units in all; None: the length of `items`, where it has one.
            unit: the name of one; %: the lines show the percentage of `total`, not the number of units.
            initial: units that were done before.
            unit_scale: units are bytes, to be written as kB, MB and GB.
            stream: gets the lines; None: stderr, as it is at that moment.
            clock: seconds.
        """
        self._items, self._desc, self._unit, self._scaled = items, desc, unit, unit_scale
        self._total = len(items) if total is None and isinstance(items, Sized) and items else total
        self._stream, self._clock, self._more, self._lines = stream, clock, "", 0
        self.n: float = initial
        self._initial, self._last_n = initial, float(initial)
        self._begun = self._last = clock()

    def __iter__(self) -> Iterator[T]:
        try:
            for item in self._items:
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        """`n` more units are done."""
        self.n += n
        if self._clock() - self._last >= EVERY:
            self.write_line()

    def set_description(self, desc: str) -> None:
        """What is being worked on."""
        self._desc = desc

    def set_postfix(self, **values: object) -> None:
        """Numbers for the next line."""
        self._more = ", ".join(f"{value} {name}" for name, value in values.items())

    def set_postfix_str(self, s: str) -> None:
        """Text for the next line; one with the word `left` replaces the estimate of the time left."""
        self._more = s

    def clear(self) -> None:
        """Nothing: lines stay."""

    def close(self) -> None:
        """The last line, if there was one before and it did not say so already."""
        if self._lines and self._last_n != self.n:
            self.write_line()
        self._lines = 0

    def write_line(self, gap: float = 0.0) -> None:
        """A line now, unless the last one was written less than `gap` seconds ago."""
        now = self._clock()
        if self._lines and now - self._last < gap:
            return
        self._last, self._last_n, self._lines = now, self.n, self._lines + 1
        stream = self._stream or sys.stderr
        if stream is not None:
            stream.write(printable(self.line(now - self._begun)) + "\n")
            stream.flush()

    def line(self, seconds: float) -> str:
        """The line after so many seconds of work."""
        done, total = self.n - self._initial, self._total
        if self._unit == "%" and total:
            left = f", about {duration(seconds / done * (total - self.n))} left" if done and total > self.n else ""
            return f"{self._desc}: {100 * self.n / total:.0f} %{left}"
        unit = "" if self._scaled else f" {self._unit}{'s' * (self.n != 1 or total is not None)}"
        parts = [f"{self._count(self.n)}{'' if total is None else f' of {self._count(total)}'}{unit}"]
        parts += [self._more] if self._more else []
        if done and seconds and "left" not in self._more:
            each = seconds / done
            if self._scaled:
                parts.append(f"{self._count(1 / each)}/s")
            else:
                parts.append(f"{each:.1f} s per {self._unit}" if each >= 1 else f"{1 / each:.1f} {self._unit}s/s")
            if total is not None and total > self.n:
                parts.append(f"about {duration(each * (total - self.n))} left")
        return f"{self._desc}: {', '.join(parts)}"

    def _count(self, value: float) -> str:
        if not self._scaled:
            return f"{value:.0f}"
        return next(
            f"{value / size:.1f} {unit}"
            for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
            if value >= size or size == 1
        )


def duration(seconds: float) -> str:
    """Seconds as a person would say them: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5_940:  # 99 minutes
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} days"


@overload
def progress(
    items: None = None, *, desc: str, total: int | None = None, unit: str = "it", initial: int = 0, unit_scale: bool = False
) -> Progress[object]: ...


@overload
def progress(
    items: Iterable[T], *, desc: str, total: int | None = None, unit: str = "it", initial: int = 0, unit_scale: bool = False
) -> Progress[T]: ...


def progress(
    items: Iterable[T] | None = None,
    *,
    desc: str,
    total: int | None = None,
    unit: str = "it",
    initial: int = 0,
    unit_scale: bool = False,
) -> Progress[T] | Progress[object]:
    """Progress on stderr: a bar on a terminal, else a plain line every 30 seconds; silent with `-q`. `desc` may be any text."""
    quiet = bool(os.environ.get("SAMDIFF_QUIET")) or sys.stderr is None
    if not quiet and not sys.stderr.isatty():
        plain: Iterable[T] = () if items is None else items
        return PlainProgress(plain, desc=desc, total=total, unit=unit, initial=initial, unit_scale=unit_scale)
    from tqdm import tqdm

    bar = tqdm(
        items,
        desc=printable(desc),
        total=total,
        unit=unit,
        initial=initial,
        unit_scale=unit_scale,
        disable=quiet,
        dynamic_ncols=True,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}" if unit == "%" else None,
    )
    return cast(Progress[T], bar)


@contextlib.contextmanager
def activity(what: str) -> Iterator[None]:
    """Inside, something cannot report progress, such as loading weights: if it takes longer than a second, a line says what it is."""

    def report() -> None:
        if sys.stderr is not None:
            sys.stderr.write(printable(f"{what} …") + "\n")
            sys.stderr.flush()

    if os.environ.get("SAMDIFF_QUIET"):
        yield
        return
    timer = threading.Timer(_SILENT, report)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_LONG = 10.0
"""Seconds; the total is reported if it is estimated to be more."""


class ImageProgress:
    """Advances the bar by parts of images, and reports once how long all images will take, after the first tile."""

    def __init__(self, bar: Progress[object], *, jobs: int, report: Callable[[str], None]) -> None:
        self._bar, self._jobs, self._report = bar, jobs, report
        self._finished, self._reported, self._begun = 0, False, time.monotonic()

    def __call__(self, part: float) -> None:
        """`part`, 0 to 1, of the current image is done."""
        self._bar.update(self._finished + part - self._bar.n)
        if self._reported:
            return
        self._reported = True
        seconds = (time.monotonic() - self._begun) / part * (self._jobs - self._finished)
        if seconds >= _LONG:
            self._bar.clear()
            images = "" if self._jobs == 1 else f" for {self._jobs} images, if they are like the first"
            self._report(f"about {duration(seconds)} in all{images}")

    def finish(self, number: int) -> None:
        """The first `number` images are done or skipped. The estimate begins with the first that is upscaled."""
        self._bar.update(number - self._bar.n)
        self._finished = number
        if not self._reported:
            self._begun = time.monotonic()
