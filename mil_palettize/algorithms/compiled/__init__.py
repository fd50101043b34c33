"""The compiled loops (numba, without the GIL) and how they are compiled."""
