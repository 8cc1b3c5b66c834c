"""The views of SQL: which there are, what they are made of, and their SQL.

Every view joins all analyses, with the columns `series`, `dictionary` and `analysis` in front; in
a lake that holds none it is empty and has the same columns.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from saestore.errors import DamagedArtefactError, FormatVersionError
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore_schemas import interpretation_tables, tables
from saestore_schemas.manifest import Manifest
from saestore_schemas.names import ArtefactKind
from saestore_schemas.table import Table


KEYS = ("series", "dictionary", "analysis")
"""What tells analyses apart."""
RUN_KEYS = (*KEYS, "run")
"""What tells runs of `interpret` apart."""

VIEWS = {
    "features": "one line per feature: counts, density, quantiles, where it peaks, norms",
    "firings": "every firing, in feature order, with the activation store's `row`",
    "firings_by_feature": "every firing, in feature order, as stored: quicker where no `row` is asked for",
    "firings_by_context": "every firing, in context order",
    "head_firings": "every firing at each head of a crosscoder whose heads gate by themselves",
    "contexts": "the contexts that were analysed, with text",
    "tokens": "every token: context, position, token_id, kept, row",
    "vocabulary": "the tokenizer's vocabulary, with how often each token was analysed",
    "documents": "the documents analysed, with the corpus's metadata",
    "examples": "example contexts of each feature, by subsample",
    "histograms": "histograms of each feature's values",
    "token_stats": "tokens at and beside each feature's firings, with their text, probabilities and lift",
    "coactivation": "features that fire together, with phi and expected relative activation `era`",
    "neighbours": "features with similar decoder and encoder vectors",
    "logits": "tokens each feature promotes and suppresses, with their text",
    "logit_stats": "distribution of each feature's logit scores",
    "decoders": "how much each feature writes to each hookpoint, where there are several",
    "decoder_pairs": "how alike what each feature of a crosscoder writes at two heads is",
    "head_scaling": "whether what a feature writes at one head is at the others too: latent scaling",
    "feature_heads": "one line per feature: whose it is, and whether latent scaling confirms that",
    "attention": "which positions a feature reads from where it fires in its examples, if it attends",
    "annotations": "every event of what people say about features, overwritten ones and those taken back too",
    "current_annotations": "what people say about features now: the last event of each field and author",
    "interpretations": "what features stand for, going by each explainer of each run of `interpret`",
    "interpretation_scores": "how well each explanation holds, going by each scorer",
    "interpretation_answers": "what was answered about each example that an explanation was scored on",
    "scores": "metrics of every evaluation",
    "feature_scores": "one line per feature and evaluation: density, nearest other features",
    "metrics": "metrics of every training run, by step",
    "timings": "rates and memory of every training run, by step",
    "sweeps": "results of every sweep, one line per dictionary",
    "artefacts": "everything in the lake",
}
"""View to what it holds."""


@dataclass(frozen=True)
class Source:
    """One analysis as views read it.

    Attributes:
        ref: Its name.
        manifest: Its manifest: which tables it has.
        url: Its folder as DuckDB spells it.
    """

    ref: Ref
    manifest: Manifest
    url: str

    def files(self, table: str) -> str:
        """Return the SQL that reads a table."""
        return f"read_parquet({literal(f'{self.url}/{table}/part-*.parquet')})"

    def keys(self) -> str:
        """Return the SQL of the key columns."""
        parts = zip(KEYS, self.ref.name.split("/"), strict=True)
        return ", ".join(f"{literal(value)} AS {name}" for name, value in parts)


def literal(text: str) -> str:
    """Return a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def folder_of(lake: Lake, ref: Ref) -> str:
    """Return an artefact's folder as DuckDB spells it: a path, or a URL of a remote lake."""
    return lake.artefact(ref).full_url


def empty(view: str) -> str:
    """Return the SQL of a view in a lake that holds nothing for it: its columns, no rows."""
    columns = ", ".join(f"NULL::{sql_type(field.type)} AS {field.name}" for field in _schema(view))
    return f"SELECT {columns} WHERE false"


def sql_type(dtype: pa.DataType) -> str:
    """Return DuckDB's name of an Arrow type."""
    kind: Any = dtype
    if pa.types.is_list(dtype):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(dtype):
        return f"STRUCT({', '.join(f'{field.name} {sql_type(field.type)}' for field in kind)})"
    return _TYPES[str(dtype)]


