"""What the server is asked and what it answers, beside what the library's own records say."""

from typing import Any

from pydantic import Field, JsonValue

from saestore_schemas.annotations import AnnotationEvent, AnnotationField, Line
from saestore_schemas.base import Model
from saestore_schemas.manifest import Manifest
from saestore_schemas.names import NAME_PATTERN, ArtefactKind


class Problem(Model):
    """Why there is no answer, and what to do: RFC 9457, `application/problem+json`."""

    type: str
    """`urn:saestore:` and the kind of the error."""
    title: str
    """What kind of problem it is, in one sentence."""
    status: int
    """HTTP status."""
    detail: str
    """What happened."""
    found: JsonValue = None
    """What was found."""
    expected: str | None = None
    """What was expected."""
    hint: str = ""
    """What to do now."""


class ServerFacts(Model):
    """What this server is and does."""

    version: str
    """Release of saestore."""
    live: str | None
    """What it runs texts through, or null: texts are not looked at."""
    annotate: bool
    """Whether annotations may be written."""
    sql_seconds: float
    """Seconds of one question in SQL."""
    sql_rows: int
    """Rows of its answer, at most."""
    live_chars: int
    """Characters of the texts of one live question."""


class ArtefactLine(Model):
    """One artefact of the lake."""

    kind: ArtefactKind
    """What it is."""
    name: str
    """Its name."""
    finished: bool
    """Whether it has a manifest."""
    damage: str = ""
    """Why its manifest cannot be read; else empty."""
    created: str | None = None
    """When it was written, ISO 8601, UTC."""
    fingerprint: str | None = None
    """Digest of what it was made from."""
    bytes: int | None = None
    """Bytes of its files."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Counts of what it holds."""


class ArtefactLines(Model):
    """What the lake holds."""

    artefacts: tuple[ArtefactLine, ...]
    """By kind and name, unfinished ones behind the others of their kind."""


class Relative(Model):
    """An artefact in a family tree."""

    kind: ArtefactKind
    """What it is."""
    name: str
    """Its name."""


class Ancestor(Relative):
    """An artefact with what it was made from."""

    fingerprint: str
    """Its fingerprint, or the one its child remembers where it is gone."""
    state: str
    """`present`, `changed` (it has another fingerprint than its child remembers) or `missing`."""
    parents: tuple["Ancestor", ...]
    """What it was made from."""


class Lineage(Model):
    """Where an artefact comes from and what comes from it."""

    artefact: Ancestor
    """It, with everything that it was made from."""
    children: tuple[Relative, ...]
    """What was made from it."""


class ScoreLine(Model):
    """One score of an evaluation."""

    evaluation: str
    """Name of the evaluation."""
    metric: str
    """Its name."""
    value: float | None
    """Its value; null where undefined."""
    unit: str
    """Its unit; empty for ratios."""
    n: int
    """Rows, tokens or features it was computed from."""


class DictionaryLine(Model):
    """One trained dictionary."""

    series: str
    """Its series."""
    name: str
    """Its name in the series."""
    created: str
    """When it was written, ISO 8601, UTC."""
    fingerprint: str
    """Digest of what it was made from."""
    family: str
    """Its family, such as `sae`."""
    hookpoints_in: tuple[str, ...]
    """Hookpoints that it reads."""
    hookpoints_out: tuple[str, ...]
    """Hookpoints that it reconstructs."""
    n_features: int
    """Features it has."""
    analyses: tuple[str, ...]
    """Names of its analyses."""
    scores: tuple[ScoreLine, ...]
    """L0, explained variance and cross-entropy recovered of its newest evaluation that has them."""


class DictionaryLines(Model):
    """The dictionaries of the lake."""

    dictionaries: tuple[DictionaryLine, ...]
    """By series and name."""


class DictionaryAnswer(Model):
    """One dictionary, whole."""

    line: DictionaryLine
    """Its line in the list."""
    manifest: Manifest
    """Its manifest."""
    scores: tuple[ScoreLine, ...]
    """Every score of every evaluation."""


class CurveAnswer(Model):
    """One metric over a training run."""

    name: str
    """Name of the metric."""
    steps: tuple[int, ...]
    """Steps at which it was logged."""
    values: tuple[float | None, ...]
    """Its values; null where undefined."""


class CurveAnswers(Model):
    """Metrics over a training run."""

    metrics: tuple[str, ...]
    """Names of all metrics there are."""
    curves: tuple[CurveAnswer, ...]
    """Those asked for."""


