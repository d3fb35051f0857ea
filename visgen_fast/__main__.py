"""`python -m visgen_fast` is the command `visgen-fast`."""

import sys

from .cli import main

sys.exit(main())
