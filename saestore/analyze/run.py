"""The verb: a dictionary and a store in, feature tables out."""

from dataclasses import dataclass

from saestore import devices, dictionaries
from saestore.activations import ActivationStore, only_store
from saestore.analyze import encode, logits
from saestore.analyze.context_tables import context_rows, document_rows, vocabulary_rows
from saestore.analyze.decoders import decoder_rows
from saestore.analyze.survey import survey
from saestore.analyze.write import Output, collected, sorted_by_context
from saestore.dictionaries import SparseDictionary
from saestore.lake import Lake, Ref, Storage, layout
from saestore.lake.lock import is_lock, writing
from saestore.lake.manifest import Run, begin, finish, parent_of
from saestore.lm import LanguageModel
from saestore.progress import Progress, Silent
from saestore_schemas import tables
from saestore_schemas.analyze import AnalyzeSettings, LogitSettings
from saestore_schemas.lm import LmSettings


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
    store = ActivationStore.open(lake, settings.activations or only_store(lake, trained))
    parents = (parent_of(trained), parent_of(store.manifest))
    job = Run.of(ref, settings, parents)
    artefact = lake.artefact(ref)
    if artefact.exists(layout.MANIFEST):  # nothing to write: the lake may be read-only
        begin(artefact, job)
        return ref
    if settings.logits is not None:  # before the rows, which may take long
        LanguageModel.check(_model(store, settings.logits))
    with writing(artefact, name=ref.name):
        if begin(artefact, job) is not None:
            return ref
        _clear(artefact)
        folded = dictionaries.load(lake, settings.dictionary).in_raw_units().eval()
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
                "activations": store.ref.name,
                "hookpoints": list(folded.hookpoints_in),
                "context_size": store.record.context_size,
                "block_rows": encode.block_rows(folded.d_sae),
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
        sorter = sorted_by_context(
            encode.firings(self.store, self.folded, scope, settings, device=device),
            output,
            settings,
            features=self.folded.d_sae,
            rows=len(scope.tokens),
            progress=self.progress,
        )
        weights = encode.weight_facts(self.folded)
        dead = collected(sorter, output, settings, scope, weights, progress=self.progress)
        if len(self.folded.hookpoints_out) > 1:
            output.write(tables.DECODERS, [decoder_rows(self.folded)])
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

    def _logits(self, wanted: LogitSettings) -> None:
        unembedding = LanguageModel.load(_model(self.store, wanted), device="cpu").unembedding()
        vectors = self.folded.logit_directions().detach()
        # columns beyond the vocabulary pad the matrix: no text can say them
        known = self.store.vocabulary().num_rows
        onto = logits.projection(
            unembedding.W_U[:, :known], unembedding.gain, centred=unembedding.centred
        )
        onto = logits.Projection(onto.weight.to(vectors.device), onto.mean.to(vectors.device))
        output = self.output
        with (
            output.writer(tables.LOGITS) as ends,
            output.writer(tables.LOGIT_STATS) as distribution,
            self.progress.task("logits", total=len(vectors), unit="features") as task,
        ):
            for tokens, statistics in logits.logit_rows(
                vectors, onto, top_k=wanted.top_k, score=self.folded.logit_score
            ):
                ends.write(tokens)
                distribution.write(statistics)
                task.advance(statistics.num_rows)
        output.wrote("logits", ends)
        output.wrote("logit_stats", distribution)


def _model(store: ActivationStore, wanted: LogitSettings) -> LmSettings:
    return store.language_model(wanted.lm, field="logits.lm")


def _clear(artefact: Storage) -> None:
    """Remove what a killed run left; only the lock and the record of its settings stay."""
    for name in artefact.names():
        if name != layout.PROGRESS:
            artefact.remove(name)
    for name in artefact.names(layout.PROGRESS):
        if not is_lock(name) and f"{layout.PROGRESS}/{name}" != layout.RUN:
            artefact.remove(f"{layout.PROGRESS}/{name}")
