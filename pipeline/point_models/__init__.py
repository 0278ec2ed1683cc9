"""Models that are prompted with points, as the mask engine uses them: SAM and SAM 2 behind one interface."""
