"""Palettes for the error of outputs: what is asked, what is chosen for each weight, and what it won."""
