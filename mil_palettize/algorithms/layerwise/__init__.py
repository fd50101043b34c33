"""Palettes for the error of what an op gives, not of its weight: tables and indices under second moments."""
