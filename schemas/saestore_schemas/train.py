"""Settings of `saestore train`: an activation store to a sparse dictionary."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from saestore_schemas.activations import HeadSettings, RowFlag, RowRange, check_heads
from saestore_schemas.base import Model
from saestore_schemas.evaluate import SpliceSettings
from saestore_schemas.families import DictionarySettings, LinearSettings
from saestore_schemas.names import ArtefactName, DictionaryName
from saestore_schemas.objective import LossSettings, objections
from saestore_schemas.optimize import (
    CheckpointSettings,
    EarlyStopSettings,
    LogSettings,
    OptimizerSettings,
    PrecisionSettings,
    ScheduleSettings,
    SeedSettings,
    Steps,
)
from saestore_schemas.sweep import SweepSettings, changed


class ShuffleSettings(Model):
    """How rows are mixed on their way to the trainer."""

    window_rows: int | None = Field(default=None, ge=1)
    """Rows mixed in memory at once; absent, the store up to 1 Mi rows under a memory cap. Of a mix,
    those of all sources together, by weight."""


class SourceSettings(Model):
    """One activation store of a mix."""

    name: ArtefactName
    """Activation store in the lake."""
    weight: float = Field(default=1.0, gt=0)
    """Its share of the training rows is this over the sum of all weights, exactly."""
    rows: RowRange | None = None
    """Only rows of this range: the first, and the one after the last. Absent, all."""


class ActivationsSettings(Model):
    """Which rows train the dictionary.

    Give one store by `name`, several whose rows follow each other in `sources`, or several that hold the
    same tokens, row by row, in `heads`.
    """

    name: ArtefactName | None = None
    """Activation store in the lake. Give this, `sources` or `heads`."""
    rows: RowRange | None = None
    """Only rows of this range of the store, or of all heads': the first, and the one after the last.
    Absent, all."""
    sources: tuple[SourceSettings, ...] = ()
    """Several stores of one language model, mixed by weight. Their rows together are an epoch: a
    store with more than its share of them is not seen whole in it, one with less is seen again."""
    heads: tuple[HeadSettings, ...] = ()
    """Hookpoints of several stores that were generated from the same contexts, such as those of two
    language models. `dictionary` calls them by their names."""
    flags: tuple[RowFlag, ...] = ()
    """Flags that a training row may carry, `special` or `ignored`; by default none. The scale is
    measured over rows without flags all the same."""
    batch_rows: int = Field(default=4096, ge=1)
    """Rows in one step."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of contexts, chosen by a hash of the context's index, that training never sees and
    that evaluate uses. The same of every source."""
    shuffle: ShuffleSettings = ShuffleSettings()
    """Mixing."""

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if sum((self.name is not None, bool(self.sources), bool(self.heads))) != 1:
            msg = "give exactly one of name, sources and heads"
            raise ValueError(msg)
        if self.sources and self.rows is not None:
            msg = "rows goes with name and heads: each of sources has rows of its own"
            raise ValueError(msg)
        check_heads(self.heads)
        for one, other in combinations(self.sources, 2):
            if one.name == other.name and _overlap(one.rows, other.rows):
                msg = (
                    f"{one.name!r} is a source twice, with rows in common: "
                    "give it one weight, or ranges that do not overlap"
                )
                raise ValueError(msg)
        return self

    def conflicts(self, dictionary: LinearSettings) -> Iterator[str]:
        """Yield what makes no sense together with a dictionary, and why."""
        names = [head.called for head in self.heads]
        for hookpoint in dictionary.involved if names else ():
            if hookpoint not in names:
                yield (
                    f"dictionary has {hookpoint!r}, which is none of activations.heads: these are "
                    f"{', '.join(names)}"
                )
        if not dictionary.reads_contexts:
            return
        if self.sources:
            yield (
                "activations.sources mixes rows of several stores, and this family reads whole contexts: give "
                "one store by activations.name"
            )
        if self.shuffle.window_rows is not None:
            yield (
                "activations.shuffle.window_rows mixes single rows, and this family reads whole contexts, drawn "
                "from all of the store: remove it"
            )

    @property
    def mixed(self) -> tuple[SourceSettings, ...]:
        """Stores whose rows follow each other, with their weights: `sources`, or one.

        Of heads that is the first one's store, whose contexts stand for those of all.
        """
        if self.sources:
            return self.sources
        name = self.heads[0].store if self.name is None else self.name
        return (SourceSettings(name=name, rows=self.rows),)

    @property
    def stores(self) -> tuple[str, ...]:
        """Every store that is read, once."""
        each = [head.store for head in self.heads] or [source.name for source in self.mixed]
        return tuple(dict.fromkeys(each))


def _overlap(one: RowRange | None, other: RowRange | None) -> bool:
    return one is None or other is None or max(one[0], other[0]) < min(one[1], other[1])


class BudgetSettings(Model):
    """How long to train. Give exactly one."""

    rows: int | None = Field(default=None, ge=1)
    """Rows to see, repeats included."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training rows of the store, or of all sources together."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.rows is None) == (self.epochs is None):
            msg = "give exactly one of rows and epochs"
            raise ValueError(msg)
        return self


