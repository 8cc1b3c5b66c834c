"""Artefacts as documents: which numbers and plots a dictionary or a sweep shows, from its page."""

import json
from collections.abc import Mapping, Sequence

from saestore.fingerprint import leaves
from saestore.numbers import count, share, value
from saestore.report.artefacts import (
    CheckpointPage,
    Curve,
    Densities,
    DictionaryPage,
    EvaluationPage,
    SweepPage,
)
from saestore.report.document import Bands, Density, Document, Lines, Plot, Points, Sheet
from saestore.report.interpretation_page import InterpretationPage
from saestore.words import interval, outcome, score, visible
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.manifest import Manifest


HEADLINES = {
    "explained_variance": "explained variance",
    "l0": "L0",
    "ce_recovered[zero]": "CE recovered",
    "dead[all]": "dead",
}
"""Scores of an evaluation to see first, and what they are called there."""

_LAST = {
    "ev_batch": "explained variance, last batch",
    "l0_mean": "L0, last batch",
    "dead": "dead features",
    "loss": "loss",
}
"""Metrics to see first where there is no evaluation."""


_RECOVERED = ("ce_recovered[zero]", "ce_recovered[mean]")
_DEAD = ("dead", "dead_1e5", "dead_1e6", "dead_1e7")


def document(page: DictionaryPage | CheckpointPage | SweepPage) -> Document:
    """Return the report of an artefact."""
    if isinstance(page, DictionaryPage):
        return _dictionary(page)
    if isinstance(page, SweepPage):
        return _sweep(page)
    figures = _figures(page.curves, ())
    plots = _plots(page.curves, page.densities, {})
    foot = f"a checkpoint; there are {', '.join(map(str, page.steps))}"
    return Document(page.name, _summary(page.config), figures, plots, (), foot)


def _dictionary(page: DictionaryPage) -> Document:
    settings = Sheet(
        "Settings",
        ("setting", "value"),
        tuple(sorted(leaves(page.manifest.settings))),
        folded=True,
    )
    return Document(
        page.manifest.name,
        _summary(page.config),
        _figures(page.curves, page.evaluations),
        _plots(page.curves, page.densities, page.timings),
        (*map(scores, page.evaluations), settings),
        _foot(page.manifest),
    )


def _summary(config: DictionaryConfig) -> str:
    activation = config.semantics.activation.model_dump()
    kind = activation.pop("kind")
    options = " ".join(f"{name} {value(x)}" for name, x in activation.items())
    reads = ", ".join(config.hookpoints_in)
    trained = config.train
    rows = f"; {trained.rows:,} rows in {trained.steps:,} steps" if trained is not None else ""
    return (
        f"{config.family} with {f'{kind} {options}'.strip()}: {config.features:,} features of {reads}, "
        f"{' + '.join(map(str, config.d_in))} wide{rows}"
    )


def _figures(
    curves: Mapping[str, Curve], evaluations: Sequence[EvaluationPage]
) -> tuple[tuple[str, str], ...]:
    if evaluations:
        newest = max(evaluations, key=lambda each: each.manifest.created)
        found = {score.metric: score.value for score in newest.scores}
        return tuple(
            (short, value(found[name])) for name, short in HEADLINES.items() if name in found
        )
    return tuple(
        (short, value(curves[name].values[-1])) for name, short in _LAST.items() if name in curves
    )


def _plots(
    curves: Mapping[str, Curve], densities: Densities, timings: Mapping[str, Curve]
) -> tuple[Plot, ...]:
    """Return the plots that a run's metrics allow."""
    evaluated = [f"evaluate/{score}" for score in ("explained_variance", *_RECOVERED)]
    weights = [name for name in curves if name.startswith("weight_")]
    terms = [name for name in curves if name.startswith("loss") and name != "loss_scale"]
    wanted = [
        _lines("Loss and its terms", curves, terms, log=True),
        _lines("Explained variance of each logged batch", curves, ["ev_batch"]),
        _bands("Firings a row: mean, 5 to 95 %", curves, {"L0": ("l0_p5", "l0_mean", "l0_p95")}),
        _moving(_SILENT, curves, _DEAD),
        _density(densities),
        _bands(
            "Lengths of vectors: mean, smallest to largest",
            curves,
            {
                "encoder": ("enc_norm_min", "enc_norm_mean", "enc_norm_max"),
                "decoder": ("dec_norm_min", "dec_norm_mean", "dec_norm_max"),
            },
        ),
        _bands(
            "Thresholds: mean, smallest to largest",
            curves,
            {"threshold": ("threshold_min", "threshold_mean", "threshold_max")},
        ),
        _lines("Gradient length before clipping", curves, ["grad_norm"], log=True),
        _moving("Learning rate", curves, ["lr"]),
        _moving(_WEIGHTS, curves, weights),
        _moving("k", curves, ["k"]),
        _lines(_HELD_OUT, curves, evaluated),
        _moving("Rows a second", timings, ["rows_per_s"]),
    ]
    return tuple(plot for plot in wanted if plot is not None)


_SILENT, _WEIGHTS = "Features silent for so many rows", "Weights of the terms"
_HELD_OUT = "Held-out rows, while training"
_OF_SEVERAL = (_SILENT, _WEIGHTS, _HELD_OUT)
"""Titles that do not say what a curve is that is alone."""


def _lines(
    title: str, curves: Mapping[str, Curve], names: Sequence[str], *, log: bool = False
) -> Lines | None:
    found = {name: curves[name] for name in names if name in curves}
    return _of(title, found, log=log)


