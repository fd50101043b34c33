"""What the user asked for: configs, normalised and checked, and which request applies to a weight."""
