"""The commands, grouped as `saestore --help` lists them."""
