"""Work ahead of the caller in threads: its order, its bounds, its errors, and its end."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from samdiff.errors import ImageError
from samdiff.pipeline.images.decode import Ahead, map_ahead


@dataclass(frozen=True)
class Result:
    number: int
    nbytes: int = 0


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_whichever_is_ready_first(workers):
    def work(number: int, _: object) -> Result:
        time.sleep(0.01 * (number % 3 == 0))
        return Result(number, nbytes=10**9 * (number % 2))

    assert [(item, result.number) for item, result in map_ahead(work, range(20), workers=workers)] == [
        (k, k) for k in range(20)
    ]
    assert not threads()


def test_a_large_result_that_waits_stops_the_others():
    """Each has the bytes of the whole bound: besides the one in progress no other begins, until it is taken."""
    begun: list[int] = []

    def work(number: int, _: object) -> Result:
        begun.append(number)
        return Result(number, nbytes=100)

    with Ahead(work, range(6), workers=1, ahead=4, max_bytes=100) as results:
        for k in range(6):
            until(lambda: len(begun) > k)  # noqa: B023 - called at once
            time.sleep(0.02)
            assert begun == list(range(k + 1))
            assert next(results)[0] == k
        assert next(results, None) is None


def test_items_in_progress_count_as_much_as_the_largest_result():
    """With room for two and a half: four begin before a size is known, then one for each that leaves less than two and a half."""
    begun: list[int] = []

    def work(number: int, _: object) -> Result:
        begun.append(number)
        return Result(number, nbytes=100)

    with Ahead(work, range(20), workers=4, ahead=9, max_bytes=250) as results:
        for taken, expected in enumerate((4, 4, 5, 6)):
            until(lambda: len(begun) >= expected)  # noqa: B023 - called at once
            time.sleep(0.02)
            assert (taken, len(begun)) == (taken, expected)
            next(results)


def test_small_results_are_bounded_by_their_number():
    begun: list[int] = []
    with Ahead(lambda number, _: begun.append(number), range(9), workers=3, ahead=4) as results:
        until(lambda: len(begun) == 4)
        time.sleep(0.02)
        assert sorted(begun) == [0, 1, 2, 3]
        next(results)
        until(lambda: len(begun) == 5)


def test_an_error_is_raised_in_place_of_its_result():
    """Those before it come out, and so do those after it, if the caller asks."""

    def work(number: int, _: object) -> int:
        if number in (2, 3):
            raise ImageError(f"bad {number}")
        return number

    with Ahead(work, range(6), workers=2, ahead=2) as results:
        assert [next(results)[1] for _ in range(2)] == [0, 1]
        time.sleep(0.05)  # both errors wait, so no thread begins the next item
        for number in (2, 3):
            with pytest.raises(ImageError, match=f"bad {number}"):
                next(results)
        assert [result for _, result in results] == [4, 5]


def test_an_interrupt_begins_nothing_more_and_leaves_no_thread():
    """Ctrl-C in the caller, while one image is being decoded."""
    begun: list[int] = []

    def work(number: int, _: object) -> int:
        begun.append(number)
        time.sleep(0.05 * number)
        return number

    def interrupted() -> None:
        for _ in map_ahead(work, range(50), workers=1, ahead=40):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 4
    assert not threads()


def test_a_program_that_forgets_to_close_ends_all_the_same():
    """With items left, and results that wait at the bound."""
    code = (
        "import time\nfrom samdiff.pipeline.images.decode import Ahead\n"
        "results = Ahead(lambda number, _: bytearray(9), range(10**6), workers=2, ahead=3, max_bytes=1)\n"
        "print(next(results)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)
