"""What tests need: tiny models, a tiny corpus, contract suites. Imported by nothing that ships."""

from saestore.testing.corpora import tiny_corpus
from saestore.testing.models import KINDS, tiny_model


__all__ = ["KINDS", "tiny_corpus", "tiny_model"]
