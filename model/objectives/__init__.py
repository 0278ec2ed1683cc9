"""Additional losses of stage two, the scale of its residuals, and a measure of collapse to the RRDB."""
