"""The verb: a dictionary and a store in, feature tables out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from saestore import devices, dictionaries
from saestore.activations import ActivationStore, Place
from saestore.analyze import attribution, encode
from saestore.analyze.attention import Pairs, attention_rows
from saestore.analyze.attribution import Attribution
from saestore.analyze.context_tables import context_rows, document_rows, vocabulary_rows
from saestore.analyze.decoders import decoder_rows, pair_rows
from saestore.analyze.earlier import Earlier
from saestore.analyze.joint import Sampler
from saestore.analyze.known import Known
from saestore.analyze.negatives import Alike, Negatives
from saestore.analyze.neighbours import neighbour_rows
from saestore.analyze.pieces import Encoded, Pieces
from saestore.analyze.scaling import HeadScaling, measurable
from saestore.analyze.scope import Scope
from saestore.analyze.sort import Firings, Sorter
from saestore.analyze.survey import survey
from saestore.analyze.tallies import Tallies
from saestore.analyze.tally import Tally
from saestore.analyze.write import (
    HEAD_RUNS,
    NEGATIVES,
    SAMPLE,
    Output,
    Seen,
    collected,
    sorted_by_context,
    write_at_heads,
    write_tallied,
)
from saestore.analyze.written import MEANS, MeanWritten
from saestore.dictionaries import SparseCode, SparseDictionary
from saestore.errors import UnsupportedError
from saestore.lake import Lake, Ref, Storage, checkpoint, layout
from saestore.lake.checkpoint import Made
from saestore.lake.lock import is_lock, writing
from saestore.lake.manifest import Run, begin, finish
from saestore.lake.parts import Part, State
from saestore.progress import Progress, Silent, Task
from saestore_schemas import tables
from saestore_schemas.analyze import (
    AnalyzeSettings,
    NeighbourSettings,
    TopSubsample,
)


_SILENT = Silent()

_SCOPE = f"{layout.PROGRESS}/scope"
"""Where tokens and flags are mapped from."""

_ALL = Part(0, 1)
"""All rows."""

_ENCODING = "encoding-"
"""Of several processes that encode, each holds the lock of a folder of its own."""


def run(
    settings: AnalyzeSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress = _SILENT,
) -> Ref:
    """Write what every feature of a dictionary does; a finished analysis is left as it is.

    A run that was killed goes on where encoding stopped and ends with the same bytes. What other
    processes encoded by `run_part` is not encoded again.

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
        UnsupportedError: The dictionary has firings below zero.
    """
    plan = _Plan.of(settings, lake)
    if plan.artefact.exists(layout.MANIFEST):  # nothing to write: the lake may be read-only
        begin(plan.artefact, plan.job)
        return plan.ref
    analysis = plan.prepared(device, progress)
    with writing(plan.artefact, name=plan.ref.name), plan.alone():
        if begin(plan.artefact, plan.job) is not None:
            return plan.ref
        _clear(plan.artefact)
        counts, found = analysis.write()
        folded = analysis.folded
        finish(
            plan.artefact,
            plan.job,
            arrays=dict(sorted(analysis.output.arrays.items())),
            counts=counts,
            facts={
                "value": "coefficient of the folded decoder vector, stored as "
                + settings.value_dtype,
                "semantics": folded.config.semantics.model_dump(mode="json"),
                "activations": str(plan.place),
                "hookpoints": list(folded.hookpoints_in),
                "context_size": plan.store.record.context_size,
                "block_rows": encode.block_rows(folded.columns),
                **found,
            },
        )
    return plan.ref


def run_part(
    settings: AnalyzeSettings,
    lake: Lake,
    part: Part,
    *,
    device: str = "auto",
    progress: Progress = _SILENT,
) -> list[State]:
    """Encode one part of the rows, beside other processes; return how far all parts are.

    `run` then makes the tables, the same bytes as if it had encoded all rows. None are returned
    where the analysis is finished.

    Args:
        settings: Those of the whole analysis.
        lake: See `run`.
        part: Which part.
        device: See `run`.
        progress: Where to report.

    Raises:
        ArtefactBusyError: Another process encodes this part, or makes the tables.
        SaestoreError: See `run`.
    """
    plan = _Plan.of(settings, lake)
    if plan.artefact.exists(layout.MANIFEST):
        begin(plan.artefact, plan.job)
        return []
    analysis = plan.prepared(device, progress)
    with writing(plan.artefact, name=plan.ref.name):
        if begin(plan.artefact, plan.job) is not None:
            return []
    own = plan.artefact.child(f"{layout.PARTS}/{_ENCODING}{part.index}-of-{part.count}")
    with writing(own, name=f"{plan.ref.name}, part {part}"):
        scratch = f"{layout.PARTS}/{_ENCODING}{part.index}-of-{part.count}/scope"
        scope = survey(plan.store, settings, plan.artefact.scratch(scratch))
        made = analysis.encoded(scope, part)
        return [made.state(Part(each, part.count)) for each in range(part.count)]


@dataclass(frozen=True)
class _Plan:
    """An analysis that is to be made, and what it is made of."""

    settings: AnalyzeSettings
    lake: Lake
    ref: Ref
    job: Run
    place: Place
    store: ActivationStore

    @classmethod
    def of(cls, settings: AnalyzeSettings, lake: Lake) -> "_Plan":
        named = checkpoint.numbered(lake, settings.dictionary)
        settings = settings.model_copy(update={"dictionary": named})
        ref = checkpoint.beside("features", named, settings.name)
        trained = Made.of(named, lake)
        place = Place.of(lake, trained, settings.activations, settings.heads)
        store = place.open(lake, trained)
        job = Run.of(ref, settings, (trained.parent, *store.parents))
        return cls(settings, lake, ref, job, place, store)

    @property
    def artefact(self) -> Storage:
        return self.lake.artefact(self.ref)

    def prepared(self, device: str, progress: Progress) -> "_Analysis":
        """Load the dictionary; refuse what cannot be analysed before anything is written."""
        loaded = dictionaries.load(self.lake, self.settings.dictionary)
        if self.settings.logits is not None:
            attribution.checked(self.store, loaded, self.settings.logits)
            means = set(self.settings.logits.scores or ()).intersection(MEANS)
            if means and loaded.maps is not None and self.settings.firings == "none":
                raise UnsupportedError(
                    f"features of a {loaded.family} write another vector on each row, and its mean is over "
                    "all firings",
                    found=f'logits.scores with {", ".join(sorted(means))} and firings = "none"',
                    expected=f"{loaded.logit_score} or renormalised",
                    hint=f"set logits.scores = ['{loaded.logit_score}'], or firings = \"feature\"",
                )
        folded = loaded.in_raw_units().eval().to(devices.resolve(device))
        output = Output(self.artefact, self.job.fingerprint)
        earlier = partial(Earlier.find, self.lake, self.job, self.settings)
        return _Analysis(self.settings, self.store, folded, output, progress, earlier)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse to begin while other processes encode parts.

        Raises:
            ArtefactBusyError: One does.
        """
        with ExitStack() as locks:
            for name in self.artefact.names(layout.PARTS):
                if name.startswith(_ENCODING):
                    part = self.artefact.child(f"{layout.PARTS}/{name}")
                    label = f"{self.ref.name}, part {name.removeprefix(_ENCODING)}"
                    locks.enter_context(writing(part, name=label))
            yield


