"""The part of a feature's page that relates it to tokens and to other features."""

from collections.abc import Callable, Mapping
from typing import Any

from saestore.features.page import Coactive, Neighbour, TokenCount, TokenTable


Rows = Callable[[str], list[dict[str, Any]]]
"""From a table to one feature's lines in it; none where the analysis has no such table."""


def token_tables(
    rows: Rows, statistics: Mapping[str, Any], vocabulary: Callable[[int], tuple[str, int]]
) -> tuple[TokenTable, ...]:
    """Return the tokens where the feature fires, before and after.

    Args:
        rows: The feature's lines.
        statistics: Its line of `features`.
        vocabulary: From a token to its text and how many kept rows hold it.
    """
    found: dict[int, list[TokenCount]] = {}
    for line in rows("token_stats"):
        text, on = vocabulary(line["token_id"])
        lift = None if line["shift"] else line["n"] / on / statistics["density"]
        share = line["n"] / statistics["n_firings"]
        counted = {name: line[name] for name in ("token_id", "n", "sum", "max")}
        count = TokenCount(token=text, share=share, lift=lift, **counted)
        found.setdefault(line["shift"], []).append(count)
    return tuple(TokenTable(shift, tuple(tokens)) for shift, tokens in found.items())


def coactive(rows: Rows) -> tuple[Coactive, ...]:
    """Return the features that fire with it."""
    return tuple(
        Coactive(
            feature=line["other"],
            era=line["sum_product"] / line["sum_feature"],
            **{name: line[name] for name in ("n_both", "n_rows", "phi", "jaccard", "lift")},
        )
        for line in rows("coactivation")
    )


def neighbours(rows: Rows) -> tuple[Neighbour, ...]:
    """Return the features with similar vectors."""
    return tuple(
        Neighbour(line["method"], line["neighbour"], line["score"]) for line in rows("neighbours")
    )
