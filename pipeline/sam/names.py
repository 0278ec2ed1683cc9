"""Segmenters and the sources of their weights by name; without PyTorch, for the command line's help and completion."""

SAM1 = ("vit_h", "vit_l", "vit_b", "mobile_sam")
"""segment-anything's three models, and MobileSAM."""
SAM2 = ("sam2.1_t", "sam2.1_s", "sam2.1_b+", "sam2.1_l", "sam2_t", "sam2_s", "sam2_b+", "sam2_l")
"""SAM 2.1 and SAM 2.0 in four sizes each; they need the package of the extra `sam2`."""
SEGMENTERS = (*SAM1, *SAM2)
"""Segmenters of the mask engine."""
FORMS = {"hf:MODEL_ID": r"hf:.+", "MODULE:CLASS": r"(?!hf:)[A-Za-z_][\w.]*:[A-Za-z_]\w*"}
"""Other segmenters: how `--sam` names them, and the regular expression of it. See `pipeline/segmenters/`."""
SOURCES = ("auto", "cache", "official", "npm")
"""Where weights may come from, see `weights.find_weights`."""


def family_of(name: str) -> str:
    """`sam` or `sam2`: the family of a segmenter of the mask engine."""
    return "sam2" if name in SAM2 else "sam"