@dataclass(frozen=True)
class _Analysis:
    settings: AnalyzeSettings
    store: ActivationStore
    folded: SparseDictionary
    output: Output
    progress: Progress
    earlier: Callable[[], Earlier | None]

    def write(self) -> tuple[dict[str, int], dict[str, Any]]:
        """Write every table; return the counts and the facts that were found for the manifest."""
        settings, output = self.settings, self.output
        scope = survey(self.store, settings, output.artefact.scratch(_SCOPE))
        output.write(tables.CONTEXTS, context_rows(self.store, scope))
        output.write(tables.VOCABULARY, [vocabulary_rows(self.store, scope)])
        documents = document_rows(self.store, scope)
        output.write(tables.DOCUMENTS, [documents], schema=documents.schema)
        if settings.firings == "none":
            return self._from_tallies(scope)
        return self._from_firings(scope)

    def _from_firings(self, scope: Scope) -> tuple[dict[str, int], dict[str, Any]]:
        """Write both orders of the firings and what is counted from them."""
        settings, output = self.settings, self.output
        pieces = self._pieces(scope, _ALL)
        negatives = Negatives.of(
            settings.subsamples.values(),
            scope,
            output.artefact.scratch(NEGATIVES),
            features=self.folded.d_sae,
        )
        if settings.neighbours is not None:
            self._neighbours(settings.neighbours, negatives.alike)
        scaling, written = self._scaling(), self._written(scope)
        heads, sampler = self._heads(), self._sampler(scope)
        sorter = sorted_by_context(
            _read(pieces, [each for each in (scaling, written) if each is not None], heads),
            output,
            settings,
            features=self.folded.d_sae,
            rows=len(scope.tokens),
            progress=self.progress,
            sampler=sampler,
        )
        sample = None if sampler is None else sampler.sample()
        weights = encode.weight_facts(self.folded)
        logits = self._attribution(written)
        drawn = () if logits is None else logits.compute(self.progress)
        known = Known(settings, scope, weights, sample, drawn, negatives)
        attended = self._attended()
        seen = _taking(attended, logits)
        dead = collected(sorter, output, known, progress=self.progress, seen=seen)
        facts: dict[str, Any] = {} if logits is None else logits.write()
        if heads is not None:
            write_at_heads(heads, output, settings, gates=self.folded.gates)
        self._of_family(scope, attended, scaling)
        counts = self._counts(scope, firings=sorter.n_firings, dead=dead)
        if sample is not None:
            facts["coactivation"] = sample.size()
        return counts, facts

    def _from_tallies(self, scope: Scope) -> tuple[dict[str, int], dict[str, Any]]:
        """Write what can be counted without keeping firings."""
        settings, output = self.settings, self.output
        tallies = self._tallies(scope, _ALL)
        if settings.neighbours is not None:
            self._neighbours(settings.neighbours)
        logits = self._attribution()
        drawn = () if logits is None else logits.compute(self.progress)
        known = Known(settings, scope, encode.weight_facts(self.folded), logits=drawn)
        attended, whole = self._attended(), tallies.whole()
        write_tallied(whole.tables(known), output, seen=_taking(attended, logits))
        self._of_family(scope, attended, None)
        fired = whole.counts.firings
        counts = self._counts(scope, firings=int(fired.sum()), dead=int((fired == 0).sum()))
        facts: dict[str, Any] = {"firings": "none"}
        facts["null_without_firings"] = list(tables.FROM_ALL_FIRINGS)
        return counts, facts if logits is None else facts | logits.write()

    def _counts(self, scope: Scope, *, firings: int, dead: int) -> dict[str, int]:
        return {
            "rows": scope.n_rows,
            "contexts": scope.n_contexts,
            "features": self.folded.d_sae,
            "firings": firings,
            "dead": dead,
        }

    def _attended(self) -> Pairs | None:
        """Return what takes the examples of features that attend."""
        return Pairs(self.folded.d_sae) if self.folded.reads_contexts else None

    def _attribution(self, means: MeanWritten | None = None) -> Attribution | None:
        """Return what writes the tables of logit scores, if they are asked for."""
        wanted = self.settings.logits
        if wanted is None:
            self.progress.note("logits = null: no logit attribution, no language model loaded")
            return None
        if self.settings.firings == "none" and wanted.scores is None:  # no means over firings
            wanted = wanted.model_copy(update={"scores": (self.folded.logit_score,)})
        return Attribution(self.store, self.folded, wanted, self.output, means=means)

    def _sampler(self, scope: Scope) -> Sampler | None:
        """Return what takes the firings on which features are counted together, if they are."""
        if self.settings.coactivation is None:
            return None
        return Sampler(
            scope,
            self.settings.coactivation,
            self.output.artefact.scratch(SAMPLE),
            features=self.folded.d_sae,
            memory_mib=self.settings.memory_mib,
        )

    def _neighbours(self, wanted: NeighbourSettings, alike: Alike | None = None) -> None:
        """Write which features point the same way, and remember what hard negatives ask of it."""

        def noted() -> Iterator[pa.Table]:
            for piece in neighbour_rows(self.folded, wanted, progress=self.progress):
                if alike is not None:
                    alike.take(tables.NEIGHBOURS.name, piece)
                yield piece

        self.output.write(tables.NEIGHBOURS, noted())

    def encoded(self, scope: Scope, part: Part) -> Pieces | Tallies:
        """Encode the rows of one of several processes that are missing."""
        if self.settings.firings == "none":
            return self._tallies(scope, part)
        return self._pieces(scope, part)

    def _tallies(self, scope: Scope, part: Part) -> Tallies:
        """Return tallies of contexts, with those of a part."""
        settings = self.settings
        wanted = [each for each in settings.subsamples.values() if isinstance(each, TopSubsample)]
        made = Tallies(
            self.output.artefact,
            scope,
            partial(Tally, scope, wanted, features=self.folded.d_sae),
            lambda span: self._encoded(span, scope, None, None),
            memory_mib=settings.memory_mib,
            block_rows=encode.block_rows(self.folded.columns),
        )
        span = made.of(part)
        total, left = made.rows([span]), made.rows(made.missing(span))
        with self.progress.task("encode", total=total, unit="rows", done=total - left) as task:
            made.take(part, task)
        return made

    def _pieces(self, scope: Scope, part: Part) -> Pieces:
        """Return the pieces in which rows are encoded, with those of a part."""
        size = encode.block_rows(self.folded.columns)
        pieces = Pieces(self.output.artefact, rows=len(scope.tokens), block_rows=size)
        numbers = pieces.of(part)
        missing, scaling, written = pieces.missing(numbers), self._scaling(), self._written(scope)
        total, left = pieces.rows(numbers), pieces.rows(missing)
        known = None
        if missing and scaling is None and written is None and self.folded.gates == 1:
            known = self.earlier()
        if known is not None:
            self.progress.note(
                f"of the first {known.contexts:,} contexts {known.name} has the firings"
            )

        def sums() -> dict[str, np.ndarray]:
            return {
                name: each
                for adding in (scaling, written)
                if adding is not None
                for name, each in adding.taken().items()
            }

        with self.progress.task("encode", total=total, unit="rows", done=total - left) as task:
            for number in missing:
                span = pieces.span(number)
                if known is not None and known.covers(span, scope):
                    found = known.blocks(span, scope, self.settings, rows=size)
                else:
                    found = self._encoded(span, scope, scaling, written)
                pieces.write(number, _told(found, task), sums)
        return pieces

    def _encoded(
        self,
        span: tuple[int, int],
        scope: Scope,
        scaling: HeadScaling | None,
        written: MeanWritten | None,
    ) -> Iterator[Encoded]:
        """Yield the blocks of a stretch of rows, encoded."""
        seen: list[encode.Seen] = [] if written is None else [written.update]
        if scaling is not None:
            seen.append(partial(_scaled, scaling, scope))
        return encode.firings(
            self.store,
            self.folded,
            scope,
            self.settings,
            device=self.folded.encoder_bias().device,
            seen=seen,
            span=span,
            at_gates=self.folded.gates > 1 and self.settings.firings != "none",
        )

    def _scaling(self) -> HeadScaling | None:
        """Return what adds up latent scaling, where that is wanted and means something."""
        wanted = self.settings.head_scaling and measurable(self.folded)
        return HeadScaling(self.folded) if wanted else None

    def _written(self, scope: Scope) -> MeanWritten | None:
        """Return what adds up what features write, where that is another vector on each row."""
        maps, wanted = self.folded.maps, self.settings.logits
        if maps is None or wanted is None:
            return None
        scores = attribution.chosen(wanted, self.folded, self.store)
        if not set(scores) & set(MEANS):
            return None
        return MeanWritten(self.folded, maps, scope, self.settings)

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


