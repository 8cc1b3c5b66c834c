"""What training minimises: squared error, plus terms. One per file, and this registry.

    mse              mean over rows of Σ_d (ŷ' − y')²; of several prefixes, with matryoshka
    sparsity         l1, p_norm, p_anneal, tanh, tanh_quad, l0, target_l0_batch, target_l0_row
    pre_activation   what gate scores lack to their thresholds
    gated_aux        reconstruction from a gated encoder's gate
    aux              dead features reconstruct the residual

Everything is in normalised units, summed over output hookpoints.
"""

from collections.abc import Callable, Mapping
from typing import Any

from saestore.dictionaries import SparseDictionary
from saestore.train.objectives.aux_k import AuxK
from saestore.train.objectives.base import LossTerm, Pass, Penalty
from saestore.train.objectives.gated_aux import GatedAux
from saestore.train.objectives.k_schedule import KSchedule
from saestore.train.objectives.l0 import L0, TargetL0Batch, TargetL0Row
from saestore.train.objectives.l1 import DecoderWeightedL1
from saestore.train.objectives.matryoshka import Matryoshka
from saestore.train.objectives.p_anneal import PAnneal
from saestore.train.objectives.p_norm import PNorm
from saestore.train.objectives.pre_activation import PreActivationLoss
from saestore.train.objectives.squared_error import SquaredError
from saestore.train.objectives.tanh import Tanh
from saestore.train.objectives.tanh_quad import TanhQuad
from saestore_schemas.objective import AuxSettings, GatedAuxSettings, LossSettings


PENALTIES: dict[str, Callable[[Any, int], Penalty]] = {
    "l1": DecoderWeightedL1,
    "p_norm": PNorm,
    "p_anneal": PAnneal,
    "tanh": Tanh,
    "tanh_quad": TanhQuad,
    "l0": L0,
    "target_l0_batch": TargetL0Batch,
    "target_l0_row": TargetL0Row,
}
"""Kind in `loss.sparsity` to penalty; each is made from its settings and the steps of the run."""

DEAD_AFTER_ROWS = 10_000_000
"""The field's window, in tokens (arXiv:2406.04093); short runs use a tenth of their rows."""


def dead_after_rows(settings: LossSettings, total_rows: int) -> int:
    """Return after how many silent rows a feature is dead."""
    sections = (settings.aux, settings.pre_activation)
    chosen = next((s.dead_after_rows for s in sections if s and s.dead_after_rows), None)
    return chosen or max(1, min(DEAD_AFTER_ROWS, total_rows // 10))


def terms(
    settings: LossSettings,
    dictionary: SparseDictionary,
    *,
    variance: float | Mapping[str, float],
    total_steps: int,
    seed: int = 0,
) -> tuple[LossTerm, ...]:
    """Return the terms that the settings ask for, the squared error first.

    Args:
        settings: Which terms, with their weights.
        dictionary: What is trained.
        variance: tr Cov of the normalised targets over the store, of each hookpoint, or of all together.
        total_steps: Steps of the whole run.
        seed: Of what the terms draw.

    Raises:
        ConfigError: A term does not fit the dictionary's width.
    """
    error: LossTerm = SquaredError()
    if settings.matryoshka is not None:
        error = Matryoshka(settings.matryoshka, dictionary.d_sae, seed)
    found = [error]
    if settings.sparsity is not None:
        found.append(PENALTIES[settings.sparsity.kind](settings.sparsity, total_steps))
    if settings.pre_activation is not None:
        found.append(PreActivationLoss(settings.pre_activation))
    gated = settings.gated_aux
    if gated is None and dictionary.activation.has_gate:
        gated = GatedAuxSettings()
    if gated is not None and gated.coefficient > 0:
        found.append(GatedAux(gated))
    aux = settings.aux
    if aux is None and dictionary.fixes_l0:
        aux = AuxSettings()
    if aux is not None and aux.coefficient > 0:
        widths = dict(zip(dictionary.hookpoints_out, dictionary.config.d_out, strict=True))
        width = sum(widths[hook] for hook in dictionary.layers[0].writes)
        found.append(AuxK(aux, max(1, width // 2), variance))
    return tuple(found)


def k_schedule(
    settings: LossSettings, dictionary: SparseDictionary, total_steps: int
) -> KSchedule | None:
    """Return how k falls over the run, if it does."""
    if settings.k_schedule is None:
        return None
    k = float(dictionary.config.semantics.activation.model_dump()["k"])
    return KSchedule(settings.k_schedule, k, total_steps)


__all__ = [
    "DEAD_AFTER_ROWS",
    "L0",
    "PENALTIES",
    "AuxK",
    "DecoderWeightedL1",
    "GatedAux",
    "KSchedule",
    "LossTerm",
    "Matryoshka",
    "PAnneal",
    "PNorm",
    "Pass",
    "Penalty",
    "PreActivationLoss",
    "SquaredError",
    "Tanh",
    "TanhQuad",
    "TargetL0Batch",
    "TargetL0Row",
    "dead_after_rows",
    "k_schedule",
    "terms",
]
