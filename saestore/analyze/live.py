"""Texts put through a dictionary and its language model, as an analysis would: `saestore top --text`.

Everything is the analysis's own. Texts are tokenised by the language model of its store, BOS, context
size and ignored tokens included; a text that is longer than a context goes on in further ones, as
`generate` splits documents. Rows are rounded to the store's type, then encoded by the code that
encodes a store, in blocks of the same size; thresholds are those fixed at training. Each context runs
through the language model by itself. So what a text gets never depends on the texts beside it.

A context that the analysis holds, token by token, gets what the analysis says of it: a forward pass of
another shape than `generate`'s would round its sums differently.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from saestore import corpus as corpora, devices, dictionaries
from saestore.activations import ActivationStore, Host, Place, codecs, hosts_of
from saestore.analyze import encode
from saestore.analyze.context_tables import context_rows
from saestore.analyze.scope import Scope
from saestore.analyze.sort import Firings
from saestore.corpus.columns import encodable
from saestore.dictionaries import SparseDictionary
from saestore.errors import ConfigError
from saestore.features import Analysis, Passages, arrow
from saestore.lake import Lake
from saestore.lake.checkpoint import Made
from saestore.lm import LanguageModel
from saestore.progress import Progress, Silent
from saestore_schemas import tables
from saestore_schemas.corpus import CorpusSettings, TextSource


TEXT = "text"
"""Source of the contexts of texts, where those of a store have their corpus's."""

_SHOWN = 8
"""Contexts beyond which progress is worth showing."""
_ROWS = 8192
"""Rows encoded at once, about: they are in memory at every hookpoint."""

_STORED = """
SELECT token_ids, min(context) AS context FROM contexts
WHERE n_positions IN (SELECT len(ids) FROM (SELECT unnest($given::UINTEGER[][]) AS ids))
AND token_ids IN (SELECT unnest($given::UINTEGER[][]))
GROUP BY token_ids
"""
"""Which of some contexts the analysis holds."""

_SILENT = Silent()


