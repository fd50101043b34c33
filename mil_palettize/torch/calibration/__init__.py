"""A network walked op by op with samples, for the moments of what its weights are multiplied with."""
