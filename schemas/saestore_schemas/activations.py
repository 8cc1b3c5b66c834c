"""What an activation store is, whoever made it: generate, an import, a shuffle."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from saestore_schemas.base import Model
from saestore_schemas.lm import LmSettings
from saestore_schemas.names import ArtefactName, HookpointName


StoreDtype = Literal["float32", "float16", "bfloat16", "int8"]
"""How activations are stored. bfloat16 lies on disk as its bits in uint16, with an attribute. int8
is standardised: each dimension is divided by its standard deviation in the corpus's first block,
then each row by a scale of its own."""
StoreCodec = Literal["none", "zstd"]
"""How chunks are compressed. Every chunk has a crc32c over its stored bytes."""

RowCapture = Literal["final_norm_scale"]
"""A number of each row beside its activations: the scale by which the model's final norm divides it."""

FLAG_SPECIAL = 1
"""Bit of a row's flags: BOS, separators and other control tokens."""
FLAG_IGNORED = 2
"""Bit of a row's flags: its token id is in `ignore_tokens`."""

RowFlag = Literal["special", "ignored"]
"""Name of a flag."""
FLAG_BITS: Mapping[RowFlag, int] = {"special": FLAG_SPECIAL, "ignored": FLAG_IGNORED}
"""The bit of each flag."""


def _some(rows: tuple[int, int]) -> tuple[int, int]:
    start, stop = rows
    if start >= stop:
        msg = f"there is no row from {start} up to, and without, {stop}"
        raise ValueError(msg)
    return rows


RowRange = Annotated[
    tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]], AfterValidator(_some)
]
"""First row of a store and the row after the last."""


class HeadSettings(Model):
    """A hookpoint of one of several stores that were generated from the same contexts."""

    name: HookpointName | None = None
    """What the dictionary calls it; absent, as its hookpoint. Heads have different names."""
    store: ArtefactName
    """Activation store in the lake."""
    hookpoint: HookpointName
    """A hookpoint of that store."""

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or self.hookpoint


def check_heads(heads: Sequence[HeadSettings]) -> None:
    """Refuse heads that cannot be told apart.

    Raises:
        ValueError: Two have one name, or are the same hookpoint of the same store.
    """
    for one, other in combinations(heads, 2):
        if one.called == other.called:
            msg = f"two heads are called {one.called!r}: give each a name of its own"
            raise ValueError(msg)
        if (one.store, one.hookpoint) == (other.store, other.hookpoint):
            msg = (
                f"heads {one.called!r} and {other.called!r} are both {one.hookpoint} of {one.store!r}: "
                "remove one"
            )
            raise ValueError(msg)


def one_place(activations: str | None, heads: Sequence[HeadSettings]) -> None:
    """Refuse rows of a store and of heads at once, and heads that cannot be told apart.

    Raises:
        ValueError: They are such.
    """
    if activations is not None and heads:
        msg = "give activations or heads: heads name their stores"
        raise ValueError(msg)
    check_heads(heads)


class StoreSettings(Model):
    """Shape of the store on disk. The defaults suit everything but experiments."""

    chunk_kib: int = Field(default=512, ge=1)
    """Upper bound of one inner chunk in KiB; rows per chunk is the largest power of two that
    fits. A chunk is the unit of reading and of checksums."""
    shard_mib: float = Field(default=512, gt=0)
    """Upper bound of one shard of the widest hookpoint in MiB; rows per shard is the largest power
    of two that fits. A shard is one file per hookpoint and the unit of resuming."""
    codec: StoreCodec = "none"
    """Compression of the activations. `zstd` is for stores that are kept and rarely read: activations
    are noise to a codec, so it saves little, and reading is several times slower."""
    zstd_level: int = Field(default=3, ge=1, le=22)
    """How hard `zstd` tries; the higher, the slower it writes."""


class StoreRecord(Model):
    """What a reader must know of a store. It stands in its manifest, under `facts.store`."""

    dtype: StoreDtype
    """How activations are stored."""
    store: StoreSettings = StoreSettings()
    """Shape on disk."""
    lm: LmSettings | None
    """The language model whose activations they are; null, the store was imported and nobody said."""
    context_size: int = Field(ge=1)
    """Rows that no context exceeds."""
    capture: tuple[RowCapture, ...] = ()
    """What each row has beside its activations."""
    scattered: bool = False
    """Rows are permuted within each shard, and `order` holds which row of the original each one is.
    Contexts and segments are the original's."""

    @property
    def codec(self) -> StoreCodec:
        """How chunks are compressed: a part of the shape."""
        return self.store.codec
