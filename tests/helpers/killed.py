"""A process that is there to be killed: `python killed.py real|cheap`, then one job per line on stdin, each in a fork of its own.

A job is {"source", "out", "log", "die_at"}: `prepare`, with one line in `log` for each image that the segmenter is shown, and, at write
number `die_at`, a file half written and SIGKILL. Answers with the fork's pid, then with its exit status and peak memory in KiB.
"""

import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.prepare.run import MaskSource, PrepareConfig, prepare
from samdiff.pipeline.sam.load import load_segmenter
from samdiff.pipeline.storage import local as keystore
from samdiff.runtime import setup_process


class Boxes:
    """A segmenter that costs nothing: two overlapping boxes."""

    def describe(self) -> dict[str, Any]:
        return {"name": "boxes"}

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        for image in images:
            height, width = image.shape[:2]
            masks = np.zeros((2, height, width), bool)
            masks[0, 10:60, 10:90] = masks[1, 40:90, 5:40] = True
            runs = [np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=0)), prepend=0).tolist() for mask in masks]
            rest = [height * width - sum(run) for run in runs]
            yield [{"segmentation": {"size": [height, width], "counts": [*run, n]}} for run, n in zip(runs, rest, strict=True)]


class Logged:
    """Writes down what it is shown."""

    def __init__(self, masks: MaskSource, log: str) -> None:
        self.masks, self.log = masks, log

    def describe(self) -> dict[str, Any]:
        return self.masks.describe()

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        for image in images:
            with open(self.log, "a") as file:
                file.write(hashlib.sha256(image.tobytes()).hexdigest() + "\n")
            yield from self.masks.generate_batch([image])


def die_at(number: int) -> None:
    """Replace the only function that writes."""
    real, count = keystore.write_atomic, [0]

    def dying(target: Any, value: bytes) -> None:
        count[0] += 1
        if count[0] == number:
            target.with_name(f".{target.name}.{0:032x}.partial").write_bytes(value[: len(value) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        real(target, value)

    keystore.write_atomic = dying


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    setup_process(1)
    masks: MaskSource = Boxes()
    if sys.argv[1] == "real":
        masks = MaskGenerator(load_segmenter("mobile_sam", torch.device("cpu"), source="npm"), points_per_side=4)
    say("ready")
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                if job.get("die_at"):
                    die_at(job["die_at"])
                prepare(job["source"], job["out"], Logged(masks, job["log"]), PrepareConfig(scale=4, tile=128))
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
                traceback.print_exc()
                os._exit(1)
        say(pid)
        _, status, usage = os.wait4(pid, 0)
        say(os.waitstatus_to_exitcode(status), usage.ru_maxrss)


if __name__ == "__main__":
    main()
