"""A store of planted features and the dictionary that finds them: what benchmarks of `analyze` run on.

Features come in groups of sixteen, as common as words are. On a row some groups are there, and of each
four features at random, so features have partners, tokens of their own do not matter, and counts are as
uneven as in a language model. A row is the sum of its features' directions, the dictionary has these
directions and a TopK.
"""

from dataclasses import dataclass

import numpy as np
import torch

from saestore.activations import ActivationStore
from saestore.lake import Lake
from saestore.testing.analyses import synthetic_dictionary
from saestore.testing.stores import HOOKPOINT, VOCABULARY, synthetic_store
from saestore_schemas.activations import StoreSettings
from saestore_schemas.dictionary import TopK


NAME, STORE = "bench/topk", "rows"
CONTEXT = 128
_GROUP, _OF_GROUP = 16, 4
_FLAT = 10.0
"""Groups that are about as common as the most common one."""
_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        rows: Rows of the store.
        width: Width of a row.
        d_sae: Features of the dictionary, in whole groups.
        k: Of its TopK.
    """

    rows: int
    width: int
    d_sae: int
    k: int

    @property
    def shapes(self) -> str:
        """Those of the dictionary, in words."""
        return f"{self.width} -> {self.d_sae}, k {self.k}"

    @property
    def text(self) -> str:
        """All in words."""
        return f"{self.shapes}, float32; {self.rows:,} rows of float16 in contexts of {CONTEXT}"


def filled(lake: Lake, size: Size) -> ActivationStore:
    """Write store and dictionary; return the store."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(size.d_sae, size.width, generator=draw))
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [
            _rows(directions, min(_AT_ONCE, size.rows - low), size, rng)
            for low in range(0, size.rows, _AT_ONCE)
        ]
    )
    tokens = rng.zipf(1.3, size.rows) % (VOCABULARY - 1) + 1  # 0 is a BOS
    store = synthetic_store(
        lake, STORE, values={HOOKPOINT: values}, tokens=tokens.astype(np.int64), dtype="float16",
        context_size=CONTEXT, store=StoreSettings(),
    )  # fmt: skip
    synthetic_dictionary(
        lake, NAME, store, activation=TopK(k=size.k), encoder=directions.T, decoder=directions
    )
    return store


def _rows(
    directions: torch.Tensor, number: int, size: Size, rng: np.random.Generator
) -> np.ndarray:
    rates = 1 / (np.arange(size.d_sae // _GROUP) + _FLAT)
    groups = rng.choice(len(rates), (number, -(-size.k // _OF_GROUP), 1), p=rates / rates.sum())
    members = rng.permuted(np.tile(np.arange(_GROUP), (*groups.shape[:2], 1)), axis=2)
    fires = (groups * _GROUP + members[:, :, :_OF_GROUP]).reshape(number, -1)
    strength = torch.from_numpy(rng.uniform(1, 3, fires.shape).astype(np.float32))
    found: np.ndarray = torch.nn.functional.embedding_bag(
        torch.from_numpy(fires), directions, per_sample_weights=strength, mode="sum"
    ).numpy()
    return found
