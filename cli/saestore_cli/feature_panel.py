"""One feature in a terminal: who it is, how it fires, which tokens, in which contexts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from saestore.numbers import count, value
from saestore.words import (
    ALIKE,
    BESIDE,
    NEGATIVES,
    QUANTILES,
    SAID,
    SUBSAMPLES,
    WITHOUT_FIRINGS,
    said,
    visible,
)
from saestore_cli import explanation_lines
from saestore_cli.drawing import bars, coloured, facts
from saestore_cli.tokens import legend, marked


if TYPE_CHECKING:
    from saestore.features import (
        Example,
        ExampleGroup,
        FeaturePage,
        LogitTable,
        TokenCount,
        Written,
    )

_SHOWN = 5
"""Tokens or features named in a line."""
_SURE = 5
"""Fewest firings on a token whose lift means something."""


def draw(console: Console, page: "FeaturePage", *, n: int, around: int) -> None:
    """Print the page.

    Args:
        console: Where.
        page: The feature.
        n: Examples of each group; of stratified groups, one from each of `n` strata.
        around: Tokens on each side of the peak.
    """
    console.print(Panel(_head(page), title=_title(page), title_align="left", box=box.ROUNDED))
    explanation_lines.every(console, page)
    for table in page.logits:
        console.print(_logits(table))
    colour = coloured(console)
    explained = False
    for subsample, groups in _by_subsample(page):
        chosen = _chosen(groups, n)
        if not chosen:
            continue
        console.print()
        console.print(
            _heading(subsample, groups[0], key=None if explained else legend(coloured=colour))
        )
        explained = True
        for number, (group, example) in enumerate(chosen, 1):
            console.print(_caption(number, group, example), style="dim", soft_wrap=False)
            text = marked(example.cut(around).tokens, page.max, coloured=colour)
            console.print(Padding(_trimmed(example, around, text), (0, 0, 0, 4), expand=False))
            if example.reads:
                console.print(Padding(_reads(example), (0, 0, 0, 4), expand=False))


def _title(page: "FeaturePage") -> Text:
    return Text(f"Feature {page.feature} @ {page.series}/{page.dictionary}", style="bold")


def _head(page: "FeaturePage") -> RenderableType:
    statistics = page.statistics
    origin = page.provenance
    rows: list[tuple[str, Text | str]] = [
        *_said(page),
        *explanation_lines.best(page),
        ("dictionary", f"{', '.join(origin.hookpoints)}; {count(page.n_features)} features"),
        ("analysis", f"{page.analysis}, on {origin.activations}"),
        ("fires", _fires(page)),
    ]
    if page.n_layers > 1:
        rows.insert(len(rows) - 2, ("layer", _layer(page)))
    if page.n_firings:
        moments = (
            f"max {page.max:.4f}   mean {value(statistics['mean'])}   "
            f"std {value(statistics['std'])}"
        )
        spread = [f"{label} {value(statistics.get(name))}" for name, label in QUANTILES.items()]
        rows += [
            (
                "value",
                moments,
            ),
            ("quantiles", "   ".join(spread) if page.keeps_firings else WITHOUT_FIRINGS),
        ]
        if "value" in page.histograms and page.histograms["value"].counts:
            drawn = page.histograms["value"]
            rows.append(("histogram", f"{value(drawn.lo)} {bars(drawn.counts)} {value(drawn.hi)}"))
        if page.top_token is not None:
            share = statistics["top_token_share"] or 0
            rows.append(("top token", f"'{visible(page.top_token)}' in {share:.0%} of its firings"))
    rows += list(_tokens(page))
    weights = [
        ("decoder length", statistics.get("dec_norm")),
        ("encoder bias", statistics.get("b_enc")),
        ("their cosine", statistics.get("enc_dec_cos")),
        ("threshold", statistics.get("threshold")),
        ("rank", statistics.get("rank")),
    ]
    shown = "   ".join(f"{name} {value(x)}" for name, x in weights if x is not None)
    if shown:
        rows.append(("weights", shown))
    if page.writes:
        rows.append(("writes", "   ".join(map(_writes, page.writes))))
    if page.pairs:
        alike = [f"{p.one} × {p.other} (cos {value(p.cosine)})" for p in page.pairs]
        rows.append(("alike there", "   ".join(alike)))
    return facts([*rows, *_relatives(page)])


def _said(page: "FeaturePage") -> "Iterator[tuple[str, Text]]":
    """Return what people say of it, and who and when."""
    for event in page.annotations:
        shown = Text("\n".join(said(event.field, event.value)))
        by = f"  {visible(event.author)}, {event.created:%Y-%m-%d}"
        yield SAID[event.field], shown.append(by, style="dim")


def _layer(page: "FeaturePage") -> str:
    """Return which layer it is of, with the layer's hookpoint where each has one."""
    layer, hookpoints = int(page.statistics["layer"] or 0), page.provenance.hookpoints
    named = f" ({hookpoints[layer]})" if len(hookpoints) == page.n_layers else ""
    return f"{layer}{named}, where it is feature {page.statistics['index']}"


def _tokens(page: "FeaturePage") -> "Iterator[tuple[str, str]]":
    """Return the tokens it fires on most often and with the largest lift, and those beside them."""
    for table in page.tokens:
        yield BESIDE[table.shift], "   ".join(map(_counted, table.tokens[:_SHOWN]))
        lifted = [each for each in table.tokens if each.lift is not None and each.n >= _SURE]
        if lifted:
            lifted.sort(key=lambda each: (-(each.lift or 0), each.token_id))
            yield "by lift", "   ".join(map(_counted, lifted[:_SHOWN]))


def _counted(token: "TokenCount") -> str:
    lift = "" if token.lift is None else f" (lift {value(token.lift)})"
    return f"'{visible(token.token)}' {token.share:.1%}{lift}"


