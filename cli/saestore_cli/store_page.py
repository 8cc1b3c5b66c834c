"""An activation store in a terminal: size, hookpoints, norms, outlier dimensions, mixing, a context."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from saestore.api.store_page import OUTLIER
from saestore.numbers import count, value
from saestore.words import visible
from saestore_cli.drawing import bars, facts, plain_table
from saestore_cli.numbers import amount, rate


if TYPE_CHECKING:
    from saestore.api.store_page import ActivationsPage, HookSummary, Imported, Outlier, Sample

_BESIDE = 10
"""Columns of a number beside a histogram."""
_NARROWEST = 12
_OUTLIERS = 6
"""Outlier dimensions named for one hookpoint."""
_SOURCES = 8


def draw(
    page: "ActivationsPage",
    console: Console,
    *,
    made: Sequence[tuple[str, Text | str]],
    corpus: str,
) -> None:
    """Print a store's page below its title.

    Args:
        page: What there is to know.
        console: Where.
        made: Facts that every artefact has.
        corpus: What its text was, in words; empty, it does not say.
    """
    counts = page.manifest.counts
    holds = (
        f"{count(counts['rows'])} rows, {count(page.kept_rows)} of them kept, in "
        f"{_many(counts['contexts'], 'context')} of at most {count(page.context_size)}"
    )
    rows: list[tuple[str, Text | str]] = [("model", page.model or "not said")]
    if corpus:
        rows.append(("corpus", corpus))
    if page.imported is not None:
        rows.append(("imported", _imported(page.imported)))
    rows += [("holds", holds), ("stored", _stored(page))]
    if page.captured:
        rows.append(("captured", f"{', '.join(page.captured)} of each row"))
    if page.scattered:
        order = "scattered: permuted within each shard; read contexts from the original"
        rows.append(("order", order))
    rows.append(("mixing", _mixing(page)))
    if page.tokens_per_second is not None:
        parts = f" by {page.parts} processes" if page.parts > 1 else ""
        rows.append(("generated", f"at {rate(page.tokens_per_second, 'tokens')}{parts}"))
    console.print(facts([*rows, *made]))
    console.print()
    table = plain_table("hookpoint", ">width", ">norm", ">rms", ">centred", ">min", ">max")
    for hook in page.hookpoints:
        measured = (hook.mean_norm, hook.rms, hook.centred_rms, hook.min, hook.max)
        table.add_row(hook.hookpoint, count(hook.width), *(value(x) for x in measured))
    console.print(table)
    legend = "norm: mean length of a row; rms: of a value; centred: rms less the mean row"
    console.print(Text(legend, style="dim"))
    _norms(page, console)
    _outliers(page, console)
    _sources(page, console)
    if page.sample is not None:
        _sample(page.sample, console)


def _imported(source: "Imported") -> str:
    return (
        f"from {visible(source.origin)}: {source.kind}, {source.dtype}, "
        f"{_many(source.files, 'file')}, {amount(source.bytes, 'B')}; in {count(source.compared)} "
        f"rows compared, the largest difference is {value(source.max_error)}"
    )


def _stored(page: "ActivationsPage") -> str:
    chunks = sorted({hook.chunk_rows for hook in page.hookpoints})
    packed = "" if page.codec == "none" else f", {page.codec}"
    return (
        f"{page.dtype}{packed}, {amount(page.row_bytes, 'B')} a row; "
        f"{_many(page.shards, 'shard')} of {count(page.shard_rows)} rows, "
        f"chunks of {' and '.join(map(count, chunks))}"
    )


def _mixing(page: "ActivationsPage") -> str:
    mixing = page.mixing
    batches = f"in batches of {count(mixing.batch_rows)}"
    if mixing.window_rows >= page.manifest.counts["rows"]:
        return (
            f"{batches}, all rows mixed at once: a row meets {value_of(mixing.partners)} others of "
            "its context"
        )
    return (
        f"{batches} from a window of {count(mixing.window_rows)} rows, a row meets "
        f"{value_of(mixing.partners)} others of its context ({value_of(mixing.ideal_partners)} if "
        f"all rows were mixed at once); variance inflation {value_of(mixing.inflation)}, 1 is ideal"
    )


def _norms(page: "ActivationsPage", console: Console) -> None:
    shown = [hook for hook in page.hookpoints if hook.norms.counts]
    if not shown:
        return
    console.print()
    console.print(Text("Norms of rows (log scale), the median last", style="bold"))
    name = max(len(hook.hookpoint) for hook in shown)
    room = max(console.width - name - 3 * _BESIDE - 4, _NARROWEST)
    for hook in shown:
        edges = hook.norms.edges
        line = bars(_fewer(hook.norms.counts, room))
        low, high = value_of(edges[0]), value_of(edges[-1])
        text = (
            f"  {hook.hookpoint:{name}} {low:>8} {line} {high}  median {value_of(hook.median_norm)}"
        )
        console.print(Text(text), soft_wrap=True)


def _many(n: int, thing: str) -> str:
    return f"{count(n)} {thing if n == 1 else thing + 's'}"


def value_of(x: float) -> str:
    """Return a norm with three digits, which is what its bin knows."""
    return value(float(f"{x:.3g}"))


def _fewer(counts: Sequence[int], room: int) -> list[int]:
    """Return the counts of at most `room` bins, neighbours added where there are more."""
    each = -(-len(counts) // room)
    return [sum(counts[start : start + each]) for start in range(0, len(counts), each)]


def _outliers(page: "ActivationsPage", console: Console) -> None:
    console.print()
    rule = f"|mean| or deviation at least {OUTLIER:g} times the median deviation"
    console.print(Text(f"Outlier dimensions: {rule}", style="bold"))
    found = [hook for hook in page.hookpoints if hook.outliers]
    if not found:
        console.print("  none")
    for hook in found:
        console.print(Padding(Text(_named(hook)), (0, 0, 0, 2), expand=False))


def _named(hook: "HookSummary") -> str:
    def one(each: "Outlier") -> str:
        return (
            f"{each.dimension} ({value(round(each.times))}×, "
            f"mean {value_of(each.mean)}, deviation {value_of(each.std)})"
        )

    shown = ", ".join(one(each) for each in hook.outliers[:_OUTLIERS])
    more = len(hook.outliers) - _OUTLIERS
    return f"{hook.hookpoint}: {shown}" + (f" and {more} more" if more > 0 else "")


def _sources(page: "ActivationsPage", console: Console) -> None:
    if not page.sources:
        return
    console.print()
    table = plain_table("source", ">documents", ">tokens", ">share")
    total = sum(each.tokens for each in page.sources) or 1
    for each in page.sources[:_SOURCES]:
        share = f"{each.tokens / total:.1%}"
        table.add_row(visible(each.source), count(each.documents), count(each.tokens), share)
    console.print(table)
    if len(page.sources) > _SOURCES:
        console.print(f"  and {count(len(page.sources) - _SOURCES)} more sources")


def _sample(sample: "Sample", console: Console) -> None:
    console.print()
    of = f", from document {visible(sample.document)}" if sample.document else ""
    title = f"Context {count(sample.context)}{of}: its first {len(sample.tokens)} tokens"
    if len(sample.tokens) == sample.length:
        title = f"Context {count(sample.context)}{of}: all its {sample.length} tokens"
    console.print(Text(title, style="bold"))
    text = Text()
    for token in sample.tokens:
        text.append(visible(token.text), style="bold cyan" if token.special else "")
    console.print(Padding(text, (0, 0, 0, 2), expand=False))
    skipped = sum(not token.kept for token in sample.tokens)
    if skipped:
        are = "is" if skipped == 1 else "are"
        told = f"  {skipped} of them {are} stored and not trained on"
        console.print(Text(told, style="dim"))
