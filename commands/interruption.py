"""What each command keeps after Ctrl-C, in one table."""

from __future__ import annotations

from collections.abc import Sequence

_RESUMES = {
    "prepare": "resumes from here: finished images are kept",
    "distill": "resumes from the saved state",
    "train": "resumes from the saved state",
    "infer": "resumes with the remaining images: finished ones are kept",
    "evaluate": "resumes with the remaining images: the metrics of finished ones are kept",
    "study": "resumes from here: finished runs, saved states and scores are kept",
    "download": "resumes from here",
    "weights": "resumes from here",
    "demo": "resumes from here: finished steps are kept",
}
"""Commands that resume, and what they keep. All others start again."""
_RESTARTS = {
    "infer": ("--no-provenance", "--overwrite", "--dry-run"),  # finished images cannot be recognised, or are replaced
    "evaluate": ("fid", "sfid", "fid_dinov2"),  # metrics of whole folders need all results
    "prepare": ("--dry-run",),
    "train": ("--print-config",),
    "distill": ("--print-config",),
    "study": ("--list", "--report"),
}
"""Options, or values of --metrics, with which a command starts again."""


def after_interrupt(arguments: Sequence[str]) -> str:
    """What the same command will do after an interruption, as the end of a sentence.

    Args:
        arguments: of the command line, without the program's name.
    """
    words = list(arguments)
    command = next((word for word in words if not word.startswith("-")), "")
    values = {part for word in words for part in word.partition("=")[2 if "=" in word else 0].split(",")}
    if command not in _RESUMES or values.intersection(_RESTARTS.get(command, ())):
        return "starts again"
    return _RESUMES[command]
