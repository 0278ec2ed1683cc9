"""Offline, once per data set: images -> shards. Never imports `samdiff.model`."""
