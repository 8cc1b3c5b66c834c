"""The `token_stats` table: tokens a feature fires on most, and those before and after."""

import numpy as np
import pyarrow as pa

from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors.collector import Pieces
from saestore.analyze.relation_loops import tokens_of
from saestore.analyze.scope import Scope
from saestore.features import arrow
from saestore_schemas import tables
from saestore_schemas.analyze import TokenSettings


class Tokens:
    """Collects the tokens at and beside the firings of each feature."""

    def __init__(self, scope: Scope, settings: TokenSettings) -> None:
        """Prepare to collect.

        Args:
            scope: The rows analysed.
            settings: How many tokens are kept.
        """
        self._scope = scope
        self._settings = settings
        self.pieces = Pieces(tables.TOKEN_STATS.schema())

    def update(self, block: FeatureBlock) -> None:
        """Take features that it has not seen."""
        wanted = self._settings
        found = tokens_of(block, self._scope, top_k=wanted.top_k, min_n=wanted.min_n)
        columns = {
            "feature": block.features[found.feature],
            "shift": found.shift,
            "token_id": found.token.astype(np.uint32),
            "n": found.n.astype(np.uint64),
            "sum": found.sum,
            "max": found.max,
        }
        self.pieces.add(block.first, arrow.rows(self.pieces.schema, columns))

    def merge(self, other: "Tokens") -> None:
        """Take everything another collector has seen."""
        self.pieces.merge(other.pieces)

    def table(self) -> pa.Table:
        """Return the rows of all features seen so far."""
        return self.pieces.table()