_TYPES = {
    "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT",
    "int8": "TINYINT", "int32": "INTEGER", "int64": "BIGINT", "float": "FLOAT",
    "double": "DOUBLE", "bool": "BOOLEAN", "string": "VARCHAR", "binary": "BLOB",
    "timestamp[s, tz=UTC]": "TIMESTAMPTZ",
}  # fmt: skip


def _schema(view: str) -> pa.Schema:
    if view in _OF_THE_LAKE:
        table, keys = _OF_THE_LAKE[view]
        return _keyed(table.schema(), keys)
    if view in _OF_RUNS:
        return _keyed(_OF_RUNS[view].schema(), RUN_KEYS)
    row = pa.field("row", pa.uint64())
    if view == "tokens":
        columns: list[Any] = [
            pa.field("context", pa.uint32()),
            pa.field("position", pa.uint16()),
            pa.field("token_id", pa.uint32()),
            pa.field("kept", pa.bool_()),
            row,
        ]
        return _keyed(pa.schema(columns), KEYS)
    if view == "feature_heads":
        return _keyed(pa.schema(_HEADS), KEYS)
    schema = _keyed(VIEW_TABLES[view].schema(), KEYS)
    more = [row] if view == "firings" else _MORE.get(view, [])
    return pa.schema([*schema, *more])


def _keyed(schema: pa.Schema, keys: Iterable[str]) -> pa.Schema:
    return pa.schema([*(pa.field(key, pa.string()) for key in keys), *schema])


_EVALUATION_KEYS = ("series", "dictionary", "evaluation")

_OF_THE_LAKE: Mapping[str, tuple[Table, tuple[str, ...]]] = {
    "scores": (tables.SCORES, _EVALUATION_KEYS),
    "feature_scores": (tables.FEATURE_SCORES, _EVALUATION_KEYS),
    "metrics": (tables.METRICS, ("series", "dictionary")),
    "timings": (tables.METRICS, ("series", "dictionary")),
    "sweeps": (tables.RESULTS, ("sweep",)),
}
"""Views over evaluations, training runs and sweeps, and what tells their artefacts apart."""

_OF_RUNS: Mapping[str, Table] = {table.name: table for table in interpretation_tables.TABLES}
"""Views over runs of `interpret`."""

VIEW_TABLES: Mapping[str, Table] = {
    "features": tables.FEATURES,
    "firings": tables.FIRINGS_BY_FEATURE,
    "firings_by_feature": tables.FIRINGS_BY_FEATURE,
    "firings_by_context": tables.FIRINGS_BY_CONTEXT,
    "head_firings": tables.HEAD_FIRINGS,
    "contexts": tables.CONTEXTS,
    "vocabulary": tables.VOCABULARY,
    "documents": tables.DOCUMENTS,
    "examples": tables.EXAMPLES,
    "histograms": tables.HISTOGRAMS,
    "token_stats": tables.TOKEN_STATS,
    "coactivation": tables.COACTIVATION,
    "neighbours": tables.NEIGHBOURS,
    "logits": tables.LOGITS,
    "logit_stats": tables.LOGIT_STATS,
    "decoders": tables.DECODERS,
    "decoder_pairs": tables.DECODER_PAIRS,
    "head_scaling": tables.HEAD_SCALING,
    "attention": tables.ATTENTION,
}

_MORE: Mapping[str, list[Any]] = {
    "logits": [pa.field("token", pa.string())],
    "token_stats": [
        pa.field("token", pa.string()),
        pa.field("p_token_given_fires", pa.float64()),
        pa.field("p_fires_given_token", pa.float64()),
        pa.field("lift", pa.float64()),
    ],
    "coactivation": [pa.field("era", pa.float64())],
}
"""Columns of views beyond those of their table."""

_HEADS: list[Any] = [
    pa.field("feature", pa.uint32()),
    pa.field("hookpoint", pa.string()),
    pa.field("n_firings", pa.uint64()),
    pa.field("norm_ratio", pa.float32()),
    pa.field("nu_error", pa.float32()),
    pa.field("nu_reconstruction", pa.float32()),
    pa.field("verdict", pa.string()),
]
"""Columns of `feature_heads`: the owner, and the largest numbers at any other head."""


def _whole(source: Source, table: str) -> str:
    return f"SELECT {source.keys()}, * FROM {source.files(table)}"


