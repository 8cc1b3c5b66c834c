"""Which features to show first: a stated rule, never a choice by hand.

Ranking by concentration on one token finds features that copy a token, which is trivial; ranking by
density or maximum finds punctuation. The rule asks instead on which words a feature fires strongly:
several different ones, that are rare in the corpus, in many documents.
"""

from collections.abc import Sequence
from typing import Any

from saestore.features.analysis import Analysis
from saestore.features.page import Example, FeaturePage


RULE = (
    "features firing on at most 2 % of rows whose strongest firings (half the maximum or more) "
    "fall on several different words (effectively 4.5 or more, none half of the time), in at least "
    "20 contexts and 10 documents, ranked by how far those words are from the corpus's "
    "(Kullback-Leibler divergence); of features that share a leading word, only the first"
)
"""The rule of `features_about_something`, in one sentence."""

_WORDS = 12
"""Leading words by which two features are told to be about the same."""

_SQL = r"""
WITH words AS (
    SELECT token_id, lower(trim(token)) AS word, n_rows FROM vocabulary WHERE NOT special
),
corpus AS (
    SELECT word, sum(n_rows) / (SELECT sum(n_rows)::DOUBLE FROM words) AS share
    FROM words
    GROUP BY word
),
strong AS (
    SELECT f.feature, f.context, f.position
    FROM firings f
    JOIN features s USING (feature)
    WHERE s.density <= 0.02 AND abs(f.value) >= s.max / 2
),
placed AS (
    SELECT
        s.feature,
        s.context,
        w.word,
        list_filter(c.segments, lambda x: x.start <= s.position)[-1].document AS document
    FROM strong s
    JOIN tokens t USING (context, position)
    JOIN words w USING (token_id)
    JOIN contexts c USING (context)
),
spread AS (
    SELECT
        feature,
        count(*)::DOUBLE AS total,
        count(DISTINCT context) AS contexts,
        count(DISTINCT document) AS documents
    FROM placed
    GROUP BY feature
),
counted AS (SELECT feature, word, count(*) AS n FROM placed GROUP BY feature, word),
shares AS (
    SELECT c.feature, c.word, c.n, c.n / s.total AS p, q.share AS q, s.contexts, s.documents
    FROM counted c
    JOIN spread s USING (feature)
    JOIN corpus q USING (word)
),
scored AS (
    SELECT
        feature,
        any_value(contexts) AS contexts,
        any_value(documents) AS documents,
        max(p) AS largest,
        exp(-sum(p * ln(p) ORDER BY p, word)) AS different,
        sum(p * log2(p / q) ORDER BY p, word) AS bits,
        coalesce(sum(p ORDER BY p, word) FILTER (regexp_full_match(word, '\p{L}{3,}')), 0) AS spelt,
        list(word ORDER BY n DESC, word)[:$words] AS led_by
    FROM shares
    GROUP BY feature
)
SELECT
    feature,
    led_by,
    largest <= 0.5 AND different >= 4.5 AND spelt >= 0.8 AS several,
    several AND contexts >= 20 AND documents >= 10 AS known
FROM scored
ORDER BY known DESC, several AND contexts >= 5 DESC, several DESC, bits DESC, feature
LIMIT 500
"""

_OTHERS = """
SELECT feature FROM features WHERE n_firings > 0
ORDER BY n_contexts >= 5 DESC, density, feature LIMIT $most
"""


def features_about_something(analysis: Analysis, n: int) -> tuple[FeaturePage, ...]:
    """Return the pages of up to `n` features chosen by `RULE`, best first; deterministic.

    A small corpus may hold too few such features: then those that meet fewer of the conditions
    follow, so that something is shown whenever any feature fires.

    Raises:
        DamagedArtefactError: A file is missing or has another size.
    """
    found = analysis.sql(_SQL, {"words": _WORDS}).to_pylist()
    chosen = [line["feature"] for line in _distinct(found, n)]
    others = analysis.sql(_OTHERS, {"most": n + len(chosen)}).to_pylist()
    chosen += [line["feature"] for line in others if line["feature"] not in chosen]
    return tuple(analysis.feature(feature) for feature in chosen[:n])


def _distinct(lines: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Return the first n whose leading word leads no feature before; then any to make up n."""
    chosen: list[dict[str, Any]] = []
    for line in lines:
        if len(chosen) < n and not any(line["led_by"][0] in one["led_by"] for one in chosen):
            chosen.append(line)
    rest = [line for line in lines if line not in chosen]
    return chosen + rest[: max(0, n - len(chosen))]


def different_words(examples: Sequence[Example], n: int) -> list[Example]:
    """Return up to `n` examples, each with another word at its peak; then the next in order.

    The strongest contexts of a feature often repeat one word. These show what its words share.

    Args:
        examples: Strongest first.
        n: At most so many.
    """
    first: dict[str, Example] = {}
    for example in examples:
        piece = example.tokens[example.peak_position - example.window_start].text
        first.setdefault(piece.strip().lower(), example)
    chosen = list(first.values())[:n]
    taken = {id(example) for example in chosen}
    rest = [example for example in examples if id(example) not in taken]
    return chosen + rest[: n - len(chosen)]
