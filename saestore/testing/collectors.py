"""The contract of a collector: subclass it, say how one is made, and inherit the laws."""

import itertools
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest

from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors import Collector
from saestore.analyze.scope import Scope
from saestore.analyze.sort import Firings, Sorter
from saestore.testing.analyses import Planted, plant
from saestore_schemas.table import Table


def planted_scope(planted: Planted, *, seed: int = 0) -> Scope:
    """Return the scope of planted activations."""
    return Scope.of(
        planted.lengths,
        planted.tokens.astype(np.int32),
        planted.kept,
        planted.position > 0,
        context_size=max(int(planted.lengths.max()), 2),
        seed=seed,
    )


def planted_firings(planted: Planted) -> Firings:
    """Return the firings of planted activations, by (context, position, feature)."""
    row, feature = np.nonzero(planted.values)
    return Firings(
        feature=feature.astype(np.uint32),
        context=planted.context[row].astype(np.uint32),
        position=planted.position[row].astype(np.uint16),
        value=planted.values[row, feature],
    )


def planted_block(planted: Planted) -> FeatureBlock:
    """Return all features of planted activations as one block."""
    sorter = Sorter(Path("nothing-is-spilled"), features=planted.values.shape[1], memory_mib=16)
    sorter.add(planted_firings(planted))
    (block,) = sorter.blocks()
    return block


class CollectorContract(ABC):
    """What every collector must do, on activations with ties, dead features and masked rows."""

    @abstractmethod
    def make(self, scope: Scope, *, features: int) -> Collector:
        """Return a fresh collector."""

    @abstractmethod
    def described(self) -> Table:
        """Return the table it fills."""

    @pytest.mark.parametrize("seed", [0, 1, 2])
    @pytest.mark.parametrize("cuts", [(3,), (1, 2, 5, 8), (0, 4, 4, 9)])
    def test_any_split_merged_in_any_order_is_one_pass(
        self, seed: int, cuts: tuple[int, ...]
    ) -> None:
        """Blocks are how features arrive, and must not show."""
        planted = plant(seed=seed)
        block, scope = planted_block(planted), planted_scope(planted)
        whole = self.make(scope, features=block.n)
        whole.update(block)
        bounds = [0, *cuts, block.n]
        parts = []
        for first, stop in itertools.pairwise(bounds):
            if stop > first:
                part = self.make(scope, features=block.n)
                part.update(block.select(first, stop - first))
                parts.append(part)
        merged = self.make(scope, features=block.n)
        for part in reversed(parts):
            merged.merge(part)
        assert merged.table().equals(whole.table(), check_metadata=True)

    def test_updates_in_any_order_are_one_pass(self) -> None:
        """The table is sorted whatever order its features came in."""
        planted = plant()
        block, scope = planted_block(planted), planted_scope(planted)
        forwards, backwards = (self.make(scope, features=block.n) for _ in range(2))
        for feature in range(block.n):
            forwards.update(block.select(feature, 1))
        for feature in reversed(range(block.n)):
            backwards.update(block.select(feature, 1))
        assert forwards.table().equals(backwards.table(), check_metadata=True)

    def test_merging_leaves_the_other_as_it_was(self) -> None:
        """Inputs are read-only."""
        planted = plant()
        block, scope = planted_block(planted), planted_scope(planted)
        one, other = (self.make(scope, features=block.n) for _ in range(2))
        one.update(block.select(0, 4))
        other.update(block.select(4, block.n - 4))
        before = other.table()
        one.merge(other)
        one.update(block.select(0, 1))
        assert other.table().equals(before)

    def test_the_table_is_the_one_described_and_sorted(self) -> None:
        """Columns, types and order are those of `saestore_schemas.tables`."""
        planted = plant()
        collector = self.make(planted_scope(planted), features=planted.values.shape[1])
        collector.update(planted_block(planted))
        table = collector.table()
        assert table.schema.equals(self.described().schema())
        order = self.described().order
        keys = [
            tuple(-row[name] if descending else row[name] for name, descending in order)
            for row in table.to_pylist()
        ]
        assert keys == sorted(keys)
        assert len(set(keys)) == len(keys)

    def test_no_features_make_an_empty_table(self) -> None:
        """A collector that saw nothing has columns and no rows."""
        planted = plant()
        collector = self.make(planted_scope(planted), features=planted.values.shape[1])
        assert collector.table().num_rows == 0
        assert collector.table().schema.equals(self.described().schema())
