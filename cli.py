"""The command line: parse, call, report."""


def main() -> None:
    """Placeholder entry."""
