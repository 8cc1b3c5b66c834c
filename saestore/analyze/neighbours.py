"""The `neighbours` table: features whose folded vectors point the same way.

Cosines are computed for a block of features at a time with all others: features times features never
exists. The matrix product, in bfloat16 where the processor multiplies that faster, else in the weights'
type, only finds candidates: every feature whose cosine may, within the product's rounding, be among the
largest. Their cosines are computed again in float64 and stored as float32; ties go to the smaller
feature. So blocks, threads, processors and devices do not show in the table, and copies of one vector
have one score.

The price is d_sae^2 d multiplications a method.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from saestore.analyze.relation_loops import best_of_runs
from saestore.analyze.scaling_loops import products
from saestore.dictionaries import SparseDictionary
from saestore.features import arrow
from saestore.progress import Progress
from saestore_schemas import tables
from saestore_schemas.analyze import NeighbourSettings


_COSINES = 1 << 24
"""Cosines of one block, at most: 64 MiB of float32."""
_SPARE = 44
"""Largest cosines looked for beyond those wanted: as many as rounding usually leaves undecided."""
_AT_ONCE = 4096
"""Vectors held in float64 at a time."""


def neighbour_rows(
    folded: SparseDictionary, wanted: NeighbourSettings, *, progress: Progress
) -> Iterator[pa.Table]:
    """Return pieces of the table `neighbours`, in order.

    Args:
        folded: The dictionary in raw units.
        wanted: Which vectors, and how many neighbours.
        progress: Where to report.
    """
    sides = {"dec_cos": folded.decoder_vectors, "enc_cos": folded.encoder_vectors}
    with torch.no_grad():
        known = {method: Directions(sides[method]()) for method in sorted(set(wanted.methods))}
        with progress.task("neighbours", total=folded.d_sae, unit="features") as task:
            step = max(1, _COSINES // folded.d_sae)
            for first in range(0, folded.d_sae, step):
                stop = min(first + step, folded.d_sae)
                parts = [
                    _rows(method, *each.nearest(first, stop, k=wanted.top_k))
                    for method, each in known.items()
                ]
                found = pa.concat_tables(parts)
                order = np.argsort(found["feature"].to_numpy(), kind="stable")
                yield found.take(order).combine_chunks()
                task.advance(stop - first)


class _Side:
    """Vectors and what they are multiplied by to have length 1; NaN without length."""

    def __init__(self, vectors: Float[Tensor, "feature d"]) -> None:
        self.vectors = vectors.detach().contiguous()
        lengths = torch.cat(
            [
                torch.linalg.vector_norm(part.double(), dim=1)
                for part in torch.split(self.vectors, _AT_ONCE)
            ]
        )
        self.lengths: np.ndarray = lengths.cpu().numpy()
        scale = lengths.reciprocal().to(self.vectors)
        self.scale = torch.where(lengths == 0, torch.nan, scale)

    def rounded(self) -> tuple[Float[Tensor, "feature d"], Float[Tensor, " feature"]]:
        """Return the vectors of length 1 in bfloat16, and the lengths of what rounding took."""
        scale = self.scale.nan_to_num(nan=0.0)[:, None]
        near, off = [], []
        for part, factor in zip(
            torch.split(self.vectors, _AT_ONCE), torch.split(scale, _AT_ONCE), strict=True
        ):
            exact = part * factor
            near.append(exact.bfloat16())
            off.append(torch.linalg.vector_norm(exact - near[-1], dim=1))
        return torch.cat(near), torch.cat(off)


class Directions:
    """Vectors whose nearest others are wanted: among themselves, or among other vectors."""

    def __init__(
        self, vectors: Float[Tensor, "d_sae d"], others: Float[Tensor, "feature d"] | None = None
    ) -> None:
        """Take one vector of each feature.

        Args:
            vectors: They.
            others: Among which the nearest are wanted; absent, among themselves, none its own.
        """
        self._own = _Side(vectors)
        self._others = self._own if others is None else _Side(others)
        # what rounding may do to a cosine: of d products and their sums, of lengths, of the result
        epsilon = torch.finfo(vectors.dtype).eps
        self._slack = torch.full(
            (len(vectors), 1), (vectors.shape[1] + 8) * epsilon + 4 * torch.finfo(torch.float32).eps
        ).to(vectors)
        self._rounded: tuple[Tensor, Tensor] | None = None
        if _multiplies_bfloat16(vectors):
            own, off = self._own.rounded()
            other, other_off = (own, off) if others is None else self._others.rounded()
            self._rounded = own, other
            # (a + r)(b + s) - a b = r (b + s) + a s
            self._slack += 1.01 * (off[:, None] + other_off.max())

    def nearest(
        self, first: int, stop: int, *, k: int
    ) -> tuple[
        Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Int64[np.ndarray, " _"],
        Float32[np.ndarray, " _"],
    ]:  # fmt: skip
        """Return features `first` to `stop - 1` with the ranks, numbers and cosines of their neighbours.

        Args:
            first: First feature.
            stop: One past the last.
            k: Neighbours of each, fewer if there are not so many.
        """
        feature, other = self._candidates(first, stop, k)
        score = self._cosines(feature, other).astype(np.float32)
        ends = np.searchsorted(feature, np.arange(first, stop + 1))
        run, rank, kept = best_of_runs(ends, score, other, k=k)
        return run + first, rank, other[kept], score[kept]

    def _candidates(
        self, first: int, stop: int, k: int
    ) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
        """Return all pairs that may be among the k largest of their feature, by feature."""
        cosines = self._about(first, stop)
        if self._others is self._own:
            here = torch.arange(stop - first, device=cosines.device)
            cosines[here, here + first] = -torch.inf
        k = min(k, cosines.shape[1])
        largest = cosines.topk(min(k + _SPARE, cosines.shape[1]), dim=1)
        least = largest.values[:, k - 1 : k].to(self._slack)
        slack = 2 * self._slack[first:stop]
        # that of `least` and that of the limit are rounded too
        limit = least - slack - torch.finfo(cosines.dtype).eps * (least.abs() + slack)
        near = (largest.values >= limit) & (largest.values > -torch.inf)
        place = near.nonzero()
        feature, other = place[:, 0], largest.indices[near]
        # where all that were looked for are near, there may be more
        more = near[:, -1].nonzero()[:, 0]
        if len(more) and largest.values.shape[1] < cosines.shape[1]:
            rest = cosines[more]
            place = ((rest >= limit[more]) & (rest > -torch.inf)).nonzero()
            own = ~near[feature, -1]
            feature = torch.cat([feature[own], more[place[:, 0]]])
            other = torch.cat([other[own], place[:, 1]])
            order = feature.argsort(stable=True)
            feature, other = feature[order], other[order]
        return feature.cpu().numpy() + first, other.cpu().numpy()

    def _about(self, first: int, stop: int) -> Float[Tensor, "feature _"]:
        """Return the cosines that `block` returns, as the faster type rounds them."""
        if self._rounded is None:
            return self.block(first, stop)
        own, others = self._rounded
        cosines = own[first:stop] @ others.T
        cosines[:, self._others.scale.isnan()] = -torch.inf
        cosines[self._own.scale[first:stop].isnan()] = -torch.inf
        return cosines

    def block(self, first: int, stop: int) -> Float[Tensor, "feature _"]:
        """Return the cosines of features `first` to `stop - 1` with all others, as the type rounds them.

        Of a vector without length they are minus infinity.
        """
        cosines = self._own.vectors[first:stop] @ self._others.vectors.T
        cosines.mul_(self._others.scale).mul_(self._own.scale[first:stop, None])
        return cosines.nan_to_num_(nan=-torch.inf)

    def _cosines(
        self, feature: Int64[np.ndarray, " _"], other: Int64[np.ndarray, " _"]
    ) -> Float64[np.ndarray, " _"]:
        """Return the cosine of each pair in float64."""
        device = self._own.vectors.device
        pair = (
            torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in (feature, other)
        )
        product = products(self._own.vectors, self._others.vectors[None], *pair)[0].cpu().numpy()
        found: np.ndarray = product / (self._own.lengths[feature] * self._others.lengths[other])
        found.clip(-1, 1, out=found)
        return found


def _multiplies_bfloat16(vectors: Tensor) -> bool:
    """Return whether the processor has instructions that multiply bfloat16, and adds in float32."""
    asked = getattr(torch.cpu, "get_capabilities", None)  # not in every release
    if asked is None or vectors.is_cuda or vectors.dtype != torch.float32:
        return False
    known = asked()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _rows(
    method: str,
    feature: Int64[np.ndarray, " _"],
    rank: Int64[np.ndarray, " _"],
    other: Int64[np.ndarray, " _"],
    score: Float32[np.ndarray, " _"],
) -> pa.Table:
    columns = {
        "feature": feature.astype(np.uint32),
        "method": arrow.repeated(method, len(feature)),
        "rank": rank.astype(np.uint16),
        "neighbour": other.astype(np.uint32),
        "score": score,
    }
    return arrow.rows(tables.NEIGHBOURS.schema(), columns)
