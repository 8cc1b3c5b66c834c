"""Several dictionaries in a terminal: a line per score, or per dictionary when there are many."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from saestore.numbers import count, value


if TYPE_CHECKING:
    from saestore.evaluate import Comparison

HEADLINES = {
    "explained_variance": "EV",
    "l0": "L0",
    "delta_ce": "delta CE",
    "ce_recovered[zero]": "CE rec.",
    "kl[dict]": "KL",
    "dead[all]": "dead",
}
"""Columns where every dictionary has a line."""

SHOWN = (
    *HEADLINES, "mse", "cosine", "l2_ratio", "reconstruction_bias", "ce_recovered[mean]",
    "kl_recovered[zero]", "kl_recovered[mean]", "l0[low]", "l0[high]", "mean_activation",
    "density[q50]", "decoder_cosine_max[mean]", "enc_dec_cosine[mean]",
)  # fmt: skip
"""Scores that have a line where every dictionary has a column."""

_COLUMNS = 3
"""Dictionaries that stand beside each other on a narrow terminal."""


def draw(found: "Comparison", console: Console) -> None:
    """Print a comparison."""
    facts = found.facts
    rows, contexts = (int(str(facts[name])) for name in ("rows", "contexts"))
    console.print(
        f"{count(rows)} rows of {count(contexts)} contexts, "
        f"split {facts['split']} of activations/{facts['store']}",
        soft_wrap=True,
    )
    console.print()
    few = len(found.dictionaries) <= _COLUMNS
    console.print(_by_score(found) if few else _by_dictionary(found))
    console.print()
    console.print(
        f"all {len(found.values)} scores: --output json, or --out FILE.parquet", soft_wrap=True
    )


def _by_score(found: "Comparison") -> Table:
    table = _table("score", found.dictionaries)
    for name, values in found.values.items():
        if name.partition("@")[0] in SHOWN and any(x is not None for x in values.values()):
            table.add_row(name, *(value(values[each]) for each in found.dictionaries))
    return table


def _by_dictionary(found: "Comparison") -> Table:
    shown = {name: said for name, said in HEADLINES.items() if name in found.values}
    table = _table("dictionary", tuple(shown.values()))
    for each in found.dictionaries:
        table.add_row(each, *(value(found.values[name][each]) for name in shown))
    return table


def _table(first: str, columns: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table
