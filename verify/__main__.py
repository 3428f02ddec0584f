"""`python -m verify`: the same as the command `verify-unlearning`."""

import sys

from verify.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
