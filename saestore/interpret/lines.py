"""Lines of a run's tables: what was found out about one feature."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from saestore.interpret.budget import Tokens
from saestore.interpret.evidence import Evidence
from saestore.interpret.explainers import Explainer, Explanation
from saestore.interpret.request import Answer
from saestore.interpret.scorers import Score, Verdict
from saestore_schemas.interpret import PriceSettings
from saestore_schemas.interpretation_tables import TABLES
from saestore_schemas.table import Table


def cost(prices: Mapping[str, PriceSettings], model: str, tokens: Tokens) -> float | None:
    """Return what some tokens cost; None where the model has no price."""
    price = prices.get(model)
    return None if price is None else tokens.cost(price)


@dataclass
class Lines:
    """Lines of the three tables, of one feature."""

    tables: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {table.name: [] for table in TABLES}
    )

    def table(self, table: Table) -> pa.Table:
        """Return its lines of one table."""
        lines = self.tables[table.name]
        columns = {name: [line[name] for line in lines] for name in table.schema().names}
        return pa.table(columns, schema=table.schema())


def prompt_hash(explainer: Explainer) -> str:
    """Return SHA-256 of version and instructions of a prompt, in hexadecimal."""
    return hashlib.sha256(f"{explainer.version}\n{explainer.instructions}".encode()).hexdigest()


def interpretation(
    *,
    explainer: Explainer,
    evidence: Evidence,
    answer: Answer | None,
    said: Explanation | None,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a line of `interpretations`.

    Args:
        explainer: Who asked.
        evidence: What was shown.
        answer: What came back; None, nobody was asked.
        said: What it says; None likewise.
        known: Columns that are known beside these: feature, explainer, kind, endpoint_model, seed, cost.
    """
    return {
        **known,
        "interpretation_id": f"{known['explainer']}/{known['feature']}",
        "prompt_version": explainer.version,
        "prompt_hash": prompt_hash(explainer),
        "request_hash": None if answer is None else answer.request,
        "text": None if said is None else said.text,
        "outcome": "no_examples" if said is None else said.outcome,
        "consistency": None if said is None else said.consistency,
        "complexity": None if said is None else said.complexity,
        "reasoning": None if said is None else said.reasoning,
        "explain_examples": [
            {"context": each.pick.context, "position": each.pick.position}
            for each in evidence.snippets
        ],
        "prompt_tokens": 0 if answer is None else answer.prompt_tokens,
        "completion_tokens": 0 if answer is None else answer.completion_tokens,
        "created": None if answer is None else datetime.fromtimestamp(answer.created, UTC),
    }


def score(*, found: Score, answers: Sequence[Answer], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of `interpretation_scores`.

    Args:
        found: How well the explanation holds.
        answers: What came back.
        known: Columns that are known beside these: interpretation_id, feature, explainer, scorer, kind, cost.
    """
    return {
        **known,
        **found.columns,
        "prompt_tokens": sum(each.prompt_tokens for each in answers),
        "completion_tokens": sum(each.completion_tokens for each in answers),
    }


def answers(verdicts: Sequence[Verdict], known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return lines of `interpretation_answers`, in the order of the examples.

    Args:
        verdicts: What was told of each example.
        known: Columns that are known beside these: interpretation_id, feature, explainer, scorer.
    """
    return [
        {
            **known,
            "example": each.item.place,
            "context": each.item.snippet.pick.context,
            "position": each.item.snippet.pick.position,
            "decile": each.item.decile,
            "negative_kind": each.item.negative_kind,
            "label": each.item.label,
            "outcome": each.outcome,
            "answer": each.answer,
            "probability": each.probability,
            "values": list(each.values),
            "request_hash": each.request,
        }
        for each in sorted(verdicts, key=lambda verdict: verdict.item.place)
    ]
