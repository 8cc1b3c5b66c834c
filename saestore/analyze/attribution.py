"""Logit attribution in an analysis: which scores, of which vectors, through which language models.

Scores come from the weights and are computed before the firings are counted, because `histograms` has
them. `additive` also needs each feature's logit scale, which is known after that: until then lines of
`logits` lie in a file.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float
from torch import Tensor

from saestore.activations import ActivationStore, Host, hosts_of
from saestore.analyze import logits
from saestore.analyze.logits import LogitHistogram, LogitRows, Projection
from saestore.analyze.write import Output
from saestore.analyze.written import MEANS, MeanWritten
from saestore.dictionaries import SparseDictionary
from saestore.errors import ConfigError, UnsupportedError
from saestore.lake import layout
from saestore.lm import LanguageModel, residual
from saestore.progress import Progress
from saestore_schemas import tables
from saestore_schemas.analyze import LogitScore, LogitSettings


_HELD = f"{layout.PROGRESS}/logits"
"""Where lines of `logits` lie until they are written."""


def chosen(
    wanted: LogitSettings, folded: SparseDictionary, store: ActivationStore
) -> tuple[LogitScore, ...]:
    """Return which scores there will be.

    Raises:
        ConfigError: One is asked for that the dictionary or the store has not.
        UnsupportedError: `additive` of rows that are each normalised by itself.
    """
    own, captured = folded.logit_score, layout.FINAL_NORM_SCALE in store.captures
    by_row = any(folded.scales[hook].by_row for hook in folded.hookpoints_out)
    if wanted.scores is None:
        return (own, "additive") if captured and not by_row else (own,)
    known = {own, "direction"} if folded.maps is not None else {own}
    for score in wanted.scores:
        if score in {"direction", "left_singular"} and score not in known:
            raise ConfigError(
                field="logits.scores",
                found=score,
                expected=f"{own}, which is what features of a {folded.family} have",
                hint=f"ask for {own}",
            )
        if by_row and (score == "additive" or (score == "direction" and score != own)):
            raise UnsupportedError(
                "each row is normalised by itself, so what a value stands for in the residual stream "
                "depends on the row",
                found=f"logits.scores with {score}",
                expected=f"{own} or renormalised",
                hint=f"set logits.scores = ['{own}']",
            )
        if score == "additive" and not captured:
            raise _not_captured(store)
    return wanted.scores


def _not_captured(store: ActivationStore) -> ConfigError:
    try:
        store.captured("final_norm_scale", 0, 0)
    except UnsupportedError as error:
        return ConfigError(
            field="logits.scores",
            found="additive",
            problem=f"{error}, by which values are divided",
            expected="activations with the scale of every row",
            hint=f"{error.hint}; or set logits.scores = ['direction']",
        )
    raise RuntimeError("it was captured")


def checked(store: ActivationStore, folded: SparseDictionary, wanted: LogitSettings) -> None:
    """Refuse what cannot be attributed before anything is computed; no weights are read.

    Raises:
        ConfigError: See `chosen`; or a language model is not there.
        UnsupportedError: See `chosen`; or what is written somewhere has no direct path to the logits.
    """
    chosen(wanted, folded, store)
    for host in hosts(store, folded, wanted):
        LanguageModel.check(host.lm, field=host.field)
        for hook in host.writes:
            residual.check(host.names[hook])


def hosts(store: ActivationStore, folded: SparseDictionary, wanted: LogitSettings) -> list[Host]:
    """Return the language models that a dictionary writes to.

    Raises:
        ConfigError: The store does not say its model and none is named.
    """
    config = folded.config
    reads, writes = config.hookpoints_in, config.hookpoints_out
    return hosts_of(store, reads, writes, lm=wanted.lm, field="logits.lm")


class Attribution:
    """The tables of logit scores, made in two steps."""

    def __init__(
        self,
        store: ActivationStore,
        folded: SparseDictionary,
        wanted: LogitSettings,
        output: Output,
        *,
        means: MeanWritten | None = None,
    ) -> None:
        """Choose the scores; nothing is computed.

        Args:
            store: Whose language model it is.
            folded: The dictionary, in raw units.
            wanted: What is asked for.
            output: Where tables are written.
            means: What features write on average, where that is another vector on each row.

        Raises:
            SaestoreError: See `chosen`.
        """
        self._store, self._folded, self._wanted, self._output = store, folded, wanted, output
        self.scores = chosen(wanted, folded, store)
        self._statistics: list[LogitRows] = []
        self._scales: list[pa.ChunkedArray[pa.DoubleScalar]] = []
        self._means = means

    @property
    def _held(self) -> Path:
        return self._output.artefact.scratch(_HELD)

    def compute(self, progress: Progress) -> tuple[LogitHistogram, ...]:
        """Compute all scores; return their histograms.

        Args:
            progress: Where to report.
        """
        if self._wanted.scores is None and layout.FINAL_NORM_SCALE not in self._store.captures:
            progress.note(
                "logits without the score additive: the activations were generated without "
                "capture = ['final_norm_scale']"
            )
        found = [
            rows
            for host in hosts(self._store, self._folded, self._wanted)
            for rows in self._of(host)
        ]
        self._held.parent.mkdir(parents=True, exist_ok=True)
        schema = tables.LOGITS.schema()
        with (
            pa.OSFile(str(self._held), "wb") as file,
            pa.ipc.new_file(file, schema) as held,
            progress.task("logits", total=self._folded.d_sae, unit="features") as task,
        ):
            for piece in logits.heads_together(found):
                held.write_table(piece.ends.combine_chunks())
                task.advance(pc.count_distinct(piece.statistics["feature"]).as_py())
                counts = piece.counts * self._live(piece.statistics)[:, None].astype(np.uint32)
                self._statistics.append(LogitRows(piece.ends.slice(0, 0), piece.statistics, counts))
        return logits.histograms(
            self._statistics,
            additive="direction" if self._multiplied else None,
            shown=self.scores,
        )

    def take(self, name: str, piece: pa.Table) -> None:
        """Take the logit scales of the features that follow all earlier ones; nothing of other tables."""
        if name == tables.FEATURES.name:
            self._scales.append(piece["logit_scale"])

    def write(self) -> dict[str, Any]:
        """Write the tables, when the scales of all features were taken; return facts for the manifest."""
        output = self._output
        # NaN where it is undefined.
        scale = np.concatenate([each.to_numpy() for each in self._scales])
        with ExitStack() as stack:
            ends = stack.enter_context(output.writer(tables.LOGITS))
            distribution = stack.enter_context(output.writer(tables.LOGIT_STATS))
            held = pa.ipc.open_file(stack.enter_context(pa.memory_map(str(self._held))))
            for number, piece in enumerate(self._statistics):
                lines = pa.Table.from_batches([held.get_batch(number)])
                whole = LogitRows(lines, piece.statistics, piece.counts)
                if self._multiplied:
                    whole = logits.with_additive(whole, scale)
                ends.write(self._shown(whole.ends))
                distribution.write(self._shown(whole.statistics))
        output.wrote("logits", ends)
        output.wrote("logit_stats", distribution)
        self._held.unlink()
        return {"logits": {"scores": list(self.scores)}}

    def _of(self, host: Host) -> Iterator[Iterator[LogitRows]]:
        """Yield the scores of each head that lies in a language model."""
        model = LanguageModel.load(host.lm, device="cpu", field=host.field)
        unembedding = model.unembedding()
        vectors = self._vectors(host, model)
        device = next(iter(vectors.values())).device
        tokens = self._store.vocabulary().num_rows
        onto = Projection.of(unembedding, tokens=tokens, device=device)
        rows = partial(logits.logit_rows, onto=onto, top_k=self._wanted.top_k)
        means = self._mean_scores
        # of a multiple the score itself is made first
        made = {"direction" if s == "additive" else s for s in self.scores if s not in means}
        for head, each in vectors.items():
            if made:
                yield rows(each.detach(), scores=sorted(made), head=head)
        for score in means:
            if self._means is not None:
                into = model.into_stream(host.names[host.writes[0]])
                each = self._means.vectors(score).to(onto.weight)
                yield rows(each if into is None else each @ into.to(each), scores=(score,))

    @property
    def _mean_scores(self) -> tuple[LogitScore, ...]:
        """Which scores are of what features write on average."""
        return tuple(s for s in self.scores if s in MEANS) if self._means is not None else ()

    @property
    def _multiplied(self) -> bool:
        """Whether `additive` is a multiple of `direction`."""
        return "additive" in self.scores and self._means is None

    def _live(self, lines: pa.Table) -> Bool[np.ndarray, " _"]:
        """Return which lines are of no mean over firings that never were."""
        if self._means is None:
            return np.ones(lines.num_rows, np.bool_)
        dead = self._means.firings == 0
        mean = np.isin(lines["score"].to_numpy(zero_copy_only=False), self._mean_scores)
        found: np.ndarray = ~(mean & dead[lines["feature"].to_numpy()])
        return found

    def _shown(self, lines: pa.Table) -> pa.Table:
        """Return the lines that are written."""
        asked = pc.is_in(lines["score"], pa.array(self.scores))
        return lines.filter(pc.and_(asked, pa.array(self._live(lines))))

    def _vectors(
        self, host: Host, model: LanguageModel
    ) -> Mapping[int, Float[Tensor, "d_sae d_model"]]:
        """Return what each feature adds to a model's residual stream, by head."""
        hooks = self._folded.hookpoints_out
        found = self._folded.logit_directions()
        if host.label:
            found = {
                hooks.index(hook): self._folded.decoder_vectors_at(hook) for hook in host.writes
            }
        through = {hook: model.into_stream(host.names[hook]) for hook in host.writes}
        if len(found) < len(host.writes) and any(each is not None for each in through.values()):
            raise UnsupportedError(
                "features write to several hookpoints together, and not all are added to the residual "
                "stream as they are",
                found=", ".join(host.writes),
                expected="what attentions or MLPs add to the stream, or the stream itself",
                hint="set logits = null",
            )
        return {
            head: each if (matrix := through.get(hooks[head])) is None else each @ matrix.to(each)
            for head, each in found.items()
        }
