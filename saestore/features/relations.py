"""The part of a feature's page that relates it to tokens and to other features."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from saestore.features.lines import Lines
from saestore.features.making import LazySequence, made, runs
from saestore.features.page import Coactive, Neighbour, TokenCount, TokenTable


def token_tables(lines: Lines, statistics: Mapping[str, Any]) -> tuple[TokenTable, ...]:
    """Return the tokens where the feature fires, before and after.

    Args:
        lines: The feature's lines.
        statistics: Its line of `features`.
    """
    stats = lines.columns("token_stats")
    if not stats:
        return ()
    shifts, vocabulary = stats["shift"], lines.vocabulary

    @cache
    def counts() -> list[TokenCount]:
        token_ids, n = stats["token_id"], stats["n"]
        lifts = n / np.maximum(vocabulary.n_rows(token_ids), 1) / statistics["density"]
        facts = (token_ids, n, n / statistics["n_firings"], stats["sum"], stats["max"], lifts)
        columns = (shifts, *facts)
        return made(
            TokenCount,
            [
                {
                    "token_id": token_id, "token": token, "n": firings, "share": share, "sum": total,
                    "max": largest, "lift": None if shift else lift,
                }
                for token, shift, token_id, firings, share, total, largest, lift in zip(
                    vocabulary.texts(token_ids), *(each.tolist() for each in columns), strict=True
                )
            ],
        )  # fmt: skip

    return tuple(
        TokenTable(shift, LazySequence.part(counts, start, stop))
        for shift, start, stop in runs(shifts.tolist())
    )


def coactive(lines: Lines) -> Sequence[Coactive]:
    """Return the features that fire with it."""
    table = lines.columns("coactivation")
    if not table:
        return ()

    def found() -> list[Coactive]:
        with np.errstate(divide="ignore", invalid="ignore"):  # signed values may add up to nothing
            era = table["sum_product"] / table["sum_feature"]
        same = (table[name] for name in ("n_both", "n_rows", "phi", "jaccard", "lift"))
        columns = (each.tolist() for each in (table["other"], era, *same))
        return made(
            Coactive,
            [
                {
                    "feature": other, "n_both": both, "n_rows": rows, "phi": phi,
                    "jaccard": jaccard, "lift": lift, "era": mean,
                }
                for other, mean, both, rows, phi, jaccard, lift in zip(*columns, strict=True)
            ],
        )  # fmt: skip

    return LazySequence(len(table["other"]), found)


def neighbours(lines: Lines) -> Sequence[Neighbour]:
    """Return the features with similar vectors."""
    table = lines.columns("neighbours")
    if not table:
        return ()

    def found() -> list[Neighbour]:
        columns = (table["method"], table["neighbour"].tolist(), table["score"].tolist())
        return made(
            Neighbour,
            [
                {"method": method, "feature": feature, "score": score}
                for method, feature, score in zip(*columns, strict=True)
            ],
        )

    return LazySequence(len(table["method"]), found)