def _firings(source: Source) -> str:
    # grouped, so that the optimizer knows that the join keeps every firing once: below an aggregate it
    # then leaves the join out where no row is asked for; elsewhere it does not
    rows = f"SELECT context, any_value(store_row) AS store_row FROM {source.files('contexts')}"
    return (
        f"SELECT {source.keys()}, f.feature, f.context, f.position, f.value, "
        f"c.store_row + f.position AS row FROM {source.files('firings_by_feature')} f "
        f"LEFT JOIN ({rows} GROUP BY context) c USING (context)"
    )


def _by_context(source: Source) -> str:
    stored = "firings_by_context"
    table = stored if stored in source.manifest.arrays else "firings_by_feature"
    return _whole(source, table)


def _tokens(source: Source) -> str:
    return (
        f"SELECT {source.keys()}, context, (i - 1)::USMALLINT AS position, token_id, "
        "NOT list_contains(ignored, (i - 1)::USMALLINT) AS kept, store_row + i::UBIGINT - 1 AS row "
        "FROM (SELECT context, store_row, ignored, unnest(token_ids) AS token_id, "
        f"generate_subscripts(token_ids, 1) AS i FROM {source.files('contexts')})"
    )


def _logits(source: Source) -> str:
    return (
        f"SELECT {source.keys()}, l.*, v.token FROM {source.files('logits')} l "
        f"LEFT JOIN (SELECT token_id, token FROM {source.files('vocabulary')}) v USING (token_id)"
    )


def _token_stats(source: Source) -> str:
    # of a token beside a firing only the share is known: how often it stands beside kept rows is not
    return (
        f"SELECT {source.keys()}, t.*, v.token, t.n / f.n_firings AS p_token_given_fires, "
        "CASE WHEN t.shift = 0 THEN t.n / v.n_rows END AS p_fires_given_token, "
        "CASE WHEN t.shift = 0 THEN t.n / v.n_rows / f.density END AS lift "
        f"FROM {source.files('token_stats')} t "
        f"LEFT JOIN (SELECT token_id, token, n_rows FROM {source.files('vocabulary')}) v USING (token_id) "
        f"LEFT JOIN (SELECT feature, n_firings, density FROM {source.files('features')}) f USING (feature)"
    )


def _coactivation(source: Source) -> str:
    return (
        f"SELECT {source.keys()}, *, sum_product / sum_feature AS era "
        f"FROM {source.files('coactivation')}"
    )


def _feature_heads(source: Source) -> str:
    # thresholds of arXiv:2504.02922: decoder norms .2 and .8 of the owner's, nu .2 and .5
    return (
        f"SELECT {source.keys()}, * EXCLUDE (unknown), CASE WHEN norm_ratio > .8 THEN 'shared' "
        "WHEN norm_ratio >= .2 THEN 'between' WHEN norm_ratio IS NULL OR unknown > 0 THEN 'unknown' "
        "WHEN nu_error >= .2 THEN 'shrunk' WHEN nu_reconstruction >= .5 THEN 'decoupled' "
        "ELSE 'alone' END AS verdict FROM ("
        "SELECT feature, any_value(hookpoint) FILTER (head = owner) AS hookpoint, "
        "any_value(n_firings) AS n_firings, max(norm_ratio) FILTER (head <> owner) AS norm_ratio, "
        "max(nu_error) FILTER (head <> owner) AS nu_error, "
        "max(nu_reconstruction) FILTER (head <> owner) AS nu_reconstruction, "
        "count(*) FILTER (nu_error IS NULL) AS unknown "
        f"FROM {source.files('head_scaling')} GROUP BY feature)"
    )


_SPECIAL: Mapping[str, tuple[str, Callable[[Source], str]]] = {
    "firings": ("firings_by_feature", _firings),
    "firings_by_context": ("firings_by_feature", _by_context),
    "tokens": ("contexts", _tokens),
    "logits": ("logits", _logits),
    "token_stats": ("token_stats", _token_stats),
    "coactivation": ("coactivation", _coactivation),
    "feature_heads": ("head_scaling", _feature_heads),
}
"""Views that are more than one table: the table they need, and their SQL."""


_ASK_WHAT_THERE_IS = ("show", "describe", "summarize", "information_schema", "pragma")
_CATALOGUES = ("duckdb_", "pg_", "sqlite_", "pragma_")


