"""Weights with their configuration: our files, published files, and what a file may claim."""
