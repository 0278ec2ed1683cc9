"""Where LR comes from, by name; without NumPy, for the command line's help and completion."""

KINDS = ("bicubic", "blind", "given")
"""MATLAB's bicubic, a random blind degradation, or files that exist already (which `degrade` cannot make)."""
