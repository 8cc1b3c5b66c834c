"""How exact a conversion is: both sides compute one batch, and differences are reported.

Half of the batch is noise of unequal lengths, half is aimed at features one by one: a batch on which
nothing fires would find nothing. Both sides compute in float64 where that fits, so that what is
reported is what the conversion changed, not the noise of sums. Where rounding decides on which side
of its line an entry falls, both sides are right: such rows are counted, not compared.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.dictionaries.sides import sides_of
from saestore.exchange.dictionaries.reference import Codes, Computed


ROWS = 256
"""Rows of the fixed batch."""

SEED = 20_6_5412
"""Fixed, so that every conversion of a dictionary reports the same errors."""

TIE = 1e-5
"""How far from its line an entry may lie that the two sides decide differently, relative to the
row's largest score: weights are stored in float32, and sums of a thousand of them err by that."""

ROUNDING = 1e-4
"""A difference above this is no rounding."""

DOUBLE = 1 << 26
"""Largest encoder, in numbers, that is measured in float64; it takes five times its float32 size."""


@dataclass(frozen=True)
class Difference:
    """How far two sides are apart, relative.

    Attributes:
        rows: Rows compared or set aside.
        tied: Rows set aside.
        firings: Activations that were compared and are not zero.
        codes: Largest difference of a feature, relative to the largest feature of the batch.
        reconstruction: Largest length of a row's difference, relative to the row's length.
    """

    rows: int
    tied: int
    firings: int
    codes: float
    reconstruction: float

    @property
    def largest(self) -> float:
        """The larger of the two."""
        return max(self.codes, self.reconstruction)

    def worse(self, other: "Difference") -> "Difference":
        """Return what both batches together show."""
        return Difference(
            self.rows + other.rows,
            self.tied + other.tied,
            self.firings + other.firings,
            max(self.codes, other.codes),
            max(self.reconstruction, other.reconstruction),
        )


def precision(dictionary: SparseDictionary) -> torch.dtype:
    """Return the type in which both sides are computed."""
    size = max(dictionary.config.d_in) * dictionary.d_sae
    return torch.float64 if size <= DOUBLE else torch.float32


def in_precision(dictionary: SparseDictionary) -> SparseDictionary:
    """Return the dictionary in the type in which it is measured: itself, or a wider copy."""
    if precision(dictionary) == torch.float32:
        return dictionary
    return copy.deepcopy(dictionary).cpu().double()


def compute(dictionary: SparseDictionary, rows: Float[Tensor, "row d_in"]) -> Computed:
    """Return what we compute from rows; several hookpoints stand side by side, in and out."""
    reads, writes = sides_of(dictionary.config)
    inputs = reads.split(rows)
    code = dictionary.encode(inputs)
    reconstruction = writes.joined(dictionary.decode(code, inputs))
    return Computed(Codes(code.to_dense().cpu()), reconstruction.cpu())


def batch_threshold(dictionary: SparseDictionary, rows: Float[Tensor, "row d_in"]) -> float:
    """Return what the k largest gate scores a row of these rows exceed, and no other."""
    k = sum(each for _, each in dictionary.ranked)
    reads, _ = sides_of(dictionary.config)
    scores = torch.cat(list(dictionary.gate_scores(reads.split(rows)))).reshape(-1).clamp(min=0)
    kept = int(k * len(rows))
    if kept >= len(scores):
        return 0.0
    largest = torch.topk(scores, kept + 1).values
    return float((largest[-2] + largest[-1]) / 2) if kept else float(largest[0])


def fixed_batch(dictionary: SparseDictionary) -> Float32[Tensor, "row d_in"]:
    """Return rows in raw units, of unequal lengths, on which many features fire.

    Those of several hookpoints stand side by side.
    """
    generator = torch.Generator().manual_seed(SEED)
    reads, writes = sides_of(dictionary.config)
    noise = torch.randn(ROWS, reads.width, generator=generator, dtype=torch.float64)
    lengths = torch.exp(0.5 * torch.randn(ROWS, 1, generator=generator, dtype=torch.float64))
    rows = noise * lengths
    if reads == writes:  # rows lie around what a code of zeros gives back
        rows += writes.joined(dictionary.without_features({})).detach().cpu().double()
    aimed = reads.split(rows[ROWS // 2 :])
    for layer in dictionary.layers:
        own = reads.of((layer.name,)) if layer.name else reads
        there = range(dictionary.d_sae)[layer.features]
        features = torch.randint(len(there), (ROWS - ROWS // 2,), generator=generator) + there.start
        strength = 0.5 + 3 * torch.rand(len(features), 1, generator=generator, dtype=torch.float64)
        for hook, part in own.split(_towards(dictionary, features) * strength).items():
            aimed[hook] += part
    for hook, part in reads.split(rows).items():
        scale = dictionary.scales[hook]
        if scale.external:
            part.div_(scale.record.a).add_(0.0 if scale.mean is None else scale.mean.cpu())
    return rows.float()


def _towards(
    dictionary: SparseDictionary, features: Int64[Tensor, " row"]
) -> Float[Tensor, "row _"]:
    """Return what brings the pre-activation of one feature a row to where it just fires."""
    encoder = dictionary.encoder_vectors().detach().cpu()[features].double()
    length = torch.linalg.vector_norm(encoder, dim=1, keepdim=True)
    needed = length - dictionary.encoder_bias().detach().cpu()[features].double().unsqueeze(1)
    threshold = dictionary.thresholds()
    if threshold is not None:
        needed += threshold.detach().cpu()[features].double().unsqueeze(1)
    return torch.where(length > 0, encoder * needed.clamp(min=0) / length.square(), 0)


def compare(
    ours: Computed, theirs: Computed, factors: Float[Tensor, " d_sae"] | None
) -> Difference:
    """Return the difference of two computations of the same rows.

    Args:
        ours: What we compute.
        theirs: What the other tool computes.
        factors: Their features are ours times this; None: the same.
    """
    f, g = ours.codes.values.double(), theirs.codes.values.double()
    if factors is not None:
        f = f * factors.double()
    tied = torch.zeros(len(f), dtype=torch.bool)
    if theirs.codes.margin is not None:
        on_the_line = ((f != 0) != (g != 0)) & (theirs.codes.margin <= TIE)
        tied = on_the_line.any(dim=1)
    f, g = f[~tied], g[~tied]
    if len(f) == 0:
        return Difference(len(tied), len(tied), 0, 0.0, 0.0)
    largest = f.abs().max()
    codes = (f - g).abs().max() / largest if largest > 0 else g.abs().max()
    x, y = ours.reconstruction[~tied].double(), theirs.reconstruction[~tied].double()
    lengths = torch.linalg.vector_norm(x, dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    apart = torch.linalg.vector_norm(x - y, dim=1) / lengths
    return Difference(
        len(tied), int(tied.sum()), int((f != 0).sum()), float(codes), float(apart.max())
    )


def explained(rows: Float[Tensor, "row d"], reconstruction: Float[Tensor, "row d"]) -> float | None:
    """Return the share of the rows' variance that a reconstruction explains; None if they have none."""
    rows = rows.double()
    variance = (rows - rows.mean(dim=0)).square().sum()
    if not variance > 0:
        return None
    return float(1 - (rows - reconstruction.double()).square().sum() / variance)
