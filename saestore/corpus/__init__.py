"""Text to contexts of token ids that remember document and offset."""

from saestore.corpus.contexts import Block, Context, DocumentRecord, Segment, blocks
from saestore.corpus.documents import Document, DocumentSource, Position, Reading
from saestore.corpus.sources import open_corpus
from saestore.corpus.tokens import Tokenizer


__all__ = [
    "Block",
    "Context",
    "Document",
    "DocumentRecord",
    "DocumentSource",
    "Position",
    "Reading",
    "Segment",
    "Tokenizer",
    "blocks",
    "open_corpus",
]
