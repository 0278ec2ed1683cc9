"""Errors for people: each message says what was expected, what came, where, and what to do next.

Everything a user can cause derives from `SamdiffError` (a `ValueError`), so that the command line can print one line and a
script can catch one class. Broken invariants of our own are `assert`.
"""


class SamdiffError(ValueError):
    """A mistake or a missing thing that the user can put right; the message says how."""


class WeightsError(SamdiffError):
    """Weights of a segmenter could not be found, fetched, verified or loaded."""


class ImageError(SamdiffError):
    """A picture could not be read or cannot be used."""


class StoreError(SamdiffError):
    """A store is missing, damaged, of another format, or does not fit the request."""


class BusyError(SamdiffError):
    """Another process is at work in the same place."""


class CheckpointError(SamdiffError):
    """A checkpoint is missing, damaged, or does not fit the request."""


class ConfigError(SamdiffError):
    """A setting is unknown or has a value that cannot be used."""
