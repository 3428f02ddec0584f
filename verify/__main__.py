"""`python -m verify`: the same as its command."""

import sys

from verify.cli.main import main

sys.exit(main())
