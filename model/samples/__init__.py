"""Images beyond 8-bit RGB at the networks: samples in and out, files of results, metrics in the units of the data."""
