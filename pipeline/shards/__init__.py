"""The store: its schema, its bytes, writing and reading it, and checks of every file and table."""
