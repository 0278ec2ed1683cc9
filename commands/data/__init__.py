"""Commands about data: prepare, masks, info, verify, export, download, weights."""
