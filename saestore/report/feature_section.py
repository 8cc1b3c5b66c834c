"""One feature as a section of an HTML page: statistics and charts at the left, contexts at the right.

A section is at most 170 kB, whatever was analysed: contexts are cut to 32 tokens on each side of their
peak, and the strongest ones of each group come first until a share of the section is full. What is
left out is told.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from saestore.features import (
    Coactive,
    Example,
    ExampleGroup,
    FeaturePage,
    HeadPair,
    LogitTable,
    Neighbour,
    TokenCount,
)
from saestore.numbers import count, value
from saestore.report import charts, explained, passages, said
from saestore.report.charts import number
from saestore.words import ALIKE, BESIDE, NEGATIVES, QUANTILES, SUBSAMPLES, WITHOUT_FIRINGS


EXAMPLES = 120_000
"""Bytes of a section's contexts, at most."""
AROUND = 32
"""Tokens on each side of a context's peak."""

_SHOWN = 10
"""Lines of a table of tokens or features."""
_PAIRS = 36
"""Pairs of hookpoints whose vectors are compared: all of nine."""
_SURE = 5
"""Fewest firings on a token whose lift means something."""
_TINY = 1e-5
"""A density below this is written as a power of ten."""


Link = Callable[[int], str]
"""Returns a feature's number as HTML, leading to the feature if it is shown somewhere."""


@dataclass(frozen=True)
class Place:
    """Where a section stands.

    Attributes:
        features: Features that have a section in the file, in their order.
        at: Which of them this is.
    """

    features: Sequence[int]
    at: int

    def link(self, feature: int) -> str:
        """Return a feature's number, leading to its section if it has one."""
        here = feature in set(self.features)
        return f'<a href="#feature-{feature}">{feature}</a>' if here else str(feature)


def section(page: FeaturePage, place: Place) -> str:
    """Return the section of a feature.

    Args:
        page: The feature.
        place: Where the section stands.
    """
    name = f"feature-{page.feature}"
    return (
        f'<article class="feature" id="{name}" aria-labelledby="{name}-name">\n'
        f"{_head(page, place, name)}\n"
        f"{columns(page, place.link)}</article>"
    )


def columns(page: FeaturePage, link: Link, *, room: int = EXAMPLES) -> str:
    """Return what a feature is like at the left, and its contexts at the right.

    Args:
        page: The feature.
        link: Leads to other features.
        room: Bytes of its contexts, at most.
    """
    panels = [
        _panel("Values", _values(page)),
        *(
            _panel(f"Logits, score {escape(table.score)}", _logits(page, table))
            for table in page.logits
        ),
        _panel("Tokens", _tokens(page)),
        _panel("Related features", _related(page, link)),
        _panel("Hookpoints", _hookpoints(page)),
        _panel("All numbers", _all(page), folded=True),
    ]
    return (
        f'<div class="columns"><div class="panels">{"".join(panels)}</div>\n'
        f'<div class="contexts">{_contexts(page, room)}</div></div>'
    )


def _head(page: FeaturePage, place: Place, name: str) -> str:
    here = list(place.features)
    before, after = place.at - 1, place.at + 1
    links = [
        f'<a href="#feature-{here[before]}" rel="prev">← {here[before]}</a>' if before >= 0 else "",
        '<a href="#top">all</a>' if len(here) > 1 else "",
        f'<a href="#feature-{here[after]}" rel="next">{here[after]} →</a>'
        if after < len(here)
        else "",
    ]
    return (
        f'<header><h2 id="{name}-name">{title(page)}</h2>'
        f'<nav aria-label="Features">{" ".join(filter(None, links))}</nav>'
        f'<p class="quiet">{escape(page.series)}/{escape(page.dictionary)}: {fires(page)}</p></header>'
        f"{figures(page)}{said.annotations(page)}{explained.explanations(page)}"
    )


def title(page: FeaturePage) -> str:
    """Return what a feature is called: its number and the token it fires on most often."""
    top = "" if page.top_token is None else f" {chip(page.top_token)}"
    return f"Feature {page.feature}{top}"


def fires(page: FeaturePage) -> str:
    """Return how often a feature fires, in words."""
    rows = page.provenance.n_rows
    if not page.n_firings:
        bound = page.density_bound
        below = "" if bound is None else f"; density below {number(bound)} at 95 %"
        return f"never fires on {number(rows)} rows{below}"
    contexts = page.statistics["n_contexts"]
    return (
        f"fires on {number(page.n_firings)} of {number(rows)} rows, in {number(contexts)} contexts"
    )


def figures(page: FeaturePage) -> str:
    """Return the numbers to see first, those that are defined."""
    return f'<dl class="figures">{"".join(_figures(page))}</dl>'


