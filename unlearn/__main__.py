"""`python -m unlearn`: the same as its command."""

import sys

from unlearn.cli.main import main

sys.exit(main())