def _relatives(page: "FeaturePage") -> "Iterator[tuple[str, str]]":
    if page.coactive:
        shown = [f"{each.feature} (phi {each.phi:.2f})" for each in page.coactive[:_SHOWN]]
        yield "fires with", "   ".join(shown)
    for method, label in ALIKE.items():
        near = [each for each in page.neighbours if each.method == method][:_SHOWN]
        if near:
            shown = [f"{each.feature} (cos {each.score:.2f})" for each in near]
            yield label, "   ".join(shown)


def _writes(where: "Written") -> str:
    """Return the share of a hookpoint, and what says whether a small one means anything."""
    said = f"{where.hookpoint} {where.share:.0%}"
    if where.nu_error is None or where.nu_reconstruction is None:
        return said
    return f"{said} (nu error {where.nu_error:.2f}, reconstruction {where.nu_reconstruction:.2f})"


def _fires(page: "FeaturePage") -> str:
    rows = page.provenance.n_rows
    if not page.n_firings:
        bound = page.density_bound
        below = "" if bound is None else f" (density below {value(bound)} at 95 %)"
        return f"never, on {count(rows)} rows{below}"
    contexts = page.statistics.get("n_contexts")
    where = f", in {count(int(contexts))} contexts" if contexts is not None else ""
    share = f"{page.density:.3%}" if page.density >= 1e-5 else value(page.density)  # noqa: PLR2004
    return f"{count(page.n_firings)} times on {count(rows)} rows (density {share}){where}"


def _logits(table: "LogitTable") -> RenderableType:
    head = f", head {table.head}" if table.head else ""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Promotes", "", "Suppresses", ""):
        grid.add_column(title, justify="left" if title else "right", no_wrap=True)
    for i in range(max(len(table.promoted), len(table.suppressed))):
        cells: list[str] = []
        for side in (table.promoted, table.suppressed):
            known = i < len(side)
            cells += [f"'{visible(side[i].token)}'", f"{side[i].value:.3f}"] if known else ["", ""]
        grid.add_row(*cells)
    outer = Table.grid()
    outer.add_row("")
    outer.add_row(Text(f"Tokens by logit score `{table.score}`{head}", style="bold"))
    outer.add_row(Padding(grid, (0, 0, 0, 2), expand=False))
    return outer


def _by_subsample(page: "FeaturePage") -> "Iterator[tuple[str, list[ExampleGroup]]]":
    names: dict[str, list[ExampleGroup]] = {}
    for group in page.groups:
        names.setdefault(group.subsample, []).append(group)
    yield from names.items()


def _chosen(groups: "list[ExampleGroup]", n: int) -> "list[tuple[ExampleGroup, Example]]":
    if len(groups) == 1:
        return [(groups[0], example) for example in groups[0].examples[:n]]
    filled = [group for group in reversed(groups) if group.examples]
    if n >= len(filled):
        picked = filled
    else:
        picked = [filled[i * (len(filled) - 1) // max(n - 1, 1)] for i in range(n)]
    return [(group, group.examples[0]) for group in picked]


def _heading(subsample: str, group: "ExampleGroup", *, key: Text | None) -> RenderableType:
    title = Text(SUBSAMPLES.get(group.kind, subsample), style="bold")
    if group.kind in NEGATIVES:
        title.append(f" ({count(group.n_eligible)} of them)", style="not bold")
    elif key is not None:
        title.append("  ").append_text(key)
    return Rule(title, align="left", characters="─", style="dim")


def _caption(number: int, group: "ExampleGroup", example: "Example") -> str:
    peak = "" if group.kind in NEGATIVES else f"peak {example.peak:.4f}  "
    if NEGATIVES.get(group.kind):
        peak = f"silent at {example.peak_position} '{visible(example.peak_token)}'  "
    part = f"part {group.stratum + 1} of {group.strata}  " if group.strata > 1 else ""
    return f"{number:>2}  {peak}{part}context {example.context}  {visible(example.document_id)}"


def _reads(example: "Example") -> Text:
    """Return the tokens that an attending feature reads from at the peak, and how much of each."""
    named = [
        f"'{visible(each.text)}' ({each.position}) {each.value:.4f}"
        for each in example.reads
        if each.position is not None
    ]
    rest = [f"others {each.value:.4f}" for each in example.reads if each.position is None]
    return Text(f"reads {'   '.join([*named[:_SHOWN], *rest])}", style="dim")


def _trimmed(example: "Example", around: int, text: Text) -> Text:
    """Put dots where the context goes on beyond what is shown."""
    first = max(example.window_start, example.peak_position - around)
    last = min(example.window_start + len(example.tokens), example.peak_position + around + 1)
    out = Text("… " if first > 0 else "")
    out.append_text(text[1:] if first > 0 and text.plain.startswith(" ") else text)
    return out.append(" …") if last < example.n_positions else out


def brief(console: Console, page: "FeaturePage", *, n: int, around: int = 10) -> None:
    """Print a feature in a few lines: how it fires, what it promotes, contexts of its words."""
    from saestore.features import different_words

    console.print(_title(page).append(f"   fires {_fires(page)}", style="not bold"))
    for table in page.logits[:1]:
        words = ", ".join(f"'{visible(t.token)}'" for t in table.promoted[:6])
        console.print(Padding(Text(f"promotes {words}"), (0, 0, 0, 2), expand=False))
    top = next((g for g in page.groups if g.kind == "top"), None)
    for example in different_words(top.examples, n) if top is not None else ():
        text = marked(example.cut(around).tokens, page.max, coloured=coloured(console))
        console.print(Padding(_trimmed(example, around, text), (0, 0, 0, 2), expand=False))
