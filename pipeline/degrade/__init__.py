"""LR from HR: MATLAB's bicubic, blind degradation; the grid of tiles. Pure."""