class InitSettings(Model):
    """Starting weights. What is measured is measured on a sample of rows that training sees again."""

    dictionary: DictionaryName | None = None
    """Start from the weights of a dictionary of the lake, `series/name`, which must mean the same: d_sae,
    activation and all other settings of `dictionary`. Nothing else of this section applies."""
    tie: bool | None = None
    """Encoder = `tie_factor` times decoder transposed; otherwise it is drawn by itself. Absent, tied where
    input and output are the same hookpoints."""
    tie_factor: float = Field(default=1.0, gt=0)
    """Encoder = factor times decoder transposed."""
    decoder_vector_norm: float = Field(default=1.0, gt=0)
    """Length of the random decoder vectors; 1 when decoder_norm is `unit`."""
    decoder_bound: float | None = Field(default=None, gt=0)
    """Draw each decoder weight between minus this and this, instead of directions of one length."""
    encoder_bound: float | None = Field(default=None, gt=0)
    """The same of an encoder that is not tied; absent, directions of length 1."""
    data_points: bool = False
    """Decoder vectors are centred rows at length 1 (times `decoder_vector_norm`), each another one."""
    data_noise: float = Field(default=0.0, ge=0)
    """Length of a random vector added to each data point."""
    from_host: Literal["attention", "mlp"] | None = None
    """Start from the part of the language model that is replaced. `attention` (lorsa): `hookpoint_in` is what
    it reads, up to the gain of a norm, `hookpoint_out` what it writes, and `dictionary.attention` attends as
    it does. `mlp` (transcoder): each decoder vector is what the MLP between the hookpoints writes when the mean
    row goes along the encoder vector, minus what it writes on average."""
    sign_flip: bool = False
    """Turn the signs of features (lorsa) whose pre-activations are positive on fewer than a fifth of the
    sample's rows."""
    active_subspace: int | None = Field(default=None, ge=1)
    """Decoder vectors lie in the so many directions in which rows vary most."""
    repeat_heads: bool = True
    """Heads of equal width start from the same decoder vectors; otherwise each has its own."""
    decoder_bias: Literal["zero", "mean", "geometric_median"] = "zero"
    """`mean`: of the normalised input, from the store's moments; `geometric_median`: of the sample."""
    search_decoder_norm: bool = False
    """Length of the decoder vectors with the least squared error of 70 between .01 and 5.1; free decoders
    only."""
    center_encoder_bias: bool = False
    """Take the mean pre-activation of the sample off the encoder bias."""
    firing_rate: float | None = Field(default=None, gt=0, lt=1)
    """Set the encoder bias so that each pre-activation is positive on this share of the sample's rows."""
    sample_rows: int = Field(default=16384, ge=2)
    """Rows of the sample, if any of this needs one; `data_points` takes as many as there are features at
    least."""
    threshold: float | None = Field(default=None, ge=0)
    """JumpReLU thresholds, in normalised units; absent, 0.1 with `ste_to_input` and 0.001 without."""
    zero_cross_layer: bool = False
    """Of a cross-layer transcoder, let features write to their own layer only at the start."""

    @property
    def sampled(self) -> bool:
        """Whether it needs a sample of rows."""
        median = self.decoder_bias == "geometric_median"
        encoder = self.center_encoder_bias or self.firing_rate is not None
        decoder = self.data_points or self.active_subspace is not None or self.search_decoder_norm
        attention = self.sign_flip or self.from_host is not None
        return self.dictionary is None and (median or encoder or decoder or attention)

    def tied(self, dictionary: LinearSettings) -> bool:
        """Return whether the encoder starts as the decoder transposed."""
        return dictionary.ties if self.tie is None else self.tie

    def conflicts(self, dictionary: LinearSettings) -> Iterator[str]:
        """Yield what makes no sense together, or with a dictionary, and why."""
        if self.dictionary is not None:
            plain = InitSettings(dictionary=self.dictionary)
            other = [n for n in type(self).model_fields if getattr(self, n) != getattr(plain, n)]
            if other:
                yield f"init.dictionary takes all weights from there: remove {', '.join(other)}"
        yield from self._others(dictionary)
        unit = dictionary.decoder_norm == "unit"
        if unit and (self.search_decoder_norm or self.decoder_bound is not None):
            yield (
                "init.search_decoder_norm and init.decoder_bound choose the length of decoder vectors: "
                "dictionary.decoder_norm = 'unit' holds it at 1"
            )
        if self.decoder_bound is not None and (self.decoder_vector_norm != 1 or self.data_points):
            yield "init.decoder_bound draws weights: it excludes decoder_vector_norm and data_points"
        yield from self._beside_mlp(dictionary)
        if self.encoder_bound is not None and self.tied(dictionary):
            yield "init.encoder_bound draws the encoder: it needs init.tie = false"
        if not self.tied(dictionary) and self.tie_factor != 1:
            yield "init.tie_factor scales a tied encoder: init.tie is false here"
        if self.tied(dictionary) and not dictionary.ties:
            yield "init.tie needs an encoder of the hookpoints that the decoder writes"
        if self.data_noise and not self.data_points:
            yield "init.data_noise is added to data points: it needs init.data_points = true"
        if self.center_encoder_bias and self.firing_rate is not None:
            yield "init.center_encoder_bias and init.firing_rate both set the encoder bias: give one"

    def _beside_mlp(self, dictionary: LinearSettings) -> Iterator[str]:
        """Yield what makes no sense where an MLP answers encoder vectors of length 1."""
        if self.from_host != "mlp":
            return
        drawn = ("decoder_bound", "encoder_bound", "data_points")
        other = [name for name in drawn if getattr(self, name)]
        if other:
            yield (
                f"init.from_host = 'mlp' says what encoder and decoder vectors are: remove {', '.join(other)}"
            )
        if self.tied(dictionary):
            yield "init.from_host = 'mlp' needs an encoder that is not tied"

    def _others(self, dictionary: LinearSettings) -> Iterator[str]:
        """Yield what other families start from."""
        nothing = f"says nothing about how weights of family {dictionary.family!r} start"
        for name in sorted(dictionary.other_init):
            if getattr(self, name) != type(self).model_fields[name].default:
                yield f"init.{name} {nothing}"
        if self.from_host is not None and self.from_host not in dictionary.hosts:
            yield f"init.from_host = {self.from_host!r} {nothing}"


