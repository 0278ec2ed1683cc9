"""Automatic mask generation as segment-anything does it, with a fraction of the work; masks from other places."""