def _scaled(
    scaling: HeadScaling, scope: Scope, code: SparseCode, rows: Mapping[str, Tensor], first: int
) -> None:
    scaling.update(code, rows, np.asarray(scope.kept[first : first + code.n_rows]))


def _read(
    pieces: Pieces, adding: Sequence[HeadScaling | MeanWritten], heads: Sorter | None
) -> Iterator[tuple[int, Firings]]:
    """Yield rows and firings of all pieces in order; tell the others what is theirs."""
    for number in range(pieces.count):
        for sums in adding:
            sums.add(pieces.sums(number))
        for each in pieces.read(number):
            if heads is not None and each.at_gates is not None:
                heads.add(each.at_gates)
            yield each.rows, each.firings


def _taking(attended: Pairs | None, logits: Attribution | None) -> list[Seen]:
    """Return what takes pieces of tables: examples, where features attend, and logit scales."""
    seen: list[Seen] = []
    if attended is not None:
        seen.append(attended.take)
    if logits is not None:
        seen.append(logits.take)
    return seen


def _told(found: Iterable[Encoded], task: Task) -> Iterator[Encoded]:
    """Yield blocks, and tell the progress of them."""
    rows = firings = 0
    for each in found:
        yield each
        rows, firings = rows + each.rows, firings + len(each.firings)
        task.advance(each.rows, l0=firings / rows)


def _clear(artefact: Storage) -> None:
    """Remove what a killed run left but its lock, the record of its settings, and what it encoded."""
    for name in artefact.names():
        if name != layout.PROGRESS:
            artefact.remove(name)
    kept = (layout.RUN, layout.PARTS)
    for name in artefact.names(layout.PROGRESS):
        if not is_lock(name) and f"{layout.PROGRESS}/{name}" not in kept:
            artefact.remove(f"{layout.PROGRESS}/{name}")
