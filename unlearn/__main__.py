"""Entry point of the command `unlearn` and of `python -m unlearn`; `--version` answers without loading torch."""

import sys

from verify.command_line import version, version_asked


def main() -> int:
    """Run the command line; returns the exit status."""
    if version_asked(sys.argv[1:]):
        print(version())  # noqa: T201
        return 0
    from unlearn.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
