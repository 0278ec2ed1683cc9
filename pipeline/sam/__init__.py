"""Segmenters by name: weights, encoder, and a mask decoder for a grid of points."""
