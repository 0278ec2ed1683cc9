"""Online: shards -> weights -> pictures."""