@dataclass(frozen=True)
class LiveDictionary:
    """A dictionary with its language model, loaded; it encodes any number of texts.

    Attributes:
        analysis: Whose settings hold.
        store: The store that was analysed.
        folded: The dictionary, folded.
        models: The language models, with what each one's hookpoints are called.
        same_weights: Whether they have the weights that the store was made with, as far as it is known.
    """

    analysis: Analysis
    store: ActivationStore
    folded: SparseDictionary
    models: tuple[tuple[Host, LanguageModel], ...]
    same_weights: bool = True

    @classmethod
    def load(
        cls,
        lake: Lake,
        name: str,
        *,
        lm: str | Mapping[str, str] | None = None,
        device: str = "auto",
        progress: Progress = _SILENT,
    ) -> "LiveDictionary":
        """Load the dictionary of an analysis, and the language model of the store it is of.

        Args:
            lake: Where they lie.
            name: `series/name`, or `series/name/analysis`.
            lm: Name or directory of the language model, if it is not where the store says; of heads in
                several models, by the name of a head.
            device: Torch device of both.
            progress: Where to report.

        Raises:
            ArtefactNotFoundError: There is no such analysis, or none of the dictionary yet.
            ConfigError: There is no such language model, or the store does not say which it is of.
            MissingExtraError: TransformerLens is not installed.
        """
        analysis = Analysis.open(lake, name)
        settings = analysis.settings
        trained = Made.of(settings.dictionary, lake)
        store = Place.of(lake, trained, settings.activations, settings.heads).open(lake, trained)
        loaded = dictionaries.load(lake, settings.dictionary)
        reads = loaded.hookpoints_in
        models, same = [], True
        for host in hosts_of(store, reads, reads, lm=lm, field="lm"):
            progress.note(f"loading the language model {host.lm.model}")
            model = LanguageModel.load(host.lm, device=device, field=host.field)
            known = host.store.weights_fingerprint
            if known is not None and known.strip("0") and known != model.fingerprint:
                same = False
                progress.note(
                    f"{model.name} has other weights than {host.store.ref.name} was made with: values "
                    "are not those of the analysis"
                )
            models.append((host, model))
        folded = loaded.in_raw_units().eval().to(devices.resolve(device))
        return cls(analysis, store, folded, tuple(models), same)

    def encode(
        self,
        texts: Sequence[str],
        *,
        names: Sequence[str] | None = None,
        features: Sequence[int] | None = None,
        masked: bool = True,
        progress: Progress = _SILENT,
    ) -> Passages:
        """Return what fires in some texts.

        Args:
            texts: The texts.
            names: What each is called; absent, `text 1` and so on.
            features: Keep the firings of these alone; absent, of all.
            masked: Leave out what the analysis leaves out: BOS, control tokens, ignored ones.
            progress: Where to report.

        Raises:
            ConfigError: There is no text, or one without a token.
            FeatureNotFoundError: The dictionary has no such feature.
        """
        for each in features or ():
            self.analysis.check(each)
        called = tuple(names or (f"text {n + 1}" for n in range(len(texts))))
        contexts = self._contexts(texts, called)
        size = self.store.record.context_size
        longer = sum(1 for each in contexts if each.segments[0].token_offset)
        if longer:
            progress.note(f"texts beyond {size} tokens go on in further contexts: {longer} of them")
        rows = _TextRows(contexts, {}, names=called, words=self.store.vocabulary())
        scope = self._scope(rows)
        numbers = np.full(len(contexts), -1)
        if masked and self.same_weights and self.analysis.keeps_firings:
            numbers = self._stored(contexts)
        found = [self._from_lake(numbers)] if (numbers >= 0).any() else []
        reporter = progress if len(contexts) > _SHOWN else _SILENT
        fresh = np.flatnonzero(numbers < 0)
        with reporter.task("encode", total=len(fresh), unit="contexts") as task:
            for some in _pieces(fresh, rows.lengths[fresh]):
                encoded = self._encoded([contexts[n] for n in some], called, masked=masked)
                found.append(_numbered(encoded, some[_column(encoded, "context")]))
                task.advance(len(some))
        firings = pa.concat_tables(found)
        if features is not None:
            firings = firings.take(np.flatnonzero(np.isin(_column(firings, "feature"), features)))
        return Passages(
            contexts=pa.concat_tables(context_rows(rows, scope)),
            firings=firings.take(np.argsort(_column(firings, "context"), kind="stable")),
            vocabulary=self.analysis.vocabulary,
            names=called,
            text_of=np.array([each.segments[0].document for each in contexts], np.int64),
            stored=False,
        )

    def _stored(self, contexts: Sequence[corpora.Context]) -> Int64[np.ndarray, " context"]:
        """Return the first context of the analysis with the same tokens as each; -1 where none has."""
        given = [each.tokens.tolist() for each in contexts]
        held = self.analysis.sql(_STORED, {"given": given}).to_pylist()
        number = {tuple(line["token_ids"]): line["context"] for line in held}
        return np.array([number.get(tuple(each), -1) for each in given], np.int64)

    def _from_lake(self, numbers: Int64[np.ndarray, " context"]) -> pa.Table:
        """Return the firings of the contexts that have a number in the analysis, by their place."""
        places = np.flatnonzero(numbers >= 0)
        wanted = numbers[places]
        firings = self.analysis.passages(np.unique(wanted).tolist()).firings
        held = _column(firings, "context")
        low, high = (np.searchsorted(held, wanted, side=side) for side in ("left", "right"))
        each = [np.arange(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        lines = np.concatenate([np.zeros(0, np.int64), *each])
        schema = tables.FIRINGS_BY_CONTEXT.schema()
        taken = {name: _column(firings, name)[lines] for name in schema.names}
        return _numbered(arrow.rows(schema, taken), np.repeat(places, high - low))

    def _contexts(self, texts: Sequence[str], names: Sequence[str]) -> list[corpora.Context]:
        """Return the contexts of all texts, in order.

        Raises:
            ConfigError: There is no text, or one without a token.
        """
        if not texts:
            raise ConfigError(field="text", problem="there is none", expected="one text or more")
        lm = self.models[0][0].lm
        blocks = corpora.blocks(
            _Texts(tuple(texts)),
            CorpusSettings(
                sources=(TextSource(path=""),),  # read from memory instead
                context_size=self.store.record.context_size,
                packing="split",
                block_documents=1,
            ),
            self.models[0][1].tokenizer,
            prepend_bos=lm.prepend_bos,
            ignore_tokens=self._ignored(),
        )
        found: list[corpora.Context] = []
        for name, block in zip(names, blocks, strict=True):
            if not block.contexts:
                raise ConfigError(
                    field="text",
                    problem=f"{name} is empty: nothing can fire in it",
                    expected="text with one token or more",
                    hint="give it in quotes, or name a file with --file",
                )
            found.extend(block.contexts)
        return found

    def _ignored(self) -> tuple[int, ...]:
        """Return the tokens that the store flags ignored."""
        given = self.store.manifest.settings.get("ignore_tokens")
        return tuple(int(str(each)) for each in given) if isinstance(given, list) else ()

    def _scope(self, rows: "_TextRows") -> Scope:
        """Return which rows of texts are analysed."""
        ignored = self.analysis.settings.ignore_tokens
        return rows.scope(ignored, context_size=self.store.record.context_size)

    def _encoded(
        self, contexts: Sequence[corpora.Context], names: Sequence[str], *, masked: bool
    ) -> pa.Table:
        """Return the firings of some contexts, by their place among them."""
        rows = _TextRows(
            contexts,
            self._rows(contexts),
            names=names,
            words=self.store.vocabulary(),
            block=None if self.folded.reads_contexts else encode.block_rows(self.folded.columns),
        )
        scope = self._scope(rows)
        if not masked:
            scope = replace(scope, kept=np.ones_like(scope.kept))
        blocks = encode.firings(
            rows,
            self.folded,
            scope,
            self.analysis.settings,
            device=self.folded.encoder_bias().device,
            span=(0, len(scope.tokens)),
        )
        return pa.concat_tables([_table(each.firings) for each in blocks])

    def _rows(self, contexts: Sequence[corpora.Context]) -> dict[str, Float32[np.ndarray, "row d"]]:
        """Return the rows of some contexts at each hookpoint, rounded as the store rounds them."""
        found: dict[str, list[np.ndarray]] = {hook: [] for hook in self.folded.hookpoints_in}
        for host, model in self.models:
            for context in contexts:
                tokens = torch.from_numpy(context.tokens.astype(np.int64)).unsqueeze(0)
                captured = model.capture(tokens, list(host.names.values()))
                for hook, there in host.names.items():
                    found[hook].append(captured[there][0].float().cpu().numpy())
        return {hook: self._rounded(hook, np.concatenate(each)) for hook, each in found.items()}

    def _rounded(
        self, hook: str, values: Float32[np.ndarray, "row d"]
    ) -> Float32[np.ndarray, "row d"]:
        """Return rows as the store would give them back."""
        home, there = self.store.home(hook)
        dtype = home.record.dtype
        if dtype != "int8":
            stored = codecs.encode(values, dtype, hookpoint=there, first_row=0)
            return codecs.decode(stored, dtype)
        deviations = home.deviations(there)
        quantised = codecs.quantise(values, deviations, hookpoint=there, first_row=0)
        return codecs.dequantise(quantised.stored, quantised.scales, deviations)


@dataclass(frozen=True)
class _Texts:
    """Texts as a corpus: one document each."""

    texts: tuple[str, ...]
    fingerprint: str = ""
    metadata: pa.Schema = field(default_factory=lambda: pa.schema([]))

    def documents(self, start: int = 0, *, position: corpora.Position = None) -> corpora.Reading:
        """Read the texts from number `start` on."""
        del position
        each = (corpora.Document(str(n), TEXT, encodable(t)) for n, t in enumerate(self.texts))
        return corpora.Reading(
            (document for n, document in enumerate(each) if n >= start), lambda: None
        )


class _TextRows:
    """The rows of some contexts, read as those of a store are.

    Attributes:
        n_rows: Rows, those that fill the last block included.
        lengths: Rows of each context.
    """

    def __init__(
        self,
        contexts: Sequence[corpora.Context],
        hooks: Mapping[str, Float32[np.ndarray, "row d"]],
        *,
        names: Sequence[str],
        words: pa.Table,
        block: int | None = None,
    ) -> None:
        """Take what was captured.

        Args:
            contexts: The contexts.
            hooks: Their rows at each hookpoint.
            names: What each text is called.
            words: The vocabulary.
            block: Rows are made up to whole blocks of so many; None, they are left as they are.
        """
        self._contexts = contexts
        self._hooks = hooks
        self._names = names
        self._words = words
        self.lengths = np.array([len(each.tokens) for each in contexts], np.int64)
        rows = int(self.lengths.sum())
        self.n_rows = rows if block is None else -(-rows // block) * block

    def scope(self, ignored: Sequence[int], *, context_size: int) -> Scope:
        """Return which rows are analysed."""
        tokens: Int32[np.ndarray, " row"] = np.concatenate([c.tokens for c in self._contexts])
        flags: UInt8[np.ndarray, " row"] = np.concatenate([c.flags for c in self._contexts])
        kept: Bool[np.ndarray, " row"] = (flags == 0) & ~np.isin(tokens, ignored)
        joined = np.zeros_like(kept)  # collectors ask for it, encoding does not
        return Scope.of(self.lengths, tokens, kept, joined, context_size=context_size, seed=0)

    def read(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, "row d"]:
        """Return rows of a hookpoint; beyond the last they begin again."""
        values = self._hooks[hookpoint]
        found: Float32[np.ndarray, "row d"] = values[np.arange(start, stop) % len(values)]
        return found

    def contexts(self) -> Int64[np.ndarray, "context 2"]:
        """Return first row and length of each context."""
        return np.stack([np.cumsum(self.lengths) - self.lengths, self.lengths], axis=1)

    def segments(self) -> Int64[np.ndarray, "segment 6"]:
        """Return context, start, length, document, token and character offset of each segment."""
        lines = [(n, *each) for n, c in enumerate(self._contexts) for each in c.segments]
        return np.array(lines, np.int64).reshape(-1, 6)

    def documents(self) -> pa.Table:
        """Return id and source of each text."""
        source = pa.array([TEXT] * len(self._names), pa.string())
        return pa.table({"document_id": pa.array(self._names, pa.string()), "source": source})

    def vocabulary(self) -> pa.Table:
        """Return the tokenizer's vocabulary."""
        return self._words


def _pieces(
    places: Int64[np.ndarray, " context"], lengths: Int64[np.ndarray, " context"]
) -> Iterator[Int64[np.ndarray, " context"]]:
    """Yield contexts of about `_ROWS` rows at a time."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(places):
        before = int(ends[start] - lengths[start])
        stop = max(start + 1, int(np.searchsorted(ends, before + _ROWS, side="right")))
        yield places[start:stop]
        start = stop


def _table(firings: Firings) -> pa.Table:
    return arrow.rows(
        tables.FIRINGS_BY_CONTEXT.schema(),
        {
            "feature": firings.feature,
            "context": firings.context,
            "position": firings.position,
            "value": firings.value,
        },
    )


def _numbered(table: pa.Table, context: Int64[np.ndarray, " firing"]) -> pa.Table:
    """Return firings in contexts of other numbers."""
    at = table.schema.get_field_index("context")
    column = arrow.column(context.astype(np.uint32), pa.uint32())
    found: pa.Table = table.set_column(at, table.schema.field(at), column)
    return found


def _column(table: pa.Table, name: str) -> np.ndarray:
    # to_numpy of a chunked array would import pandas
    found: np.ndarray = np.from_dlpack(table[name].combine_chunks())
    return found
