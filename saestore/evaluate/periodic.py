"""Scores of a dictionary that is still training, on rows that its training holds out.

They are those of `evaluate`, without what compares all features with each other: the same rows and
contexts each time, whatever the step, so that a curve of them shows the dictionary alone. Nothing
is drawn at random and nothing of the training is changed.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from saestore.activations import ActivationStore, held_out, with_contexts
from saestore.dictionaries import SparseDictionary
from saestore.errors import ConfigError
from saestore.evaluate import cross_entropy, rows
from saestore.evaluate.subject import Subject
from saestore.lake import Lake, Ref, layout
from saestore.lm import LanguageModel
from saestore.progress import Silent
from saestore_schemas.lm import LmSettings
from saestore_schemas.train import EvaluateEverySettings, TrainSettings


@dataclass(frozen=True)
class Periodic:
    """What measures the dictionary of one run.

    Attributes:
        settings: How.
        store: Where the rows lie.
        held_out: Share of contexts that training holds out.
        split: Which contexts these are.
        device: Where a language model runs.
    """

    settings: EvaluateEverySettings
    store: ActivationStore
    held_out: float
    split: Bool[np.ndarray, " context"]
    device: str = "auto"

    @classmethod
    def of(cls, settings: TrainSettings, lake: Lake, *, device: str = "auto") -> "Periodic | None":
        """Return what measures a run; None where its settings do not ask for it.

        Raises:
            ArtefactNotFoundError: A store is not there.
            ConfigError: The store has no context that training holds out, or there is no such
                language model.
        """
        wanted, chosen = settings.evaluate_every, settings.activations
        if wanted is None:
            return None
        name = wanted.activations or chosen.mixed[0].name
        store, _ = with_contexts(lake, name, None, chosen.heads)
        split = held_out(store.n_contexts, chosen.held_out)
        if not split.any():
            raise ConfigError(
                field="evaluate_every",
                found=f"none of {store.n_contexts} contexts of {store.ref.name!r} held out",
                expected="at least one: it measures rows that training never sees",
                hint="hold out more with activations.held_out, or remove evaluate_every",
            )
        trained = lake.artefact(Ref("dictionary", f"{settings.series}/{settings.name}"))
        if wanted.splice is not None and not trained.exists(layout.MANIFEST):
            reads, writes = settings.dictionary.reads, settings.dictionary.writes
            section = "evaluate_every.splice"
            for host in cross_entropy.hosts_in(
                store, reads, writes, wanted.splice, section=section
            ):
                LanguageModel.check(host.lm, field=host.field)
        return cls(wanted, store, chosen.held_out, split, device)

    def __call__(self, dictionary: SparseDictionary, step: int) -> dict[str, float]:
        """Return the scores after a step, undefined ones as NaN."""
        del step
        subject = Subject(dictionary, self.store, self.held_out, self.split)
        device = next(dictionary.parameters()).device
        found = rows.measure(
            subject, self.settings.rows, cosines_too=False, device=device, progress=Silent()
        )
        scores = list(found.scores)
        if self.settings.splice is not None:
            spliced = cross_entropy.measure(
                subject,
                self.settings.splice,
                means=found.means,
                load_model=self._loaded,
                progress=Silent(),
            )
            dictionary.to(device)
            scores += spliced.scores
        return {s.metric: float("nan") if s.value is None else s.value for s in scores}

    def _loaded(self, settings: LmSettings) -> LanguageModel:
        """Return the language model, loaded once a run."""
        if settings not in self._models:
            self._models[settings] = LanguageModel.load(settings, device=self.device)
        return self._models[settings]

    @cached_property
    def _models(self) -> dict[LmSettings, LanguageModel]:
        return {}
