"""The verb: a dictionary and a store in, feature tables out."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from saestore import devices, dictionaries
from saestore.activations import ActivationStore, Host, Place, hosts_of
from saestore.analyze import encode, logits
from saestore.analyze.attention import Pairs, attention_rows
from saestore.analyze.context_tables import context_rows, document_rows, vocabulary_rows
from saestore.analyze.decoders import decoder_rows, pair_rows
from saestore.analyze.scaling import HeadScaling, measurable
from saestore.analyze.scope import Scope
from saestore.analyze.sort import Sorter
from saestore.analyze.survey import survey
from saestore.analyze.write import (
    HEAD_RUNS,
    Output,
    collected,
    sorted_by_context,
    write_at_heads,
)
from saestore.dictionaries import SparseDictionary
from saestore.lake import Lake, Ref, Storage, layout
from saestore.lake.lock import is_lock, writing
from saestore.lake.manifest import Run, begin, finish, parent_of
from saestore.lm import LanguageModel
from saestore.progress import Progress, Silent
from saestore_schemas import tables
from saestore_schemas.analyze import AnalyzeSettings, LogitSettings
from saestore_schemas.dictionary import DictionaryConfig


_SILENT = Silent()

_SCOPE = f"{layout.PROGRESS}/scope"
"""Where tokens and flags are mapped from."""


def run(
    settings: AnalyzeSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress = _SILENT,
) -> Ref:
    """Write what every feature of a dictionary does; a finished analysis is left as it is.

    A run that was killed starts again from the beginning and ends with the same bytes.

    Args:
        settings: What to analyse and what to keep.
        lake: Where dictionary and store lie and the tables are written.
        device: Torch device of the encoder; `auto` takes the best there is.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: No such dictionary or store.
        ArtefactExistsError: The name is taken by an analysis with other settings.
        ConfigError: The store has fewer rows than asked for, none is named and the dictionary was
            not trained on one, or there is no such language model.
        OverflowRowError: A value does not fit `value_dtype`.
    """
    ref = Ref("features", f"{settings.dictionary}/{settings.name}")
    trained = lake.manifest(Ref("dictionary", settings.dictionary))
    place = Place.of(lake, trained, settings.activations, settings.heads)
    store = place.open(lake, trained)
    parents = (parent_of(trained), *store.parents)
    job = Run.of(ref, settings, parents)
    artefact = lake.artefact(ref)
    if artefact.exists(layout.MANIFEST):  # nothing to write: the lake may be read-only
        begin(artefact, job)
        return ref
    loaded = dictionaries.load(lake, settings.dictionary)
    if settings.logits is not None:  # before the rows, which may take long
        for host in _hosts(store, loaded.config, settings.logits):
            LanguageModel.check(host.lm, field=host.field)
    with writing(artefact, name=ref.name):
        if begin(artefact, job) is not None:
            return ref
        _clear(artefact)
        folded = loaded.in_raw_units().eval()
        output = Output(artefact, job.fingerprint)
        analysis = _Analysis(settings, store, folded.to(devices.resolve(device)), output, progress)
        counts = analysis.write()
        finish(
            artefact,
            job,
            arrays=dict(sorted(output.arrays.items())),
            counts=counts,
            facts={
                "value": "coefficient of the folded decoder vector, stored as "
                + settings.value_dtype,
                "semantics": folded.config.semantics.model_dump(mode="json"),
                "activations": str(place),
                "hookpoints": list(folded.hookpoints_in),
                "context_size": store.record.context_size,
                "block_rows": encode.block_rows(folded.columns),
            },
        )
    return ref


@dataclass(frozen=True)
class _Analysis:
    settings: AnalyzeSettings
    store: ActivationStore
    folded: SparseDictionary
    output: Output
    progress: Progress

    def write(self) -> dict[str, int]:
        """Write every table; return the counts for the manifest."""
        settings, output = self.settings, self.output
        scope = survey(self.store, settings, output.artefact.scratch(_SCOPE))
        output.write(tables.CONTEXTS, context_rows(self.store, scope))
        output.write(tables.VOCABULARY, [vocabulary_rows(self.store, scope)])
        documents = document_rows(self.store, scope)
        output.write(tables.DOCUMENTS, [documents], schema=documents.schema)
        device = self.folded.encoder_bias().device
        scaling = None
        if settings.head_scaling and measurable(self.folded):
            scaling = HeadScaling(self.folded)
        heads = self._heads()
        found = encode.firings(
            self.store,
            self.folded,
            scope,
            settings,
            device=device,
            scaling=scaling,
            at_gates=None if heads is None else heads.add,
        )
        sorter = sorted_by_context(
            found,
            output,
            settings,
            features=self.folded.d_sae,
            rows=len(scope.tokens),
            progress=self.progress,
        )
        weights = encode.weight_facts(self.folded)
        attended = Pairs(self.folded.d_sae) if self.folded.reads_contexts else None

        def seen(name: str, piece: pa.Table) -> None:
            if attended is not None and name == tables.EXAMPLES.name:
                attended.add(piece)

        dead = collected(
            sorter, output, settings, scope, weights, progress=self.progress, seen=seen
        )
        if heads is not None:
            write_at_heads(heads, output, settings, gates=self.folded.gates)
        self._of_family(scope, attended, scaling)
        if settings.logits is not None:
            self._logits(settings.logits)
        else:
            self.progress.note("logits = null: no logit attribution, no language model loaded")
        return {
            "rows": scope.n_rows,
            "contexts": scope.n_contexts,
            "features": self.folded.d_sae,
            "firings": sorter.n_firings,
            "dead": dead,
        }

    def _heads(self) -> Sorter | None:
        """Return what takes the firings at each head; None where all heads gate as one."""
        if self.folded.gates == 1:
            return None
        return Sorter(
            self.output.artefact.scratch(HEAD_RUNS),
            features=self.folded.columns,
            memory_mib=self.settings.memory_mib,
        )

    def _of_family(self, scope: Scope, attended: Pairs | None, scaling: HeadScaling | None) -> None:
        """Write the tables of families that read or write several rows or hookpoints."""
        output = self.output
        if attended is not None:
            rows = attention_rows(
                self.store,
                self.folded,
                scope,
                attended,
                memory_mib=self.settings.memory_mib,
                progress=self.progress,
            )
            output.write(tables.ATTENTION, rows)
        if len(self.folded.hookpoints_out) > 1:
            output.write(tables.DECODERS, [decoder_rows(self.folded)])
            if self.folded.config.layers == 1:  # the same features at all of them
                output.write(tables.DECODER_PAIRS, [pair_rows(self.folded)])
        if scaling is not None:
            output.write(tables.HEAD_SCALING, [scaling.table()])

    def _logits(self, wanted: LogitSettings) -> None:
        hosts = _hosts(self.store, self.folded.config, wanted)
        each = [self._logits_in(host, wanted) for host in hosts]
        output, total = self.output, self.folded.d_sae
        with (
            output.writer(tables.LOGITS) as ends,
            output.writer(tables.LOGIT_STATS) as distribution,
            self.progress.task("logits", total=total, unit="features") as task,
        ):
            for tokens, statistics in logits.heads_together(each):
                ends.write(tokens)
                distribution.write(statistics)
                task.advance(statistics.num_rows // len(each))
        output.wrote("logits", ends)
        output.wrote("logit_stats", distribution)

    def _logits_in(self, host: Host, wanted: LogitSettings) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Return the tables of one language model: of several, of what is written to its last head."""
        unembedding = LanguageModel.load(host.lm, device="cpu", field=host.field).unembedding()
        if host.label:
            vectors = self.folded.decoder_vectors_at(host.writes[-1]).detach()
            head = self.folded.hookpoints_out.index(host.writes[-1])
        else:
            vectors, head = self.folded.logit_directions().detach(), 0
        # columns beyond the vocabulary pad the matrix: no text can say them
        known = self.store.vocabulary().num_rows
        onto = logits.projection(
            unembedding.W_U[:, :known], unembedding.gain, centred=unembedding.centred
        )
        onto = logits.Projection(onto.weight.to(vectors.device), onto.mean.to(vectors.device))
        score = self.folded.logit_score
        return logits.logit_rows(vectors, onto, top_k=wanted.top_k, score=score, head=head)


def _hosts(store: ActivationStore, config: DictionaryConfig, wanted: LogitSettings) -> list[Host]:
    """Return the language models that a dictionary writes to."""
    reads, writes = config.hookpoints_in, config.hookpoints_out
    return hosts_of(store, reads, writes, lm=wanted.lm, field="logits.lm")


def _clear(artefact: Storage) -> None:
    """Remove what a killed run left; only the lock and the record of its settings stay."""
    for name in artefact.names():
        if name != layout.PROGRESS:
            artefact.remove(name)
    for name in artefact.names(layout.PROGRESS):
        if not is_lock(name) and f"{layout.PROGRESS}/{name}" != layout.RUN:
            artefact.remove(f"{layout.PROGRESS}/{name}")
