"""Ways of asking how well an explanation holds: one file each, and one line in `REGISTRY`."""
