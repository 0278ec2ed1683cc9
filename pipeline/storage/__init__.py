"""Bytes under keys, on a disk or at a URL; atomic writes, locks, caches, and the law of what is ours."""
