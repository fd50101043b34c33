"""A weight and its plan to an expression: the encoder, the cache of palettes, and the workers they are made on."""
