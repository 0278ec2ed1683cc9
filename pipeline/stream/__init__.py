"""Samples for training: `ShardDataset`, `ShardLoader`, and the order of samples as arithmetic."""
