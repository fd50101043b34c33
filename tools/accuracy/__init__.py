"""What palettes, calibrated and not, leave of the answers of trained networks (``__main__``)."""
