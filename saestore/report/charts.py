"""Small charts as inline SVG: bars that take the colours of their page, numbers beside them.

Counts stand in `data-counts`, so that a script, or a reader of the file, has them exactly.
"""

from collections.abc import Mapping, Sequence
from html import escape

from saestore.features import DensityHistogram, Histogram
from saestore.numbers import count, value


_HIGH = 48
"""Height of the tallest bar."""
_STEP = 4
"""Width of a bar and the gap after it."""
_OCTAVE = 4
"""Bins of an octave in `log_value`, whose first lower edge is 2^(-96/4)."""
_FIRST = -96


def number(x: float | int | None, shown: str | None = None) -> str:
    """Return a number as people read it, its exact value beside it; a dash where it is undefined."""
    if x is None:
        return "–"
    return f'<data value="{x!r}">{value(x) if shown is None else shown}</data>'


def histogram(found: Histogram, title: str, unit: str) -> str:
    """Return a histogram with equal bins from its lower to its upper end; nothing if it is empty.

    Args:
        found: It.
        title: What it counts by.
        unit: What it counts.
    """
    if not any(found.counts):
        return ""
    if found.what != "log_value":
        return _chart(found.counts, title, unit, (found.lo, found.hi), found.what)
    first = next(n for n, each in enumerate(found.counts) if each)
    last = len(found.counts) - next(n for n, each in enumerate(found.counts[::-1]) if each)
    ends = (2.0 ** ((_FIRST + n) / _OCTAVE) for n in (first, last))
    return _chart(found.counts[first:last], title, unit, tuple(ends), found.what, log=True)


def densities(found: DensityHistogram) -> str:
    """Return how often features fire; nothing if none does."""
    if not found.counts:
        return ""
    ends = (10.0 ** found.edges[0], 10.0 ** found.edges[-1])
    return _chart(found.counts, "Density, log scale", "features", ends, "density", log=True)


def _chart(
    counts: Sequence[int],
    title: str,
    unit: str,
    ends: Sequence[float | int],
    what: str,
    *,
    log: bool = False,
) -> str:
    low, high = ends
    largest = max(counts)
    bars = "".join(
        f"M{n * _STEP},{_HIGH}v-{max(1, round(each / largest * _HIGH))}h{_STEP - 1}V{_HIGH}z"
        for n, each in enumerate(counts)
        if each
    )
    label = f"{title}: {len(counts)} bins from {value(low)} to {value(high)}, at most {count(largest)} {unit}"
    facts = {
        "what": what, "counts": " ".join(map(str, counts)), "lo": repr(low), "hi": repr(high),
        "unit": unit, "scale": "log" if log else "linear",
    }  # fmt: skip
    return (
        f'<figure class="chart"><figcaption><span>{escape(title)}</span> '
        f"<output>at most {count(largest)} {unit}</output></figcaption>"
        f'<svg viewBox="0 0 {len(counts) * _STEP - 1} {_HIGH}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}" {_data(facts)}><path d="{bars}"/></svg>'
        f'<div class="ends"><span>{value(low)}</span><span>{value(high)}</span></div></figure>'
    )


def quantiles(statistics: Mapping[str, float | int | None]) -> str:
    """Return where the values of a feature's firings lie between 0 and the largest, on a line."""
    top = float(statistics.get("max") or 0)
    names = ("q01", "q05", "q25", "q50", "q75", "q95", "q99")
    if top <= 0 or any(statistics.get(name) is None for name in names):
        return ""
    x = {name: f"{float(statistics[name] or 0) / top * 400:.1f}" for name in names}
    label = ", ".join(f"{name} {value(statistics[name])}" for name in names)
    return (
        f'<svg class="line" viewBox="0 0 400 20" preserveAspectRatio="none" role="img" '
        f'aria-label="Quantiles: {label}; largest {value(top)}">'
        f'<path class="axis" d="M0,10H400"/><path d="M{x["q01"]},7v6M{x["q99"]},7v6"/>'
        f'<path d="M{x["q05"]},10H{x["q95"]}"/>'
        f'<path class="box" d="M{x["q25"]},4H{x["q75"]}v12H{x["q25"]}z"/>'
        f'<path class="middle" d="M{x["q50"]},2v16"/></svg>'
    )


def _data(facts: Mapping[str, str]) -> str:
    return " ".join(f'data-{name}="{escape(each)}"' for name, each in facts.items())