def _moving(title: str, curves: Mapping[str, Curve], names: Sequence[str]) -> Lines | None:
    """Return the curves that change over the run: the others are numbers, not curves."""
    found = {
        name: curves[name] for name in names if name in curves and len({*curves[name].values}) > 1
    }
    return _of(title, found, from_zero=True)


def _of(
    title: str, found: Mapping[str, Curve], *, log: bool = False, from_zero: bool = False
) -> Lines | None:
    if not found:
        return None
    if len(found) == 1 and title in _OF_SEVERAL:
        title = f"{title}: {next(iter(found)).rpartition('/')[2]}"
    return Lines(
        title,
        {name: curve.steps for name, curve in found.items()},
        {name: curve.values for name, curve in found.items()},
        log,
        from_zero,
    )


def _bands(
    title: str, curves: Mapping[str, Curve], names: Mapping[str, tuple[str, str, str]]
) -> Bands | None:
    found = {
        name: (curves[low].values, curves[middle].values, curves[high].values)
        for name, (low, middle, high) in names.items()
        if {low, middle, high} <= curves.keys()
    }
    if not found:
        return None
    first = next(iter(names.values()))[1]
    return Bands(title, curves[first].steps, found)


def _density(densities: Densities) -> Density | None:
    if not densities.steps:
        return None
    shares = tuple(
        tuple(count / (sum(counts) or 1) for count in counts) for counts in densities.counts
    )
    last = len(densities.counts[0]) - 2
    bins = (*(f"above 1e-{i + 1}" for i in range(last)), f"below 1e-{last}", "never")
    return Density("Share of features by density", densities.steps, shares, bins)


def scores(page: EvaluationPage) -> Sheet:
    """Return the scores of an evaluation, each with its meaning."""
    name = page.manifest.name.rsplit("/", 1)[-1]
    rows = tuple(
        (score.metric, value(score.value), score.unit, count(score.n), score.meaning)
        for score in page.scores
    )
    return Sheet(f"Evaluation {name}", ("score", "value", "unit", "of", "meaning"), rows)


def interpretation(page: InterpretationPage) -> Document:
    """Return what a run of `interpret` took, how well its explanations hold, and the best and worst."""
    manifest = page.manifest
    facts = manifest.facts
    counted = {name: n for each in page.outcomes.values() for name, n in each.items()}
    for name in counted:
        counted[name] = sum(each.get(name, 0) for each in page.outcomes.values())
    figures = (
        ("model", str(facts["model"])),
        *((outcome(name), count(n)) for name, n in counted.items()),
        ("tokens sent", value(facts["prompt_tokens"])),
        ("tokens received", value(facts["completion_tokens"])),
        ("cost", "not known" if facts["cost"] is None else value(facts["cost"])),
    )
    scores = tuple(
        (
            each.explainer,
            each.scorer,
            score(each.mean),
            interval(each.ci_low, each.ci_high),
            f"{count(each.n_scored)} of {count(each.n)}",
            "-" if each.unparsed is None else share(each.unparsed),
        )
        for each in page.judged
    )
    columns = ("explainer", "scorer", "mean", "95 % interval", "scored", "unreadable answers")
    sheets = [Sheet("How well explanations hold", columns, scores)] if scores else []
    for title, found in (("Best explained", page.best), ("Worst explained", page.worst)):
        rows = tuple(
            (str(each.feature), score(each.score), each.explainer, visible(each.text))
            for each in found
        )
        if rows:
            sheets.append(Sheet(title, ("feature", "score", "explainer", "explanation"), rows))
    summary = f"Explanations of features of {page.analysis}"
    return Document(manifest.name, summary, figures, (), tuple(sheets), _foot(manifest))


def _sweep(page: SweepPage) -> Document:
    names = list(dict.fromkeys(name for item in page.items for name in item.scores))
    rows = tuple(
        (
            item.name,
            json.dumps(item.change, ensure_ascii=False),
            f"{item.status.replace('_', ' ')}{f': {item.message}' if item.message else ''}",
            *(value(item.scores.get(name)) for name in names),
            item.evaluation or "last training batch",
        )
        for item in page.items
    )
    beside = f"left out, diverged: {', '.join(map(_last, page.diverged))}" if page.diverged else ""
    plots = tuple(
        Points(
            f"{name} against L0",
            "L0",
            name,
            {_last(item): point for item, point in page.points(name).items()},
            tuple(map(_last, front)),
            beside,
        )
        for name, front in page.fronts.items()
    )
    counts = page.manifest.counts
    return Document(
        f"Sweep {page.manifest.name}",
        "Orange: no other dictionary is both sparser and better.",
        (("dictionaries", str(counts["dictionaries"])), ("diverged", str(counts["diverged"]))),
        plots,
        (Sheet("Dictionaries", ("name", "its own", "status", *names, "scores of"), rows),),
        _foot(page.manifest),
    )


def _last(name: str) -> str:
    """Return the last part of a name: within a sweep, they have one series."""
    return name.rsplit("/", 1)[-1]


def _foot(manifest: Manifest) -> str:
    return (
        f"{manifest.kind} {manifest.name}, fingerprint {manifest.fingerprint[:16]}, "
        f"written {manifest.created:%Y-%m-%d %H:%M} UTC "
        f"by saestore {manifest.versions.get('saestore', '?')}"
    )
