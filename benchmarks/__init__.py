"""Side-by-side measurements, each a ratio from one run: `python -m benchmarks NAME`."""
