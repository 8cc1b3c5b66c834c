"""Logit attribution in an analysis: which scores, of which vectors, through which language models.

Scores come from the weights and are computed before the firings are counted, because `histograms` has
them. `additive` also needs each feature's logit scale, which is known after that: until then lines of
`logits` lie in a file.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float64
from torch import Tensor

from saestore.activations import ActivationStore, Host, hosts_of
from saestore.analyze import logits
from saestore.analyze.logits import LogitHistogram, LogitRows, Projection
from saestore.analyze.write import Output
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
        UnsupportedError: `additive` of features that write another vector on each row.
    """
    own, captured = folded.logit_score, layout.FINAL_NORM_SCALE in store.captures
    if wanted.scores is None:
        return (own, "additive") if captured and own == "direction" else (own,)
    for score in wanted.scores:
        if score in {"direction", "left_singular"} and score != own:
            raise ConfigError(
                field="logits.scores",
                found=score,
                expected=f"{own}, which is what features of a {folded.family} have",
                hint=f"ask for {own}",
            )
        if score == "additive" and own != "direction":
            raise UnsupportedError(
                f"features of a {folded.family} write another vector on each row, and their mean "
                "contribution is a mean over rows that the analysis does not keep",
                found="logits.scores with additive",
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
    ) -> None:
        """Choose the scores; nothing is computed.

        Args:
            store: Whose language model it is.
            folded: The dictionary, in raw units.
            wanted: What is asked for.
            output: Where tables are written.

        Raises:
            SaestoreError: See `chosen`.
        """
        self._store, self._folded, self._wanted, self._output = store, folded, wanted, output
        self.scores = chosen(wanted, folded, store)
        self._statistics: list[LogitRows] = []

    @property
    def _held(self) -> Path:
        return self._output.artefact.scratch(_HELD)

    def compute(self, progress: Progress) -> tuple[LogitHistogram, ...]:
        """Compute all scores; return their histograms.

        Args:
            progress: Where to report.
        """
        own = self._folded.logit_score
        if self._wanted.scores is None and "additive" not in self.scores and own == "direction":
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
                features = len(set(piece.statistics["feature"].to_pylist()))
                task.advance(features)
                self._statistics.append(
                    LogitRows(piece.ends.slice(0, 0), piece.statistics, piece.counts)
                )
        return logits.histograms(
            self._statistics,
            additive="direction" if "additive" in self.scores else None,
            shown=self.scores,
        )

    def write(self, scale: Float64[np.ndarray, " d_sae"]) -> None:
        """Write the tables.

        Args:
            scale: Logit scale of each feature, NaN where it is undefined.
        """
        output = self._output
        with ExitStack() as stack:
            ends = stack.enter_context(output.writer(tables.LOGITS))
            distribution = stack.enter_context(output.writer(tables.LOGIT_STATS))
            held = pa.ipc.open_file(stack.enter_context(pa.memory_map(str(self._held))))
            for number, piece in enumerate(self._statistics):
                lines = pa.Table.from_batches([held.get_batch(number)])
                whole = LogitRows(lines, piece.statistics, piece.counts)
                if "additive" in self.scores:
                    whole = logits.with_additive(whole, scale)
                ends.write(_of_scores(whole.ends, self.scores))
                distribution.write(_of_scores(whole.statistics, self.scores))
        output.wrote("logits", ends)
        output.wrote("logit_stats", distribution)
        self._held.unlink()

    def _of(self, host: Host) -> Iterator[Iterator[LogitRows]]:
        """Yield the scores of each head that lies in a language model."""
        model = LanguageModel.load(host.lm, device="cpu", field=host.field)
        unembedding = model.unembedding()
        vectors = self._vectors(host, model)
        device = next(iter(vectors.values())).device
        tokens = self._store.vocabulary().num_rows
        onto = Projection.of(unembedding, tokens=tokens, device=device)
        # of a multiple the score itself is made first
        made = {self._folded.logit_score if s == "additive" else s for s in self.scores}
        for head, each in vectors.items():
            yield logits.logit_rows(
                each.detach(), onto, top_k=self._wanted.top_k, scores=sorted(made), head=head
            )

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


def _of_scores(lines: pa.Table, scores: tuple[LogitScore, ...]) -> pa.Table:
    """Return the lines of some scores."""
    return lines.filter(pa.compute.is_in(lines["score"], pa.array(scores)))
