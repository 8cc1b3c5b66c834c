"""Both sides of a conversion compute the same rows; what is not exact is refused.

The fixed batch always, rows of a store where there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from saestore.activations import ActivationStore, WholeContexts
from saestore.dictionaries import SparseDictionary
from saestore.errors import UnsupportedError
from saestore.exchange.dictionaries import measure
from saestore.exchange.dictionaries.foreign import Foreign
from saestore.exchange.dictionaries.reference import Computed
from saestore.exchange.dictionaries.report import Conversion
from saestore_schemas.dictionary import ThresholdInference


def measured(
    dictionary: SparseDictionary,
    foreign: Foreign,
    *,
    title: str,
    factors: Float[Tensor, " d_sae"] | None = None,
    steps: Sequence[str] | None = None,
    inexact: Sequence[str] | None = None,
    store: ActivationStore | None = None,
) -> Conversion:
    """Return what a conversion did and how exact it was.

    Args:
        dictionary: Our side.
        foreign: What the files hold: the other side.
        title: Tool and release.
        factors: Their features are ours times this, beside what the files themselves say.
        steps: What was done; absent, what reading them decided.
        inexact: Why it is not exact; absent, what reading them found.
        store: A store of what the dictionary reads.

    Raises:
        HookpointNotFoundError: The store does not have it.
    """
    wide, kind = measure.in_precision(dictionary), measure.precision(dictionary)
    units = [each for each in (factors, foreign.factors) if each is not None]
    total = None if not units else torch.stack([each.double() for each in units]).prod(dim=0)
    rows = measure.fixed_batch(dictionary).to(kind)
    found = measure.compare(_ours(wide, rows, foreign), foreign.compute(rows), total)
    explained = l0 = None
    beside = None if store is None else _Beside.of(store, dictionary, kind)
    if beside is not None and len(beside.rows):
        ours = _ours(wide, beside.rows, foreign)
        found = found.worse(measure.compare(ours, foreign.compute(beside.rows), total))
        kept = beside.kept
        explained = measure.explained(beside.targets[kept], ours.reconstruction[kept])
        l0 = float((ours.codes.values[kept] != 0).sum(dim=1).double().mean())
    return Conversion(
        format=title,
        architecture=foreign.architecture,
        hookpoint=", ".join(dictionary.hookpoints_in),
        d_in=sum(dictionary.config.d_in),
        d_sae=dictionary.d_sae,
        steps=tuple(foreign.decided if steps is None else steps),
        inexact=tuple(foreign.inexact if inexact is None else inexact),
        rows=found.rows,
        tied_rows=found.tied,
        firings=found.firings,
        max_error_codes=found.codes,
        max_error_reconstruction=found.reconstruction,
        store=None if store is None else store.ref.name,
        explained_variance=explained,
        l0=l0,
    )


def _ours(
    dictionary: SparseDictionary, rows: Float[Tensor, "row d_in"], foreign: Foreign
) -> Computed:
    """Return what we compute; of a BatchTopK without a threshold, with the one of these rows.

    It keeps what exceeds the threshold of a batch, so on that batch both sides must be the same.
    """
    if foreign.uncalibrated is not None:
        record = ThresholdInference(source="exact")
        dictionary = dictionary.with_threshold(measure.batch_threshold(dictionary, rows), record)
    return measure.compute(dictionary, rows)


@dataclass(frozen=True)
class _Beside:
    """Rows of a store, hookpoints side by side.

    Attributes:
        rows: What the dictionary reads.
        targets: What it reconstructs.
        kept: Which rows count; the others are only read.
    """

    rows: Float[Tensor, "row d_in"]
    targets: Float[Tensor, "row d_out"]
    kept: Bool[Tensor, " row"]

    @classmethod
    def of(
        cls, store: ActivationStore, dictionary: SparseDictionary, kind: torch.dtype
    ) -> "_Beside":
        """Return the first rows that training would use; the first document, where contexts are read.

        Raises:
            HookpointNotFoundError: The store does not have them.
        """
        if dictionary.reads_contexts:
            first, length = store.contexts()[0].tolist() if store.n_contexts else (0, 0)
            around = WholeContexts(store).around(np.arange(first, first + length))
            stop = first + int((around.documents <= 1).sum())
        else:
            first, stop = 0, min(store.n_rows, 2 * measure.ROWS)
        kept = torch.tensor(store.flags(first, stop)) == 0
        chosen = (
            torch.arange(len(kept))
            if dictionary.reads_contexts
            else kept.nonzero()[: measure.ROWS, 0]
        )

        def side_by_side(hookpoints: Sequence[str]) -> Float[Tensor, "row _"]:
            parts = [torch.tensor(store.read(hook, first, stop)) for hook in hookpoints]
            return torch.cat(parts, dim=1)[chosen].to(kind)

        reads, writes = dictionary.hookpoints_in, dictionary.hookpoints_out
        return cls(side_by_side(reads), side_by_side(writes), kept[chosen])


def first_rows(store: ActivationStore, hookpoint: str) -> Float32[Tensor, "row d_in"]:
    """Return the first rows of a store that training would use.

    Raises:
        HookpointNotFoundError: It has no such hookpoint.
    """
    stop = min(store.n_rows, 2 * measure.ROWS)
    rows = torch.tensor(store.read(hookpoint, 0, stop))
    return rows[torch.tensor(store.flags(0, stop)) == 0][: measure.ROWS]


def check(conversion: Conversion, *, allowed: bool) -> None:
    """Refuse a conversion that is not exact, unless that is allowed.

    Raises:
        UnsupportedError: It is not, and why.
    """
    why = list(conversion.inexact)
    if not conversion.max_error <= measure.ROUNDING:  # NaN is no rounding either
        why.append(
            f"the two sides differ by {conversion.max_error_codes:.3g} in features and "
            f"{conversion.max_error_reconstruction:.3g} in reconstructions, which is no rounding"
        )
    if why and not allowed:
        raise UnsupportedError(
            f"{conversion.format}, {conversion.architecture}: not exact: {'; '.join(why)}",
            found=f"largest difference {conversion.max_error:.3g}",
            expected=f"at most {measure.ROUNDING:g}, and nothing that has no counterpart",
            hint="--approximate converts it all the same, and records why and by how much it differs",
        )
