"""The columns of `interpretation_scores`, from verdicts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from saestore.interpret import metrics
from saestore.interpret.scorers.base import Score, Verdict


KnownBy = Literal["balanced_accuracy", "auroc"]
"""The number that a scorer of answers is known by."""

_ENDS = {
    "balanced_accuracy": metrics.accuracy_interval,
    "auroc": metrics.auroc_interval,
}


def of_answers(verdicts: Sequence[Verdict], *, bootstrap: int, seed: int) -> Score:
    """Return the score of answers that are right or wrong.

    Args:
        verdicts: One of each item.
        bootstrap: Resamplings for the interval; 0, there is none.
        seed: Of the resampling.
    """
    judged = _judged(verdicts)
    told = [v for v in verdicts if v.outcome != "unparsed" and v.probability is not None]
    tp, fp, tn, fn = judged.counts
    return _score(
        verdicts,
        judged,
        "balanced_accuracy",
        bootstrap=(bootstrap, seed),
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        balanced_accuracy=judged.balanced_accuracy,
        balanced_accuracy_all=judged.balanced_accuracy_all,
        precision=judged.precision,
        recall=judged.recall,
        f1=judged.f1,
        brier=metrics.brier(
            np.array([v.probability for v in told], dtype=np.float64),
            np.array([v.item.label for v in told], dtype=np.bool_),
        ),
    )


def of_likelihoods(verdicts: Sequence[Verdict], *, bootstrap: int, seed: int) -> Score:
    """Return the score of likelihoods without a yes or no, such as cosines; see `of_answers`."""
    return _score(verdicts, _judged(verdicts), "auroc", bootstrap=(bootstrap, seed))


def of_strengths(verdicts: Sequence[Verdict], *, bootstrap: int, seed: int) -> Score:
    """Return the score of strengths told token by token; tokens that were not analysed do not count."""
    parsed = [v for v in verdicts if v.outcome != "unparsed"]
    tokens = [
        (told, abs(token.value), v.item.place)
        for v in parsed
        for told, token in zip(v.values, v.item.snippet.example.tokens, strict=True)
        if token.kept
    ]
    simulated = metrics.Simulated(
        np.array([told for told, _, _ in tokens], dtype=np.float64),
        np.array([true for _, true, _ in tokens], dtype=np.float64),
        np.array([place for _, _, place in tokens], dtype=np.int64),
    )
    interval = simulated.interval(resamples=bootstrap, seed=seed)
    return Score(
        _UNDEFINED
        | {
            "n": len(verdicts),
            "n_parsed": len(parsed),
            "correlation": simulated.correlation,
            "score": simulated.correlation,
            "why_null": simulated.constant if verdicts else _NOTHING,
        }
        | _ends(interval)
    )


_NOTHING = "there was nothing to ask about"
_UNDEFINED: dict[str, float | int | str | list[float | None] | None] = {
    "n": 0,
    "n_parsed": 0,
    "tp": 0,
    "fp": 0,
    "tn": 0,
    "fn": 0,
    "balanced_accuracy": None,
    "balanced_accuracy_all": None,
    "precision": None,
    "recall": None,
    "f1": None,
    "auroc": None,
    "brier": None,
    "correlation": None,
    "score": None,
    "ci_low": None,
    "ci_high": None,
    "by_decile": [],
    "why_null": None,
}
"""All columns, in order."""


def _score(
    verdicts: Sequence[Verdict],
    judged: metrics.Judged,
    known_by: KnownBy,
    *,
    bootstrap: tuple[int, int],
    **more: float | int | None,
) -> Score:
    deciles = np.array([-1 if (d := v.item.decile) is None else d for v in verdicts], np.int64)
    score = getattr(judged, known_by)
    interval = None
    if score is not None:
        interval = _ENDS[known_by](judged, resamples=bootstrap[0], seed=bootstrap[1])
    return Score(
        _UNDEFINED
        | more
        | {
            "n": len(verdicts),
            "n_parsed": int(judged.parsed.sum()),
            "auroc": judged.auroc,
            "score": score,
            "by_decile": [getattr(each, known_by) for each in judged.of_strata(deciles)],
            "why_null": None if score is not None else _why_null(judged),
        }
        | _ends(interval)
    )


def _ends(interval: metrics.Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"ci_low": low, "ci_high": high}


def _why_null(judged: metrics.Judged) -> str:
    if not len(judged.label):
        return _NOTHING
    if not judged.parsed.any():
        return "no answer could be read"
    kind = "negative" if judged.label[judged.parsed].all() else "positive"
    there = judged.label if kind == "positive" else ~judged.label
    return f"no answer about a {kind} could be read" if there.any() else f"there was no {kind}"


def _judged(verdicts: Sequence[Verdict]) -> metrics.Judged:
    return metrics.Judged(
        np.array([v.item.label for v in verdicts], dtype=np.bool_),
        np.array([bool(v.answer) for v in verdicts], dtype=np.bool_),
        np.array([v.outcome != "unparsed" for v in verdicts], dtype=np.bool_),
        np.array([_likelihood(v) for v in verdicts], dtype=np.float64),
    )


def _likelihood(verdict: Verdict) -> float:
    """Return what orders examples: a probability, else yes before no."""
    return float(bool(verdict.answer)) if verdict.probability is None else verdict.probability
