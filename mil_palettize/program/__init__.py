"""Programs as they are stored: find weights, trace what reads them, put palettes in their place."""
