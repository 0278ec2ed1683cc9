"""Weights with their configuration: samdiff's files, published files, and checks of what a file declares."""