def named_in(question: str | None) -> set[str] | None:
    """Return the words of a question, views among them; None if it may ask for any view.

    >>> "firings" in named_in('SELECT count(*) FROM "Firings"')
    True
    >>> named_in("SHOW TABLES") is None
    True
    """
    if question is None:
        return None
    words = set(re.findall(r"\w+", question.lower()))
    catalogue = any(word.startswith(_CATALOGUES) for word in words)
    return None if catalogue or words.intersection(_ASK_WHAT_THERE_IS) else words


def analysis_views(sources: Iterable[Source]) -> dict[str, str]:
    """Return the SQL of every view over analyses."""
    known = list(sources)
    found = {}
    for name in (*VIEW_TABLES, "tokens", "feature_heads"):
        needs, arm = _SPECIAL.get(name, (name, None))
        arms = [
            arm(source) if arm is not None else _whole(source, name)
            for source in known
            if needs in source.manifest.arrays
        ]
        nothing = known and not arms and needs == tables.FIRINGS_BY_FEATURE.name
        found[name] = _refusing(name, known) if nothing else union(name, arms)
    return found


KEEPS_NONE = 'made with firings = "none"'
"""In the error of a question over firings where no analysis keeps them."""
KEEP_FIRINGS = 'analyze under another name with firings = "feature" or "both"'
"""What to do then."""


def _refusing(view: str, sources: Iterable[Source]) -> str:
    """Return the SQL of a view that cannot be read: an empty one would say that nothing fires."""
    names = ", ".join(source.ref.name for source in sources)
    error = f"error({literal(f'no firings are kept of {names}, {KEEPS_NONE}')})"
    columns = ", ".join(
        f"{error}::{sql_type(field.type)} AS {field.name}" for field in _schema(view)
    )
    return f"SELECT {columns} WHERE {error}::BOOLEAN"


_FILES: Mapping[str, tuple[ArtefactKind, str]] = {
    "scores": ("evaluation", layout.SCORES),
    "feature_scores": ("evaluation", layout.FEATURE_SCORES),
    "metrics": ("dictionary", layout.METRICS),
    "timings": ("dictionary", layout.TIMINGS),
    "sweeps": ("sweep", layout.RESULTS),
}
"""Views over evaluations, training runs and sweeps: of what, and the file that each has."""


def lake_views(lake: Lake, question: str | None) -> dict[str, str]:
    """Return the SQL of the views over evaluations, training runs and sweeps.

    Args:
        lake: The lake.
        question: The SQL that is asked. Files of the views it names are compared with their
            checksums, which is one short read each; the other views are empty, so that no damage to
            what is not asked for stands in the way. None, if it is not known: files are compared by
            their size.

    Raises:
        DamagedArtefactError: A file is listed, and not there as it was written.
    """
    words = None if question is None else set(re.findall(r"\w+", question.lower()))
    return {
        view: _files(lake, view, kind, file, whole=words is not None)
        if words is None or view in words
        else empty(view)
        for view, (kind, file) in _FILES.items()
    }


def _files(lake: Lake, view: str, kind: ArtefactKind, file: str, *, whole: bool) -> str:
    _, names = _OF_THE_LAKE[view]
    arms = []
    for ref in lake.refs(kind):
        if _has(lake, ref, file, whole=whole):
            parts = zip(names, ref.name.split("/"), strict=True)
            keys = ", ".join(f"{literal(value)} AS {name}" for name, value in parts)
            path = literal(f"{folder_of(lake, ref)}/{file}")
            arms.append(f"SELECT {keys}, * FROM read_parquet({path})")
    return union(view, arms)


def _has(lake: Lake, ref: Ref, file: str, *, whole: bool) -> bool:
    """Return whether an artefact has a table, as it was written; a dictionary may have none.

    Raises:
        DamagedArtefactError: The table is listed, and missing or of another size; or of other bytes,
            if the `whole` of it is compared.
    """
    artefact = lake.artefact(ref)
    try:
        manifest = lake.manifest(ref)
    except (DamagedArtefactError, FormatVersionError):
        return False  # `artefacts` says so
    listed = manifests.payload(artefact, manifest).get(file)
    if listed is not None:
        manifests.check_size(artefact, ref.name, file, listed)
        if whole and (line := manifests.wrong_checksum(artefact, file, listed[1])) is not None:
            raise DamagedArtefactError(name=ref.name, damage=(line,))
    return listed is not None


def union(view: str, arms: list[str]) -> str:
    """Return the SQL of a view made of some parts; of none, empty."""
    return " UNION ALL BY NAME ".join(arms) or empty(view)
