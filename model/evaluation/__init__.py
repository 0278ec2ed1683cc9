"""`samdiff evaluate` and `compare`: metrics by named protocols, tables and sheets."""
