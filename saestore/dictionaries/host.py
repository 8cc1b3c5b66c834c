"""What a dictionary may start from, of the language model that it belongs to.

Whoever has the model makes these; nothing here loads one.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class HostAttention:
    """The attention of one layer, for rows as they are stored: x @ W[head] + b[head].

    With grouped queries there are fewer key and value heads than query heads; each serves as many
    neighbouring query heads.

    Attributes:
        W_Q: Query projection of each head.
        W_K: Key projection of each key head.
        W_V: Value projection of each key head.
        W_O: Output projection of each head.
        b_Q: Query biases; None without.
        b_K: Key biases; None without.
        q_norm: Weights of the queries' norm, one for each dimension or of each head; None without.
        k_norm: Weights of the keys' norm, likewise.
        rows: One context, to try on it whether the dictionary attends alike; None untried.
        pattern: How much each of its rows attends to each, in each head.
        positions: What the model says about positions, in words.
    """

    W_Q: Float[Tensor, "head d_in d"]
    W_K: Float[Tensor, "_ d_in d"]
    W_V: Float[Tensor, "_ d_in d"]
    W_O: Float[Tensor, "head d d_out"]
    b_Q: Float[Tensor, "head d"] | None = None
    b_K: Float[Tensor, "_ d"] | None = None
    q_norm: Float[Tensor, "... d"] | None = None
    k_norm: Float[Tensor, "... d"] | None = None
    rows: Float[Tensor, "position d_in"] | None = None
    pattern: Float[Tensor, "head position position"] | None = None
    positions: str = ""

    @property
    def heads(self) -> int:
        """Query heads."""
        return len(self.W_Q)

    @property
    def width(self) -> int:
        """Width of queries and keys."""
        return self.W_Q.shape[2]

    def expanded(self, tensor: Float[Tensor, "_ ..."]) -> Float[Tensor, "head ..."]:
        """Return what key heads have, for each query head."""
        return tensor.repeat_interleave(self.heads // len(tensor), dim=0)


@dataclass(frozen=True)
class HostMlp:
    """What a layer's MLP writes, for rows as they are stored; it may be any map of single rows.

    Attributes:
        respond: Rows of what it reads to rows of what it writes.
    """

    respond: Callable[[Float[Tensor, "row d_in"]], Float[Tensor, "row d_out"]]


Host = HostAttention | HostMlp
"""One of them."""
