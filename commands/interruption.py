"""What Ctrl-C leaves: the truth about each command, in one table."""

from __future__ import annotations

from collections.abc import Sequence

_RESUMES = {
    "prepare": "resumes from here: finished images are kept",
    "train": "resumes from the state that was saved",
    "infer": "resumes with the images that are missing: finished ones are kept",
    "evaluate": "resumes with the images that are missing: the metrics of finished ones are kept",
    "download": "resumes from here",
    "weights": "resumes from here",
    "demo": "resumes from here: each step keeps what it has",
}
"""Commands that keep what they have, and what that is. All others begin anew."""
_ANEW = {
    "infer": ("--no-provenance", "--overwrite"),  # then a finished image cannot be recognised, or is to be made again
    "evaluate": ("fid", "sfid", "fid_dinov2"),  # metrics of whole folders need all results at once
    "prepare": ("--dry-run",),
    "train": ("--print-config",),
}
"""Options, or values of --metrics, with which nothing is kept."""


def after_interrupt(arguments: Sequence[str]) -> str:
    """What the same command will do after it was interrupted, as the end of a sentence.

    Args:
        arguments: of the command line, without the program's name.
    """
    words = list(arguments)
    command = next((word for word in words if not word.startswith("-")), "")
    values = {part for word in words for part in word.partition("=")[2 if "=" in word else 0].split(",")}
    if command not in _RESUMES or values.intersection(_ANEW.get(command, ())):
        return "begins anew"
    return _RESUMES[command]
