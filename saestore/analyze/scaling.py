"""Latent scaling: whether a feature that is long at one head only is absent from the others, or shrunk.

A feature's owner o is the head at which its decoder vector d_o is longest, in the units in which it was
trained. Of each head m, over the rows of the analysis,

    β(y) = argmin_β Σ_rows ‖β f d_o − y‖² = ⟨d_o, Σ_rows f y⟩ / (‖d_o‖² Σ_rows f²)
    error:           y = x^m − (x̂^m − f d_m)        what is left at m without the feature
    reconstruction:  y = x̂^m                        what all features together write at m

    ν_error = β_error(m) / β_error(o)      ν_reconstruction = β_reconstruction(m) / β_reconstruction(o)

A feature that is really o's alone has both near 0. One that was shrunk away at m, though m has it, is
missing there: ν_error near 1 (complete shrinkage). One that other features write at m has
ν_reconstruction near 1 (decoupling). The paper takes ν_error < .2 and ν_reconstruction < .5 for alone.

Where each head gates by itself, f is the owner's activation, and f d_m the head's own times d_m.

All of it is sums over firings, in float64 and in the order of the store. The price is decoding, and two
inner products for each firing and head. Heads of unequal width have no direction in common: null.

Source: Minder et al. 2025 (arXiv:2504.02922), section 3; f and d as in their crosscoder, both heads'
activations and reconstructions in normalised units, decoder bias included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from saestore.analyze.scaling_loops import products
from saestore.dictionaries import SparseCode, SparseDictionary
from saestore.features import arrow
from saestore_schemas import tables


_SUMS = ("firings", "squares", "left", "written", "together")
"""Attributes of `HeadScaling` that are added up over rows."""


def measurable(dictionary: SparseDictionary) -> bool:
    """Return whether a dictionary's features have several heads that can be compared.

    It reconstructs several hookpoints, and reads them: what it leaves out of one could be in its code.
    """
    several = len(dictionary.hookpoints_out) > 1
    same = set(dictionary.hookpoints_out) <= set(dictionary.hookpoints_in)
    return several and same and not any(each.by_row for each in dictionary.scales.values())


class HeadScaling:
    """Sums over firings of a dictionary in raw units."""

    def __init__(self, folded: SparseDictionary) -> None:
        """Find the owner of each feature; no row is read."""
        self._folded = folded
        self._hooks = folded.hookpoints_out
        self._vectors = {hook: folded.decoder_vectors_at(hook).detach() for hook in self._hooks}
        lengths = [
            folded.scales[hook].record.a * torch.linalg.vector_norm(own.double(), dim=1)
            for hook, own in self._vectors.items()
        ]
        self.lengths: Float64[np.ndarray, "feature head"] = (
            torch.stack(lengths, dim=1).cpu().numpy()
        )
        self.owner: Int64[np.ndarray, " feature"] = self.lengths.argmax(axis=1)
        self._owner = torch.from_numpy(self.owner).to(next(iter(self._vectors.values())).device)
        shape = (len(self.owner), len(self._hooks))
        self.firings = np.zeros(shape[0], np.int64)
        self.squares = np.zeros(shape[0])
        self.left, self.written = np.zeros(shape), np.zeros(shape)
        self.together = np.zeros(shape)  # of the owner's activations and the head's

    def update(
        self, code: SparseCode, rows: Mapping[str, Tensor], kept: Bool[np.ndarray, " row"]
    ) -> None:
        """Add rows.

        Args:
            code: What fires on them.
            rows: They at each hookpoint, in raw units; those that were encoded.
            kept: Which of the first ones count; those after them do not.
        """
        count = int(code.offsets[len(kept)])
        row, column, value = code.row_ids[:count], code.indices[:count], code.values[:count]
        counted = torch.from_numpy(kept).to(row.device)[row]
        fired = _Fired(row[counted], column[counted], value[counted].double(), self._folded.d_sae)
        decoded = self._folded.decode(code, rows)
        targets = [self._targets(hook, rows[hook], decoded[hook]) for hook in self._hooks]
        width = [each.shape[2] for each in targets]
        for owner, hook in enumerate(self._hooks):
            gate = fired.of(owner if self._folded.gates > 1 else 0)
            mine = gate.chosen(self._owner[gate.column] == owner)
            self.firings += self._added(mine.column, torch.ones_like(mine.value)).astype(np.int64)
            self.squares += self._added(mine.column, mine.value**2)
            factor = self._folded.scales[hook].record.a
            alike = [head for head, each in enumerate(targets) if each.shape[2] == width[owner]]
            given = torch.cat([targets[head] for head in alike])
            found = products(self._vectors[hook], given, mine.column, mine.row)
            for head, (left, written) in zip(
                alike, found.reshape(len(alike), 2, len(mine.row)), strict=True
            ):
                self.left[:, head] += self._added(mine.column, factor * mine.value * left)
                self.written[:, head] += self._added(mine.column, factor * mine.value * written)
                there = mine.value
                if self._folded.gates > 1:
                    there = fired.of(head).at(mine)
                self.together[:, head] += self._added(mine.column, mine.value * there)

    def taken(self) -> dict[str, np.ndarray]:
        """Return what was added up since the last time, by name, and begin anew."""
        found = {name: getattr(self, name) for name in _SUMS}
        for name, each in found.items():
            setattr(self, name, np.zeros_like(each))
        return found

    def add(self, sums: Mapping[str, np.ndarray]) -> None:
        """Add what was added up elsewhere."""
        for name in _SUMS:
            getattr(self, name)[...] += sums[name]

    def _targets(self, hook: str, rows: Tensor, decoded: Tensor) -> Float[Tensor, "2 row d"]:
        """Return what is left of rows and what is written of them, in normalised units."""
        scale, like = self._folded.scales[hook], self._vectors[hook]
        rows, written = rows.to(like), decoded.to(like)
        left = rows - written
        if scale.mean is not None:
            written = written - scale.mean.to(like)
        return scale.record.a * torch.stack([left, written])

    def _added(self, feature: Tensor, amount: Tensor) -> Float64[np.ndarray, " feature"]:
        """Return the sum of amounts of each feature, in their order."""
        size = len(self.owner)
        found = np.bincount(feature.cpu().numpy(), amount.cpu().numpy(), minlength=size)
        return found.astype(np.float64, copy=False)  # of nothing they are integers

    def scales(self) -> "Scales":
        """Return the least-squares scales and their ratios, NaN where they are undefined."""
        features = np.arange(len(self.owner))
        squared = self.lengths[features, self.owner] ** 2
        own = np.zeros_like(self.left)  # <d_o, d_m>, which leaving the feature out adds
        comparable = np.zeros(own.shape, np.bool_)
        for owner, hook in enumerate(self._hooks):
            mine = self.owner == owner
            longest = self._vectors[hook][torch.from_numpy(mine)].double()
            for head, other in enumerate(self._hooks):
                if self._vectors[other].shape[1] == longest.shape[1]:
                    theirs = self._vectors[other][torch.from_numpy(mine)].double()
                    both = self._folded.scales[hook].record.a * self._folded.scales[other].record.a
                    own[mine, head] = both * torch.linalg.vecdot(longest, theirs).cpu().numpy()
                    comparable[mine, head] = True
        with np.errstate(divide="ignore", invalid="ignore"):
            length = squared[:, None]
            energy = length * self.squares[:, None]
            left = self.left + own * self.together
            error = np.where(comparable & (energy > 0), left / energy, np.nan)
            written = np.where(comparable & (energy > 0), self.written / energy, np.nan)
            ratio = self.lengths / self.lengths[features, self.owner][:, None]
            return Scales(
                ratio, error, written,
                error / error[features, self.owner][:, None],
                written / written[features, self.owner][:, None],
            )  # fmt: skip

    def table(self) -> pa.Table:
        """Return `head_scaling`: one line for each feature and head."""
        found, heads = self.scales(), len(self._hooks)
        features = len(self.owner)
        schema = tables.HEAD_SCALING.schema()
        columns = {
            "feature": np.repeat(np.arange(features, dtype=np.uint32), heads),
            "head": np.tile(np.arange(heads, dtype=np.uint16), features),
            "hookpoint": np.tile(np.array(self._hooks, dtype=object), features),
            "owner": np.repeat(self.owner.astype(np.uint16), heads),
            "n_firings": np.repeat(self.firings.astype(np.uint64), heads),
            **{name: _nullable(value, schema, name) for name, value in vars(found).items()},
        }
        return arrow.rows(schema, columns)


@dataclass(frozen=True)
class Scales:
    """What latent scaling says of each feature at each head; see the module.

    Attributes:
        norm_ratio: Length of the decoder vector over that at the owner, in normalised units.
        beta_error: Least-squares scale of the owner's vector on what is left.
        beta_reconstruction: The same on what is written.
        nu_error: The first over the owner's.
        nu_reconstruction: The second over the owner's.
    """

    norm_ratio: Float64[np.ndarray, "feature head"]
    beta_error: Float64[np.ndarray, "feature head"]
    beta_reconstruction: Float64[np.ndarray, "feature head"]
    nu_error: Float64[np.ndarray, "feature head"]
    nu_reconstruction: Float64[np.ndarray, "feature head"]


@dataclass(frozen=True)
class _Fired:
    """Firings, row by row.

    Attributes:
        row: Row of each.
        column: Column of the code, ascending within a row.
        value: Activation.
        features: Features, which is how many columns each gate has.
    """

    row: Tensor
    column: Tensor
    value: Tensor
    features: int

    def chosen(self, which: Tensor) -> "_Fired":
        """Return some of them."""
        return _Fired(self.row[which], self.column[which], self.value[which], self.features)

    def of(self, gate: int) -> "_Fired":
        """Return those of one gate, columns counted from its first: features."""
        mine = self.chosen(self.column // self.features == gate)
        return _Fired(mine.row, mine.column % self.features, mine.value, self.features)

    def at(self, others: "_Fired") -> Tensor:
        """Return the activation of the same feature on the same row for each of others; else 0."""
        found = torch.zeros_like(others.value)
        if len(self.row):
            cells = self.row * self.features + self.column
            wanted = others.row * self.features + others.column
            place = torch.searchsorted(cells, wanted).clamp(max=len(cells) - 1)
            there = cells[place] == wanted
            found[there] = self.value[place[there]]
        return found


def _nullable(
    values: Float64[np.ndarray, "feature head"], schema: pa.Schema, name: str
) -> "pa.Array[Any]":
    flat = values.reshape(-1)
    return arrow.column(flat.astype(np.float32), schema.field(name).type, null=~np.isfinite(flat))
