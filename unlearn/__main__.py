"""`python -m unlearn`: the same as the command `unlearn`."""

import sys

from unlearn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
