"""The feature tables: read as pages, lazy frames and SQL, without model, tokenizer or torch."""

from saestore.features.analysis import Analysis
from saestore.features.annotations import AnnotationLog, Compacted, Said
from saestore.features.choose import RULE, different_words, features_about_something
from saestore.features.connect import Take, connect, query, stream
from saestore.features.explain import Explained, Scan, Step, explain
from saestore.features.explanations import Explanation, ExplanationScore
from saestore.features.highlight import TEXTS, Highlight, texts_of, whole
from saestore.features.interpretations import Interpretations
from saestore.features.limits import Limits
from saestore.features.listing import (
    FeatureTable,
    Filter,
    Listing,
    ListingLine,
    ListingQuery,
)
from saestore.features.named import (
    NamedQuery,
    Parameter,
    explain_named,
    named_queries,
    run_named,
    stream_named,
)
from saestore.features.overlap import (
    OVERLAPS,
    FeatureOverlap,
    expected,
    feature_overlap,
    overlaps,
)
from saestore.features.overview import DensityHistogram, Overview, feature_lines, overview
from saestore.features.page import (
    Coactive,
    Example,
    ExampleGroup,
    FeaturePage,
    HeadPair,
    Histogram,
    LogitTable,
    LogitToken,
    Neighbour,
    Provenance,
    Read,
    TokenCount,
    TokenPiece,
    TokenTable,
    Written,
)
from saestore.features.passages import AT_TOKENS, STRONGEST, Passages
from saestore.features.pieces import Vocabulary
from saestore.features.session import SqlSession


__all__ = [
    "AT_TOKENS",
    "OVERLAPS",
    "RULE",
    "STRONGEST",
    "TEXTS",
    "Analysis",
    "AnnotationLog",
    "Coactive",
    "Compacted",
    "DensityHistogram",
    "Example",
    "ExampleGroup",
    "Explained",
    "Explanation",
    "ExplanationScore",
    "FeatureOverlap",
    "FeaturePage",
    "FeatureTable",
    "Filter",
    "HeadPair",
    "Highlight",
    "Histogram",
    "Interpretations",
    "Limits",
    "Listing",
    "ListingLine",
    "ListingQuery",
    "LogitTable",
    "LogitToken",
    "NamedQuery",
    "Neighbour",
    "Overview",
    "Parameter",
    "Passages",
    "Provenance",
    "Read",
    "Said",
    "Scan",
    "SqlSession",
    "Step",
    "Take",
    "TokenCount",
    "TokenPiece",
    "TokenTable",
    "Vocabulary",
    "Written",
    "connect",
    "different_words",
    "expected",
    "explain",
    "explain_named",
    "feature_lines",
    "feature_overlap",
    "features_about_something",
    "named_queries",
    "overlaps",
    "overview",
    "query",
    "run_named",
    "stream",
    "stream_named",
    "texts_of",
    "whole",
]
