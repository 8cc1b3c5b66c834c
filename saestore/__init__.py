"""saestore: a columnar lake for sparse-dictionary research on language models."""

__version__ = "0.1.0"
