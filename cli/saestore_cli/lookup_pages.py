"""Answers of look-ups in a terminal: features of texts, texts of features."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from saestore.numbers import count, value
from saestore.words import visible
from saestore_cli.drawing import coloured, plain_table
from saestore_cli.tokens import legend, marked


if TYPE_CHECKING:
    import pyarrow as pa

    from saestore.features import Example, Highlight


def strongest(
    console: Console, table: "pa.Table", names: Sequence[str], *, dictionary: str
) -> None:
    """Print the features of each text, or of each token of each text."""
    lines = table.to_pylist()
    for number, name in enumerate(names):
        mine = [line for line in lines if line["text"] == number]
        if len(names) > 1:
            console.print(Text(visible(name), style="bold"), soft_wrap=True)
        if not mine:
            console.print("no feature fires")
        elif "n" in table.column_names:
            console.print(_features(mine))
        else:
            console.print(_tokens(mine))
        if len(names) > 1 and number + 1 < len(names):
            console.print()
    if lines:
        shown = dictionary if dictionary.count("/") < 2 else dictionary.rpartition("/")[0]  # noqa: PLR2004
        console.print(
            f"\nlook at one: saestore show feature {shown} {lines[0]['feature']}", soft_wrap=True
        )


def _features(lines: list[dict[str, Any]]) -> Any:
    several = len({line["context"] for line in lines}) > 1
    places = (">context", ">position") if several else (">position",)
    table = plain_table(">feature", ">value", ">tokens", *places, "strongest on")
    for line in lines:
        where = [str(line["context"])] if several else []
        table.add_row(
            str(line["feature"]),
            value(line["value"]),
            count(line["n"]),
            *where,
            str(line["position"]),
            f"'{visible(line['token'])}'",
        )
    return table


def _tokens(lines: list[dict[str, Any]]) -> Any:
    several = len({line["context"] for line in lines}) > 1
    table = plain_table(*((">context",) if several else ()), ">position", "token", "features")
    for (context, position), group in groupby(lines, key=lambda x: (x["context"], x["position"])):
        mine = list(group)
        shown = "   ".join(f"{each['feature']} {value(each['value'])}" for each in mine)
        where = [str(context)] if several else []
        table.add_row(*where, str(position), f"'{visible(mine[0]['token'])}'", shown)
    return table


def highlights(console: Console, found: "Sequence[Highlight]") -> None:
    """Print texts under features, the tokens on which each fires marked."""
    colour = coloured(console)
    if not found:
        console.print("no feature fires in these texts")
    for number, each in enumerate(found):
        if number:
            console.print()
        title = _title(each)
        if not number:
            title.append("   ").append_text(legend(coloured=colour))
        console.print(title)
        if not each.examples:
            where = "never fires in the analysis" if each.stored else "fires in none of these texts"
            console.print(f"it {where}", soft_wrap=True)
        for place, example in enumerate(each.examples, 1):
            console.print(_caption(place, example, each), style="dim", soft_wrap=False)
            console.print(Padding(_passage(example, each.max, colour), (0, 0, 0, 4), expand=False))


def overlaps(console: Console, table: "pa.Table", names: Sequence[str]) -> None:
    """Print what every two texts share."""
    shown = plain_table("texts", ">shared", ">of", ">jaccard", ">by chance", "shared features")
    for line in table.to_pylist():
        most = f"{line['n_a']} and {line['n_b']}" if line["n_a"] != line["n_b"] else line["n_a"]
        shown.add_row(
            f"{visible(names[line['a']])}, {visible(names[line['b']])}",
            count(line["overlap"]),
            str(most),
            value(line["jaccard"]),
            value(line["expected"]),
            " ".join(map(str, line["shared"])),
        )
    console.print(shown)


def _title(found: "Highlight") -> Text:
    title = Text(f"Feature {found.feature} @ {found.dictionary}", style="bold")
    scale = f"max {found.max:.4f}" if found.max else "never fires in the analysis"
    return title.append(f"   {scale}", style="not bold")


def _caption(number: int, example: "Example", found: "Highlight") -> str:
    name = visible(example.document_id)
    where = f"context {example.context}  {name}" if found.stored else name
    if not found.stored and example.context:
        where += f", context {example.context}"
    peak = f"peak {example.peak:.4f} at {example.peak_position}" if example.peak else "silent"
    return f"{number:>2}  {peak}  {where}"


def _passage(example: "Example", largest: float, colour: bool) -> Text:
    """Return an example's tokens with the firing ones marked; dots where it goes on."""
    text = marked(example.tokens, largest or example.peak, coloured=colour)
    out = Text("… " if example.window_start else "").append_text(text)
    ends = example.window_start + len(example.tokens) < example.n_positions
    return out.append(" …") if ends else out
