"""`python -m qsim_cli` is the command `qsim`."""

import sys

from . import main

sys.exit(main())
