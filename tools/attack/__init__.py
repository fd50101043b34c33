"""What attacks the library (``__main__``): mutations, kills, the children they are played in, and judges.

Packages are read and mutated by code that shares none with the library, that of the tests, which is found from here.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))
