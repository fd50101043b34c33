"""``python -m mil_palettize``."""

import sys

from mil_palettize.cli import main

sys.exit(main())
