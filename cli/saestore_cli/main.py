"""The `saestore` command."""


def main() -> None:
    """Run the command line."""
