"""How a dictionary was trained, in a terminal: its kind, curves over the run, densities."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from saestore.numbers import count, value
from saestore_cli.drawing import bars, curve, pairs, plain_table


if TYPE_CHECKING:
    from saestore.report.artefacts import Curve, Densities
    from saestore_schemas.dictionary import DictionaryConfig

CURVES = (
    "ev_batch", "l0_mean", "dead", "k", "threshold_mean", "grad_norm", "dec_norm_mean", "lr",
)  # fmt: skip
"""Metrics shown below the loss and its terms, where a run has them."""

EVALUATED = (
    "explained_variance", "l0", "cosine", "ce_recovered[zero]", "delta_ce", "dead[all]",
)  # fmt: skip
"""Scores of `evaluate_every` shown; metrics.parquet has the others."""

_BESIDE = 48
"""Columns of names and numbers beside a curve."""


def facts_of(config: "DictionaryConfig", found: Mapping[str, Any]) -> list[tuple[str, Text | str]]:
    """Return what a dictionary is, line by line.

    Args:
        config: What its weights mean.
        found: Facts of its manifest.
    """
    activation = config.semantics.activation.model_dump()
    kind = activation.pop("kind")
    trained = config.train
    rows: list[tuple[str, Text | str]] = [
        ("family", f"{config.family}, {kind} {pairs(list(activation.items()))}".rstrip()),
        (
            "reads",
            f"{', '.join(config.hookpoints_in)}, {' + '.join(count(d) for d in config.d_in)} wide",
        ),
        *_heads(config),
        ("features", count(config.features)),
        ("scale", ", ".join(sorted({f"{s.kind} ({s.state})" for s in config.scale.values()}))),
    ]
    if trained is not None:
        rows.append(("trained", f"{count(trained.rows)} rows in {count(trained.steps)} steps"))
    converted = found.get("converted")
    if isinstance(converted, dict):
        rows.extend(_converted(converted))
    early = found.get("stopped_early")
    if isinstance(early, dict):
        best = value(early.get("best"))
        rows.append(("ended early", f"{early.get('metric')} no longer beat {best}"))
    return rows


def _heads(config: "DictionaryConfig") -> list[tuple[str, Text | str]]:
    """Return where each head lies, of a dictionary of several stores."""
    heads = config.heads or {}
    of = {
        name: "" if head.model is None else f" of {head.model.name}" for name, head in heads.items()
    }
    return [(name, f"{head.hookpoint}{of[name]}") for name, head in heads.items()]


def _converted(found: Mapping[str, Any]) -> list[tuple[str, Text | str]]:
    """Return what a dictionary was converted from, and how far its codes are the same."""
    was = found["activation"]["kind"]
    how = "the same codes" if found["exact"] else f"L0 {value(found['l0'])} at its thresholds"
    if "gating" in found:
        how = f"heads gating {found['gating']}, {how}"
    rows: list[tuple[str, Text | str]] = [("converted", f"from {found['from']} ({was}), {how}")]
    if "l0_measured" in found:
        where = (
            f"{count(found['measured_rows'])} {str(found['measured_on']).replace('_', '-')} rows"
        )
        both = f"firings of both {value(found['firings_shared'])}"
        l0 = f"L0 {value(found['l0_measured'])}, before {value(found['l0_before'])}"
        rows.append(("measured", f"{l0}, on {where}; {both}"))
    return rows


def draw(curves: Mapping[str, "Curve"], densities: "Densities", console: Console) -> None:
    """Print curves over the run, and how often features fired in the end."""
    names = [name for name in curves if name.startswith("loss") and name != "loss_scale"]
    names.sort(key=lambda name: (name != "loss", name != "loss_mse"))
    names += [name for name in CURVES if name in curves]
    names += [name for name in (f"evaluate/{score}" for score in EVALUATED) if name in curves]
    if not names:
        return
    console.print()
    table = plain_table("metric", ">first", "over the run", ">last")
    for name in names:
        values = curves[name].values
        known = [x for x in values if x is not None]
        ends = (value(known[0]), value(known[-1])) if known else ("-", "-")
        table.add_row(name, ends[0], curve(values, console.width - _BESIDE), ends[1])
    console.print(table)
    if densities.counts:
        *firing, never = densities.counts[-1]
        console.print()
        console.print(Text("Features by density in the end (firings a row)", style="bold"))
        wide = "".join(each * 4 for each in bars(list(reversed(firing))))
        console.print(f"  below 1e-{len(firing) - 1} {wide} 1, and {count(never)} that never fired")
