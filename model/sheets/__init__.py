"""Visualisations: comparisons, contact sheets, masks in colour, text. Pure: arrays in, arrays out."""
