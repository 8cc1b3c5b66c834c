"""`saestore generate` on a small fast model: `benchmarks.capture` where storage counts."""

from benchmarks.capture import SMALL


BENCH = SMALL
