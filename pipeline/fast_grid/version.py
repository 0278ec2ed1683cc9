"""The version of mode `fast`, without NumPy and PyTorch, for the command line."""

GRID_VERSION = 1
"""Recorded in every store made in mode fast. To be raised with each change of the points or the padding, so that no store has masks of two."""
