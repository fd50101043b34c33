"""How palettes are made of values (numpy and numba only)."""