def _figures(page: FeaturePage) -> Iterator[str]:
    known = page.statistics
    density = f"{page.density:.3%}" if page.density >= _TINY else value(page.density)
    first = known.get("first_position_share")
    share = known.get("top_token_share")
    shown = [
        ("density", known.get("density") or None, density),
        ("largest value", known.get("max"), None),
        ("mean", known.get("mean"), None),
        ("std", known.get("std"), None),
        ("on its top token", share, f"{share or 0:.1%}"),
        ("at first positions", first, f"{first or 0:.1%}"),
        ("decoder length", known.get("dec_norm"), None),
        ("encoder–decoder cosine", known.get("enc_dec_cos"), None),
        ("encoder bias", known.get("b_enc"), None),
        ("threshold", known.get("threshold"), None),
        ("rank", known.get("rank"), None),
        ("mean value / norm scale", known.get("logit_scale"), None),
    ]
    for name, x, text in shown:
        if x is not None:
            yield f"<div><dt>{name}</dt><dd>{number(x, text)}</dd></div>"


def _panel(title: str, content: str, *, folded: bool = False) -> str:
    """Return a part of the page; nothing if it has no content."""
    if not content:
        return ""
    if folded:
        return f'<details class="panel"><summary>{title}</summary>{content}</details>'
    return f'<div class="panel"><h3>{title}</h3>{content}</div>'


def _values(page: FeaturePage) -> str:
    if not page.n_firings:
        return ""
    titles = {
        "value": ("Values", "firings"),
        "log_value": ("Values, log scale", "firings"),
        "position": ("Position in the context", "firings"),
    }
    drawn = "".join(
        charts.histogram(page.histograms[what], *said)
        for what, said in titles.items()
        if what in page.histograms
    )
    if not page.keeps_firings:
        return f'{drawn}<p class="quiet">Quantiles of its values: {escape(WITHOUT_FIRINGS)}.</p>'
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{number(page.statistics.get(what))}</dd></div>"
        for what, name in QUANTILES.items()
    )
    line = f'{charts.quantiles(page.statistics)}<dl class="quantiles">{cells}</dl>'
    return f'{drawn}<figure class="chart"><figcaption>Quantiles of its values</figcaption>{line}</figure>'


def _logits(page: FeaturePage, table: LogitTable) -> str:
    head = f'<p class="quiet">at head {table.head}</p>' if table.head else ""
    sides = "".join(
        _table(
            (title, "score"),
            (
                (chip(each.token), number(each.value, f"{each.value:.3f}"))
                for each in tokens[:_SHOWN]
            ),
        )
        for title, tokens in (("Promotes", table.promoted), ("Suppresses", table.suppressed))
    )
    counted = page.of_scores(table)
    drawn = "" if counted is None else charts.histogram(counted, "Score of every token", "tokens")
    return f'{head}<div class="pair">{sides}</div>{drawn}'


def _tokens(page: FeaturePage) -> str:
    found = []
    for table in page.tokens:
        found.append(_counted(BESIDE[table.shift], table.tokens[:_SHOWN]))
        lifted = [each for each in table.tokens if each.lift is not None and each.n >= _SURE]
        if lifted:
            lifted.sort(key=lambda each: (-(each.lift or 0), each.token_id))
            found.append(_counted("by lift", lifted[:_SHOWN]))
    return "".join(found)


def _counted(title: str, tokens: Sequence[TokenCount]) -> str:
    lift = any(each.lift is not None for each in tokens)
    columns = (title, "firings", "of all", *(("lift",) if lift else ()))
    return _table(
        columns,
        (
            (
                chip(each.token),
                number(each.n),
                number(each.share, f"{each.share:.1%}"),
                *((number(each.lift),) if lift else ()),
            )
            for each in tokens
        ),
    )


def _related(page: FeaturePage, link: Link) -> str:
    found = [_coactive(page.coactive[:_SHOWN], link)] if page.coactive else []
    for method, title in ALIKE.items():
        near = [each for each in page.neighbours if each.method == method][:_SHOWN]
        if near:
            found.append(_near(title, near, link))
    return "".join(found)


def _coactive(others: Sequence[Coactive], link: Link) -> str:
    table = _table(
        ("fires with", "phi", "Jaccard", "lift", "rows of both"),
        (
            (
                link(each.feature),
                number(each.phi, f"{each.phi:.3f}"),
                number(each.jaccard, f"{each.jaccard:.3f}"),
                number(each.lift),
                number(each.n_both),
            )
            for each in others
        ),
    )
    return f'{table}<p class="quiet">counted on {count(others[0].n_rows)} rows</p>'


def _near(title: str, near: Sequence[Neighbour], link: Link) -> str:
    lines = ((link(each.feature), number(each.score, f"{each.score:.3f}")) for each in near)
    return _table((title, "cosine"), lines)


