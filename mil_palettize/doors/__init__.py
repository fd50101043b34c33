"""How users come in: packages, models in memory, graph passes. Each finds weights and puts palettes in."""
