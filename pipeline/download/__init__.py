"""Downloads that survive bad servers; data sets by name."""
