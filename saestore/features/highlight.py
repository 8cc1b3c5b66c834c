"""Texts under one feature: what is drawn in a terminal, on a page, or returned as a frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from saestore.features import arrow
from saestore.features.analysis import Analysis
from saestore.features.page import Example
from saestore.features.passages import Passages


_COLUMNS: list[Any] = [
    pa.field("text", pa.uint32()),
    pa.field("context", pa.uint32()),
    pa.field("value", pa.float32()),
    pa.field("position", pa.uint16()),
    pa.field("token", pa.string()),
    pa.field("document_id", pa.string()),
    pa.field("window_start", pa.uint16()),
    pa.field("window", pa.string()),
]
TEXTS = pa.schema(_COLUMNS)
"""Columns of the texts of a feature: which text (null: a context of the lake), the feature's largest
value in it and the first place of that, and the text around. `context` counts within the text."""


@dataclass(frozen=True)
class Highlight:
    """One feature in some texts.

    Attributes:
        dictionary: `series/name`.
        feature: Which.
        n_features: Features of the dictionary.
        max: Its largest value in the analysis, by which colours are scaled; 0 if it never fires there.
        density: Share of the analysis's rows on which it fires.
        stored: Whether the texts are contexts of the lake.
        names: What the texts are called; `Example.document` is a number among them, if they are given.
        examples: The texts.
    """

    dictionary: str
    feature: int
    n_features: int
    max: float
    density: float
    stored: bool
    names: tuple[str, ...]
    examples: tuple[Example, ...]

    def table(self) -> pa.Table:
        """Return one line of each text (`TEXTS`)."""
        shown = [e.tokens[e.peak_position - e.window_start] for e in self.examples]
        return arrow.rows(
            TEXTS,
            {
                "text": [None if self.stored else e.document for e in self.examples],
                "context": [e.context for e in self.examples],
                "value": [e.peak for e in self.examples],
                "position": [e.peak_position for e in self.examples],
                "token": [piece.text for piece in shown],
                "document_id": [e.document_id for e in self.examples],
                "window_start": [e.window_start for e in self.examples],
                "window": ["".join(piece.text for piece in e.tokens) for e in self.examples],
            },
        )


def texts_of(
    analysis: Analysis, feature: int, k: int, *, width: int | None, passages: Passages | None = None
) -> Highlight:
    """Return the texts in which a feature is strongest, one window of each.

    Args:
        analysis: Whose feature.
        feature: Which.
        k: At most so many.
        width: Tokens of each window; None, whole contexts.
        passages: Texts to look in; absent, all contexts of the analysis.

    Raises:
        FeatureNotFoundError: The dictionary has no such feature.
        DamagedArtefactError: A file is missing or has another size.
    """
    where = passages or analysis.strongest_contexts(feature, k)
    return _of(analysis, feature, where, where.examples(feature, k, width=width))


def whole(analysis: Analysis, features: Sequence[int], passages: Passages) -> tuple[Highlight, ...]:
    """Return every context of some texts under each of some features.

    Raises:
        FeatureNotFoundError: The dictionary has no such feature.
        DamagedArtefactError: A file is missing or has another size.
    """
    return tuple(
        _of(analysis, each, passages, passages.examples(each, None, width=None, ranked=False))
        for each in features
    )


def _of(
    analysis: Analysis, feature: int, passages: Passages, examples: Sequence[Example]
) -> Highlight:
    line = analysis.statistics(feature)
    return Highlight(
        dictionary=analysis.settings.dictionary,
        feature=feature,
        n_features=analysis.n_features,
        max=float(line["max"] or 0.0),
        density=float(line["density"] or 0.0),
        stored=passages.stored,
        names=passages.names,
        examples=tuple(examples),
    )
