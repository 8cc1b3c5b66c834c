"""Comparisons in a terminal: partners of features, and what changed between analyses."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from saestore.numbers import count, value
from saestore.words import visible
from saestore_cli.drawing import bars, plain_table


if TYPE_CHECKING:
    from saestore.analyze.between import Difference, Match

METHODS = {"dec_cos": "decoder", "pearson": "values", "phi": "firing"}
"""Method of matching to what is compared."""

_BINS = 20
"""Bins of the scores between 0 and 1."""


def matched(found: "Match", console: Console, *, features: Sequence[int] | None, n: int) -> None:
    """Print how well features match, and some of them with their partners."""
    sizes = " and ".join(map(count, found.features))
    console.print(f"{found.one} and {found.other}: {sizes} features", soft_wrap=True)
    if "rows" in found.facts:
        rows, contexts = (int(str(found.facts[name])) for name in ("rows", "contexts"))
        console.print(f"{count(rows)} shared rows of {count(contexts)} contexts", soft_wrap=True)
    for name in ("without_decoder", "without_activations"):
        if name in found.facts:
            console.print(f"not by {name.partition('_')[2]}: {found.facts[name]}", soft_wrap=True)
    console.print()
    table = plain_table("by", ">features", ">mutual", ">median", ">by chance", ">above chance")
    for each in found.methods:
        seen = each.summary()
        table.add_row(
            METHODS[each.method],
            *(value(seen[name]) for name in ("features", "mutual", "median", "chance_median")),
            value(seen["above_chance"]),
        )
    console.print(table)
    console.print()
    for each in found.methods:
        console.print(f"{METHODS[each.method]:<8} 0 {_spread(each.best.score.tolist())} 1")
    if found.agreeing is not None:
        console.print(
            f"\n{count(found.agreeing)} features have one mutual partner by decoder and by values",
            soft_wrap=True,
        )
    lines = _lines(found, features, n)
    if lines:
        console.print()
        console.print(_partners(lines, [each.method for each in found.methods]))
    console.print("\nall features: --output json, or --out FILE.parquet", soft_wrap=True)


def _spread(scores: Sequence[float]) -> str:
    counts = [0] * _BINS
    for x in scores:
        if not math.isnan(x):
            counts[min(max(int(x * _BINS), 0), _BINS - 1)] += 1
    return bars(counts)


def _lines(
    found: "Match", features: Sequence[int] | None, n: int
) -> dict[int, dict[str, dict[str, Any]]]:
    """Return the features to list, each with its line by every method."""
    by: dict[int, dict[str, dict[str, Any]]] = {}
    for line in found.table.to_pylist():
        by.setdefault(line["feature"], {})[line["method"]] = line
    if features:
        return {each: by[each] for each in dict.fromkeys(features) if each in by}
    first = found.methods[0].method
    mutual = [each for each, lines in by.items() if lines[first]["mutual"]]
    mutual.sort(key=lambda each: (-by[each][first]["score"], each))
    return {each: by[each] for each in mutual[:n]}


def _partners(lines: dict[int, dict[str, dict[str, Any]]], methods: Sequence[str]) -> Any:
    columns = [f">{METHODS[method]}" for method in methods]
    table = plain_table(">feature", *(part for each in columns for part in (each, ">score")))
    for feature, by in lines.items():
        cells = []
        for method in methods:
            line = by[method]
            mark = "=" if line["mutual"] else ""
            cells += ["-" if line["other"] is None else f"{mark}{line['other']}"]
            cells += [value(line["score"])]
        table.add_row(str(feature), *cells)
    table.caption = "= mutually best"
    table.caption_justify = "left"
    return table


def differs(found: "Difference", console: Console, *, n: int) -> None:
    """Print what changed, and the features that changed most."""
    facts = {name: int(str(x)) for name, x in found.facts.items() if name != "without_z"}
    console.print(
        f"{found.one}: {count(facts['rows_a'])} rows; {found.other}: {count(facts['rows_b'])} rows; "
        f"in both {count(facts['rows_shared'])}",
        soft_wrap=True,
    )
    changes = found.changes
    console.print(
        f"{count(changes['fires'])} features fire in both, {count(changes['silent'])} in neither; "
        f"{count(changes['woke'])} woke, {count(changes['fell_silent'])} fell silent",
        soft_wrap=True,
    )
    if "without_z" in found.facts:
        console.print(f"no z: {found.facts['without_z']}", soft_wrap=True)
    elif found.significant is not None:
        console.print(
            f"{count(found.significant)} fire more or less often: |z| above {value(found.limit)} on "
            f"{count(facts['compared_a'])} and {count(facts['compared_b'])} rows",
            soft_wrap=True,
        )
    lines = found.most_changed(n).to_pylist()
    if lines:
        console.print()
        console.print(Text("Changed most", style="bold"))
        console.print(_changes(lines))
    console.print("\nall features: --output json, or --out FILE.parquet", soft_wrap=True)


def _changes(lines: Sequence[dict[str, Any]]) -> Any:
    table = plain_table(">feature", ">density", ">then", ">z", ">max", ">then", "token", "then")
    for line in lines:
        tokens = [
            "-"
            if line[f"top_token_{which}"] is None
            else f"'{visible(line[f'top_token_{which}'])}'"
            for which in "ab"
        ]
        table.add_row(
            str(line["feature"]),
            *(value(line[name]) for name in ("density_a", "density_b", "z", "max_a", "max_b")),
            *tokens,
        )
    return table
