"""Ways of asking what a feature stands for: one file each, and one line in `REGISTRY`."""
