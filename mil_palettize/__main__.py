"""``python -m mil_palettize``."""

import sys

from mil_palettize.cli.main import main

sys.exit(main())
