"""Key-value storage on a disk or at a URL; atomic writes, locks, caches, and the rule that other people's files are never touched."""
