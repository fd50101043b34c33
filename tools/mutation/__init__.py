"""Small changes to the library, and which of them the tests notice (``__main__``)."""

import os

# Forked children have no threads but one; numpy reads this when it is loaded.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
