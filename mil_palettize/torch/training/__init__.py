"""Palettes that are learned: differentiable k-means, and the palettizers of torch models. Nothing is judged here."""
