"""A feature's page made by hand, for what draws it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue

from saestore.features import (
    Coactive,
    Example,
    ExampleGroup,
    Explanation,
    ExplanationScore,
    FeaturePage,
    Histogram,
    LogitTable,
    LogitToken,
    Neighbour,
    Provenance,
    TokenCount,
    TokenPiece,
    TokenTable,
)
from saestore_schemas.annotations import AnnotationEvent, AnnotationField


def annotation(field: AnnotationField, value: JsonValue, *, author: str = "ana") -> AnnotationEvent:
    """Return what somebody says about feature 17."""
    return AnnotationEvent(
        event_id="01ARYZ6S410000000000000000",
        feature=17,
        field=field,
        value=value,
        author=author,
        source="test",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


def explanation(
    text: str | None,
    scores: Mapping[str, float | None],
    *,
    explainer: str = "quantile",
    run: str = "first",
) -> Explanation:
    """Return what a model says that feature 17 stands for, with intervals of 0.1 beside its scores."""
    return Explanation(
        run=run,
        explainer=explainer,
        kind="quantile",
        model="test-model",
        prompt_version="quantile-1",
        text=text,
        outcome="unparsed" if text is None else "answered",
        consistency=4,
        complexity=2,
        reasoning=None,
        created="2026-01-02T03:04:05+00:00",
        scores=tuple(
            ExplanationScore(
                scorer=scorer,
                kind="detection",
                score=score,
                ci_low=None if score is None else score - 0.1,
                ci_high=None if score is None else score + 0.1,
                n=40,
                n_parsed=0 if score is None else 40,
                counts={"tp": 1, "fp": 1, "tn": 1, "fn": 1},
                metrics={"balanced_accuracy": score},
                by_decile=(score,) * 10,
                why_null="no answer could be read" if score is None else None,
            )
            for scorer, score in scores.items()
        ),
    )


def example(
    words: Sequence[str],
    values: Sequence[float],
    *,
    rank: int = 0,
    n_positions: int | None = None,
    start: int = 0,
) -> Example:
    """Return an example whose window begins at position `start`."""
    peak = max(values)
    at = list(values).index(peak)
    return Example(
        context=7 + rank,
        rank=rank,
        peak=peak,
        peak_position=start + at,
        window_start=start,
        n_positions=n_positions or len(words),
        source="books",
        document=3,
        document_id="books/alice.txt",
        tokens=tuple(
            TokenPiece(text=word, value=value, special=False, kept=True)
            for word, value in zip(words, values, strict=True)
        ),
    )


WORDS = ("She", " said", "\n", " the", " cat", "\t", " sat", " on", " the", " mat", "\x1b[31m", ".")
VALUES = (0.0, 0.0, 0.0, 1.5, 0.0, 0.0, 0.0, 0.2, 9.25, 4.0, 0.0, 0.0)


def page(**changes: Any) -> FeaturePage:
    """Return a page with a feature of each kind of thing; `changes` replace fields."""
    silent = example(["no", "thing"], [0.0, 0.0], n_positions=40)
    content: dict[str, Any] = {
        "series": "demo",
        "dictionary": "topk-32",
        "analysis": "default",
        "feature": 17,
        "n_features": 4608,
        "n_layers": 1,
        "statistics": {
            "n_rows": 250000, "n_firings": 12345, "density": 0.04938, "n_contexts": 310, "mean": 2.5, "std": 1.25,
            "max": 9.25, "top_token_share": 0.61, "dec_norm": 1.0, "b_enc": -0.125,
            "enc_dec_cos": 0.71, "threshold": None,
            **dict(zip(
                ["q01", "q05", "q10", "q25", "q50", "q75", "q90", "q95", "q99"],
                [0.1, 0.2, 0.3, 0.8, 2.1, 3.5, 6.5, 7.5, 9.0], strict=True)),
        },
        "top_token": " the",
        "histograms": {
            "value": Histogram("value", 0.0, 9.25, tuple(range(50, 0, -1))),
            "logit:direction": Histogram("logit:direction", -1.1, 1.234, (*range(25), *range(25, 0, -1))),
        },
        "logits": (
            LogitTable(
                score="direction",
                head=0,
                promoted=(LogitToken(1, " the", 1.234), LogitToken(2, "\n", 0.5)),
                suppressed=(LogitToken(3, " zebra", -1.1),),
                statistics={"mean": 0.0},
            ),
        ),
        "writes": (),
        "pairs": (),
        "tokens": (
            TokenTable(-1, (TokenCount(9, " on", 6000, 0.486, 9000.0, 9.25, None),)),
            TokenTable(0, (
                TokenCount(1, " the", 7530, 0.61, 20000.0, 9.25, 3.5),
                TokenCount(4, "\n", 12, 0.001, 15.0, 2.0, 40.0),
            )),
        ),
        "coactive": (Coactive(21, 900, 250000, 0.4567, 0.3, 12.0, 1.5),),
        "neighbours": (Neighbour("dec_cos", 33, 0.8123), Neighbour("enc_cos", 34, 0.7123)),
        "groups": (
            ExampleGroup("top", "top", 0, 1, 310, tuple(
                example(WORDS, VALUES, rank=r, n_positions=256, start=12) for r in range(3))),
            *(
                ExampleGroup("quantile", "quantile", s, 4, 77, (example(WORDS, VALUES),))
                for s in range(4)
            ),
            ExampleGroup("silent", "silent", 0, 1, 666, (silent,)),
        ),
        "provenance": Provenance(
            "demo", ("blocks.10.hook_resid_post",), 250000, 976, "ab" * 32, "2026-11-21T04:00:00Z",
            {"dictionary/demo/topk-32": "cd" * 32, "activations/demo": "ef" * 32}, "0.1.0",
        ),
    }  # fmt: skip
    return FeaturePage(**{**content, **changes})
