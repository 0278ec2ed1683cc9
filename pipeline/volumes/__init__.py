"""Volumes: one file that holds many images. A slice is read as a small file of its own, so that everything above sees images only."""
