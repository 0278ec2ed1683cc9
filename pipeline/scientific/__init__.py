"""Images beyond 8-bit RGB: what their samples are, readers of measured values, and what the segmenter sees of them."""
