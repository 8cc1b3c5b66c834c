"""The part of a feature's page that relates it to tokens and to other features."""

from collections.abc import Mapping
from typing import Any

from saestore.features.lines import Lines
from saestore.features.makers import maker
from saestore.features.page import Coactive, Neighbour, TokenCount, TokenTable


_count, _coactive, _neighbour = maker(TokenCount), maker(Coactive), maker(Neighbour)


def token_tables(lines: Lines, statistics: Mapping[str, Any]) -> tuple[TokenTable, ...]:
    """Return the tokens where the feature fires, before and after.

    Args:
        lines: The feature's lines.
        statistics: Its line of `features`.
    """
    found: dict[int, list[TokenCount]] = {}
    firings, density = statistics["n_firings"], statistics["density"]
    vocabulary = lines.vocabulary
    for line in lines.rows("token_stats"):
        token, n, shift = line["token_id"], line["n"], line["shift"]
        lift = None if shift else n / vocabulary.n_rows(token) / density
        text = vocabulary.token(token)
        found.setdefault(shift, []).append(
            _count(
                token_id=token,
                token=text,
                n=n,
                share=n / firings,
                sum=line["sum"],
                max=line["max"],
                lift=lift,
            )
        )
    return tuple(TokenTable(shift, tuple(tokens)) for shift, tokens in found.items())


def coactive(lines: Lines) -> tuple[Coactive, ...]:
    """Return the features that fire with it."""
    return tuple(
        _coactive(
            feature=line["other"],
            era=line["sum_product"] / line["sum_feature"],
            **{name: line[name] for name in ("n_both", "n_rows", "phi", "jaccard", "lift")},
        )
        for line in lines.rows("coactivation")
    )


def neighbours(lines: Lines) -> tuple[Neighbour, ...]:
    """Return the features with similar vectors."""
    return tuple(
        _neighbour(method=line["method"], feature=line["neighbour"], score=line["score"])
        for line in lines.rows("neighbours")
    )
