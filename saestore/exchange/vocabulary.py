"""The vocabulary of an imported store: its language model's, or ids that stand for themselves.

Whatever reads a store shows text by its vocabulary. Without a language model a token is shown as
`<17>`, so that pages and tables say what is known and no more.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from saestore.exchange.source import About
from saestore_schemas import tables
from saestore_schemas.lm import LmSettings


LARGEST = 1 << 24
"""Token ids of an unknown vocabulary are below this: a larger number is no token id."""


@dataclass(frozen=True)
class Vocabulary:
    """What token ids stand for.

    Attributes:
        lm: The language model, if it is known.
        what: What it is, for people.
        size: Token ids are below this.
        special: Ids of control tokens.
        own: The table, if there is one before all tokens are read.
    """

    lm: LmSettings | None
    what: str
    size: int
    special: frozenset[int]
    own: pa.Table | None

    @property
    def known(self) -> bool:
        """Whether ids stand for text."""
        return self.own is not None

    @classmethod
    def of(cls, lm: LmSettings | None, about: About) -> "Vocabulary":
        """Return the vocabulary of a source's tokens.

        Raises:
            ConfigError: There is no such model, or it has no tokenizer.
        """
        if lm is not None:
            from saestore.lm import LmTokenizer, vocabulary_of  # noqa: PLC0415 - torch

            tokenizer = LmTokenizer.load(lm)
            table = vocabulary_of(tokenizer)
            what = f"the vocabulary of {lm.model}"
            return cls(lm, what, table.num_rows, tokenizer.special_ids, table)
        if about.vocabulary is not None:
            special = _special(about.vocabulary)
            what = "the vocabulary of the exported store"
            return cls(about.lm, what, about.vocabulary.num_rows, special, about.vocabulary)
        return cls(
            None, "token ids" if about.has_tokens else "no tokens", LARGEST, frozenset(), None
        )

    def table(self, largest: int) -> pa.Table:
        """Return one line per token id.

        Args:
            largest: The largest id there is.
        """
        if self.own is not None:
            return self.own
        ids = np.arange(largest + 1)
        names = ["<no token>"] if self.what == "no tokens" else [f"<{number}>" for number in ids]
        return pa.table(
            [
                pa.array(ids, pa.uint32()),
                pa.array(names, pa.string()),
                pa.array([name.encode() for name in names], pa.binary()),
                pa.array([False] * len(names), pa.bool_()),
                pa.nulls(len(names), pa.uint64()),
            ],
            schema=tables.VOCABULARY.schema(),
        )


def _special(table: pa.Table) -> frozenset[int]:
    return frozenset(row["token_id"] for row in table.to_pylist() if row["special"])
