"""Segmenters by the value of `--sam`: the mask engine's own, Hugging Face's, and classes of the user."""
