"""What the tests share: stores, models, damaged files, a faulty server."""