EVALUATED = "evaluate/"
"""Before the name of a score in the metrics of a run."""


class EvaluateEverySettings(Model):
    """Scores of `saestore evaluate` while training, on rows that training holds out.

    They stand in metrics.parquet as `evaluate/explained_variance`, `evaluate/l0` and so on, without
    those that compare all features with each other. The last ones are of the finished dictionary.
    """

    steps: Steps = 0.1
    """Steps from one evaluation to the next."""
    rows: int = Field(default=65_536, ge=1)
    """At most so many rows, of held-out contexts spread evenly over the store; the same each time."""
    activations: ArtefactName | None = None
    """Of several sources, the store whose rows are measured."""
    splice: SpliceSettings | None = None
    """Cross-entropy and KL divergence too, which needs the language model in memory while training;
    absent, neither."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.steps == 0:
            msg = "evaluate_every.steps is 0: remove evaluate_every to evaluate never"
            raise ValueError(msg)
        return self

    def conflicts(self, activations: ActivationsSettings) -> Iterator[str]:
        """Yield what makes no sense together with the rows of a run, and why."""
        if activations.held_out == 0:
            yield (
                "evaluate_every measures rows that training holds out: activations.held_out is 0"
            )
        if activations.heads and self.activations is not None:
            yield "evaluate_every.activations is one of several sources, and heads are read together: remove it"
            return
        names = list(dict.fromkeys(source.name for source in activations.mixed))
        if self.activations is None and len(names) > 1:
            yield f"evaluate_every.activations is missing: say which of {', '.join(names)}"
        if self.activations is not None and self.activations not in names:
            yield (
                f"evaluate_every.activations is {self.activations!r}, which trains nothing here: "
                f"the run reads {', '.join(names)}"
            )


class TrainSettings(Model):
    """One training run."""

    series: ArtefactName
    """Group of dictionaries this one belongs to."""
    name: ArtefactName
    """Name within the series."""
    activations: ActivationsSettings
    """Training rows."""
    dictionary: DictionarySettings
    """What is trained."""
    budget: BudgetSettings
    """How long."""
    init: InitSettings = InitSettings()
    """Starting weights."""
    loss: LossSettings = LossSettings()
    """Objective."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimiser."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Learning-rate schedule."""
    precision: PrecisionSettings = PrecisionSettings()
    """Number types."""
    evaluate_every: EvaluateEverySettings | None = None
    """Evaluate on held-out rows while training; absent, never."""
    early_stop: EarlyStopSettings | None = None
    """End the run when a metric no longer gets better; absent, never."""
    checkpoints: CheckpointSettings = CheckpointSettings()
    """Checkpoints."""
    log: LogSettings = LogSettings()
    """Metrics."""
    seed: SeedSettings = SeedSettings()
    """Random streams."""
    sweep: SweepSettings | None = None
    """Train several dictionaries in one pass over the rows; absent, one."""

    def identity(self) -> "TrainSettings":
        """Return the settings as far as they decide what is trained: not who is told about it."""
        log = self.log.model_copy(update={"wandb": None})
        return self.model_copy(update={"log": log})

    def runs(self) -> tuple["TrainSettings", ...]:
        """Return the settings of each dictionary: those of a sweep, or the one.

        Raises:
            ValueError: A change makes settings that are wrong, or two dictionaries share a name.
        """
        if self.sweep is None:
            return (self,)
        plain = self.model_dump(mode="json", exclude={"sweep"})
        found: dict[str, TrainSettings] = {}
        for name, changes in self.sweep.changes(self.name):
            moved = {"name", "series", "sweep"} & {path.split(".")[0] for path in changes}
            if moved:
                msg = f"sweep: {name} changes {moved.pop()}, which names it"
                raise ValueError(msg)
            if name in found:
                msg = f"sweep: two dictionaries are called {name!r}"
                raise ValueError(msg)
            given = {**changed(plain, changes), "name": name}
            try:
                found[name] = TrainSettings.model_validate(given)
            except ValidationError as error:
                first = error.errors()[0]
                where = _written(first["loc"], given)
                what = first["msg"].removeprefix("Value error, ")
                if first["type"] == "extra_forbidden":
                    what = "unknown setting"
                msg = f"sweep: {name}: {where}: {what}"
                raise ValueError(msg) from error
        return tuple(found.values())

    @model_validator(mode="after")
    def _sweep(self) -> Self:
        self.runs()
        return self

    @model_validator(mode="after")
    def _one_host(self) -> Self:
        stores = {head.store for head in self.activations.heads}
        if self.init.from_host is not None and len(stores) > 1:
            msg = (
                "init.from_host copies what a language model computes between two hookpoints of one store: "
                f"activations.heads are of {', '.join(sorted(stores))}"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        given = self.dictionary.d_sae
        features = None if given is None else given * self.dictionary.layers
        for objection in objections(self.dictionary.activation, self.loss, features):
            raise ValueError(objection)
        if self.loss.matryoshka is not None and self.dictionary.layers > 1:
            msg = (
                "loss.matryoshka lets prefixes of the features reconstruct, and these would be whole "
                f"layers of a {self.dictionary.family}: remove loss.matryoshka"
            )
            raise ValueError(msg)
        if self.dictionary.decoder_norm == "unit" and self.init.decoder_vector_norm != 1.0:
            msg = (
                "init.decoder_vector_norm applies to decoder_norm = 'free' only: "
                "unit decoders start at 1"
            )
            raise ValueError(msg)
        whole = _over_whole_batches(self)
        if self.optimizer.accumulate > 1 and whole:
            msg = (
                f"optimizer.accumulate cuts batches into parts, but {' and '.join(whole)} "
                "is no mean over rows: use smaller batches, or remove it"
            )
            raise ValueError(msg)
        init, rows = (each.conflicts(self.dictionary) for each in (self.init, self.activations))
        for wrong in chain(init, rows):
            raise ValueError(wrong)
        if self.evaluate_every is not None:
            for wrong in self.evaluate_every.conflicts(self.activations):
                raise ValueError(wrong)
        elif self.early_stop is not None and self.early_stop.metric.startswith(EVALUATED):
            msg = f"early_stop.metric is {self.early_stop.metric!r}: it needs evaluate_every"
            raise ValueError(msg)
        if not self.dictionary.decoder_bias and self.init.decoder_bias != "zero":
            msg = "init.decoder_bias is set, but dictionary.decoder_bias is false"
            raise ValueError(msg)
        return self


_WHOLE_BATCH = frozenset({"tanh_quad", "target_l0_batch", "p_anneal"})
"""Kinds of penalties that look at all rows of a batch together."""


def _over_whole_batches(settings: TrainSettings) -> list[str]:
    """Return what of a run is computed from whole batches, row by row it would be something else."""
    found = []
    activation, loss = settings.dictionary.activation, settings.loss
    if not activation.row_wise:
        found.append(f"activation.kind {activation.kind!r}")
    if loss.sparsity is not None and loss.sparsity.kind in _WHOLE_BATCH:
        found.append(f"loss.sparsity.kind {loss.sparsity.kind!r}")
    if loss.aux is not None and loss.aux.coefficient > 0:
        found.append("loss.aux")
    if loss.aux is None and activation.ranks:
        found.append("loss.aux (on with top-k; loss.aux.coefficient = 0 switches it off)")
    if loss.pre_activation is not None and loss.pre_activation.on == "dead":
        found.append("loss.pre_activation.on 'dead'")
    return found


def _written(place: Sequence[int | str], settings: Any) -> str:
    """Return a place in settings as people write it: without the names of a union's members."""
    parts, here = [], settings
    for number, part in enumerate(place):
        inside = isinstance(here, Mapping) and part in here
        if inside or number == len(place) - 1:
            parts.append(str(part))
            here = here[part] if inside else None
    return ".".join(parts)