def _hookpoints(page: FeaturePage) -> str:
    """Return how much it writes where, and how alike that is, of dictionaries that write to several."""
    if not page.writes:
        return ""
    nu = any(each.nu_error is not None for each in page.writes)
    writes = _table(
        ("writes to", "length", "share", *(("ν error", "ν rec.") if nu else ())),
        (
            (
                escape(each.hookpoint),
                number(each.norm),
                _meter(each.share),
                *((number(each.nu_error), number(each.nu_reconstruction)) if nu else ()),
            )
            for each in page.writes
        ),
    )
    return writes + _pairs(page.pairs)


def _pairs(pairs: Sequence[HeadPair]) -> str:
    """Return how alike what it writes at every two hookpoints is; of many, the most alike."""
    if not pairs:
        return ""
    most = sorted(pairs, key=lambda pair: -abs(pair.cosine or 0.0))[:_PAIRS]
    shown = [pair for pair in pairs if pair in most]  # in their order
    table = _table(
        ("alike at", "and", "cosine"),
        (
            (escape(each.one), escape(each.other), number(each.cosine, _cosine(each.cosine)))
            for each in shown
        ),
    )
    of = f'<p class="quiet">the most alike {len(shown)} of {len(pairs)}</p>'
    return table + (of if len(shown) < len(pairs) else "")


def _meter(share: float) -> str:
    drawn = number(share, f"{share:.1%}")
    return f'<span class="meter {passages.strength(share)}">{drawn}</span>'


def _cosine(x: float | None) -> str:
    return "" if x is None else f"{x:.3f}"


def _all(page: FeaturePage) -> str:
    return _table(
        ("column of features", "value"),
        ((name, "–" if x is None else number(x, repr(x))) for name, x in page.statistics.items()),
    )


def _contexts(page: FeaturePage, room: int) -> str:
    shown = _chosen(page, room)
    parts = []
    for n, (kind, groups) in enumerate(_by_subsample(page).items()):
        figures = [
            figure
            for group in sorted(groups, key=lambda g: -g.stratum)
            for figure in shown.get((group.subsample, group.stratum), ())
        ]
        if not figures:
            continue
        held = sum(len(group.examples) for group in groups)
        title = SUBSAMPLES.get(groups[0].kind, kind)
        said = f"{len(figures)} of {held} here" if len(figures) < held else f"{held}"
        of = f", of {count(sum(group.n_eligible for group in groups))} contexts"
        parts.append(
            f'<details class="group"{" open" if n == 0 else ""}><summary><h3>{escape(title)}</h3> '
            f'<span class="quiet">{escape(kind)}: {said}{of}</span></summary>'
            f"{''.join(figures)}</details>"
        )
    return "".join(parts)


def _by_subsample(page: FeaturePage) -> Mapping[str, list[ExampleGroup]]:
    found: dict[str, list[ExampleGroup]] = {}
    for group in page.groups:
        found.setdefault(group.subsample, []).append(group)
    return found


def _chosen(page: FeaturePage, room: int) -> dict[tuple[str, int], list[str]]:
    """Return the contexts that have room, by subsample and stratum: first of each the first, and so on."""
    longest = max((len(group.examples) for group in page.groups), default=0)
    cut = page.cut(n=longest, around=AROUND)
    order = [
        (group, example)
        for rank in range(longest)
        for group in cut.groups
        for example in group.examples[rank : rank + 1]
    ]
    found: dict[tuple[str, int], list[str]] = {}
    left = room
    for group, example in order:
        drawn = passages.figure(example, page.max, _where(group, example))
        left -= len(drawn.encode())
        if left < 0:
            break
        found.setdefault((group.subsample, group.stratum), []).append(drawn)
    return found


def _where(group: ExampleGroup, example: Example) -> str:
    part = f"part {group.stratum + 1} of {group.strata} · " if group.strata > 1 else ""
    if NEGATIVES.get(group.kind):
        part += f"at {example.peak_position} {chip(example.peak_token)} · "
    return f"{part}{passages.text(example.document_id)} · context {example.context}"


def chip(words: str) -> str:
    """Return a token that stands among words."""
    return f'<code class="token">{passages.token(words)}</code>'


def _table(columns: Sequence[str], lines: Iterator[Sequence[str]]) -> str:
    """Return a table, numbers to the right; cells are HTML."""
    first, *rest = columns
    head = f'<th scope="col">{first}</th>' + "".join(
        f'<th scope="col" class="n">{name}</th>' for name in rest
    )
    body = "".join(
        f"<tr><td>{line[0]}</td>{''.join(f'<td class=n>{cell}</td>' for cell in line[1:])}</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