class AnalysisLine(Model):
    """One analysis of a dictionary."""

    series: str
    """Series of the dictionary."""
    dictionary: str
    """Its name in the series."""
    analysis: str
    """Name of the analysis."""
    activations: str
    """The store that was analysed."""
    created: str
    """When it was written, ISO 8601, UTC."""
    fingerprint: str
    """Digest of what it was made from."""
    n_features: int
    """Features, dead ones included."""
    n_rows: int
    """Kept rows analysed."""
    n_contexts: int
    """Contexts analysed."""
    keeps_firings: bool
    """Whether every firing is in it."""
    tables: tuple[str, ...]
    """Tables that it holds."""


class AnalysisLines(Model):
    """The analyses of a dictionary."""

    analyses: tuple[AnalysisLine, ...]
    """By name."""


class AnnotationEvents(Model):
    """What people say about features."""

    annotations: tuple[AnnotationEvent, ...]
    """By feature, field and author; of a history by event id."""


class AskedToSay(Model):
    """What somebody says about a feature."""

    author: Line
    """Who says it."""
    values: dict[AnnotationField, JsonValue] = Field(min_length=1)
    """Field to what it is now: texts; of `examples` and `tag` lists of all texts; of `bookmark` true. Null
    takes a field back."""


class Asked(Model):
    """A question in SQL."""

    sql: str = Field(min_length=1, max_length=100_000)
    """One statement that reads; `$name` stands for a parameter."""
    params: dict[str, JsonValue] = Field(default_factory=dict, max_length=100)
    """Values of its parameters."""
    limit: int | None = Field(default=None, ge=1)
    """Rows wanted, at most; never more than the server gives."""


class AskedNamed(Model):
    """A question that is ready."""

    analysis: str | None = Field(
        default=None, pattern=f"{NAME_PATTERN[:-1]}(/{NAME_PATTERN[1:-1]}){{1,2}}$"
    )
    """`SERIES/NAME` or `SERIES/NAME/ANALYSIS`; absent, the only analysis there is."""
    params: dict[str, JsonValue] = Field(default_factory=dict, max_length=100)
    """Values of its parameters."""
    limit: int | None = Field(default=None, ge=1)
    """Rows wanted, at most; never more than the server gives."""


class AnswerColumn(Model):
    """A column of an answer."""

    name: str
    """Its name."""
    type: str
    """Its Arrow type."""


class TableAnswer(Model):
    """The answer to a question in SQL."""

    columns: tuple[AnswerColumn, ...]
    """Its columns."""
    rows: tuple[tuple[Any, ...], ...]
    """Its rows, a value for each column: undefined numbers null, bytes in hexadecimal, times as text."""
    truncated: bool
    """Whether there were more rows."""
    seconds: float
    """How long it took."""


class QueryParameter(Model):
    """A parameter of a question that is ready."""

    name: str
    """Its name."""
    type: str
    """`int`, `float`, `str`, `ints` or `strs`."""
    default: JsonValue
    """Its default; null where it must be given."""
    doc: str
    """What it means."""


class QueryLine(Model):
    """A question that is ready."""

    name: str
    """Its name."""
    doc: str
    """What it answers."""
    params: tuple[QueryParameter, ...]
    """Its parameters."""
    sql: str
    """Its SQL."""


class QueryLines(Model):
    """The questions that are ready."""

    queries: tuple[QueryLine, ...]
    """By name."""


class AskedTexts(Model):
    """Texts to be run through the language model."""

    texts: tuple[str, ...] = Field(min_length=1, max_length=100)
    """The texts."""
    k: int = Field(default=10, ge=1, le=1000)
    """Features of a text, or of a token, at most."""
    by_token: bool = False
    """List the features of each token instead of those of each text."""


class FiringLine(Model):
    """A feature that fires in a text."""

    text: int
    """Which text, from 0."""
    feature: int
    """Which feature."""
    value: float
    """Its largest value in the text, or its value at the token."""
    context: int
    """Context of the text, from 0: a text longer than one goes on in further ones."""
    position: int
    """Position in the context: the first with this value."""
    token: str
    """The token there."""
    n: int | None = None
    """Tokens that it fires on; null where tokens are listed."""


class TextToken(Model):
    """A token of a text that was run."""

    context: int
    """Context of the text, from 0."""
    position: int
    """Position in the context."""
    text: str
    """Its piece of the text."""
    kept: bool
    """Whether the analysis looks at it: at BOS and the like it does not."""


class TextsAnswer(Model):
    """What fires in texts."""

    model: str
    """What they were run through."""
    tokens: tuple[tuple[TextToken, ...], ...]
    """The tokens of each text."""
    firings: tuple[FiringLine, ...]
    """The features, strongest first in each text or at each token."""
