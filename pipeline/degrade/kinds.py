"""Names of the degradations; without NumPy, for help and completion of the command line."""

KINDS = ("bicubic", "blind", "given")
"""MATLAB's bicubic, a random blind degradation, or existing LR files (which `degrade` does not make)."""
