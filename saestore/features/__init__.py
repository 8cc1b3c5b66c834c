"""The feature tables: read as pages, lazy frames and SQL, without model, tokenizer or torch."""

from saestore.features.analysis import Analysis
from saestore.features.choose import RULE, different_words, features_about_something
from saestore.features.connect import connect, query
from saestore.features.limits import Limits
from saestore.features.named import NamedQuery, Parameter, named_queries, run_named
from saestore.features.page import (
    Example,
    ExampleGroup,
    FeaturePage,
    Histogram,
    LogitTable,
    LogitToken,
    Provenance,
    TokenPiece,
    Written,
)


__all__ = [
    "RULE",
    "Analysis",
    "Example",
    "ExampleGroup",
    "FeaturePage",
    "Histogram",
    "Limits",
    "LogitTable",
    "LogitToken",
    "NamedQuery",
    "Parameter",
    "Provenance",
    "TokenPiece",
    "Written",
    "connect",
    "different_words",
    "features_about_something",
    "named_queries",
    "query",
    "run_named",
]
