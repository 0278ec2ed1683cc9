"""Segmenters and the sources of their weights by name; without PyTorch, for the command line's help and completion."""

SEGMENTERS = ("vit_h", "vit_l", "vit_b", "mobile_sam")
"""segment-anything's three models, and MobileSAM."""
SOURCES = ("auto", "cache", "official", "npm")
"""Where weights may come from, see `weights.find_weights`."""
