"""For tests that start a Python of their own."""

from __future__ import annotations

# coremltools imports these where they are installed, which takes five times as long as all the rest of it.
LIGHT = 'import sys; sys.modules.update(dict.fromkeys(("torch", "tensorflow", "sklearn", "xgboost", "libsvm")))\n'
