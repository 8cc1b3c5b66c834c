"""The form from which dictionaries are written for other tools: raw units, nothing subtracted.

    f = activation function of x W_enc + b_enc          ŷ = f W_dec + b_dec (+ x W_skip)

Reached by exact rewrites only, in float64; the format goes on from there to what its tool computes
and rounds once, at the end.
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from saestore.dictionaries import SparseDictionary, canonical
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS
from saestore.errors import UnsupportedError
from saestore_schemas.dictionary import (
    ROW_SCALES,
    Activation,
    BatchTopK,
    JumpRelu,
    SameAsTraining,
    TopK,
)


WEIGHTS = frozenset({"W_enc", "W_dec", "b_dec", "W_glu", "b_glu", "W_skip"})
"""Tensors of an autoencoder or transcoder whatever its activation function."""


@dataclass(frozen=True)
class Plain:
    """A sparse autoencoder or transcoder in raw units, float64, on the CPU.

    Attributes:
        dictionary: It.
        factors: Its features are the given dictionary's times this.
        rewrites: What was done to get here, in order.
        inexact: What was changed beyond rounding.
    """

    dictionary: SparseDictionary
    factors: Float64[Tensor, " d_sae"]
    rewrites: tuple[str, ...] = ()
    inexact: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights by the names of our file format."""
        return self.dictionary.tensors()

    @property
    def activation(self) -> Activation:
        """Activation function with its parameters."""
        return self.dictionary.config.semantics.activation

    @property
    def gate_on_decoder_norm(self) -> bool:
        """Whether the gate compares pre-activation times decoder length."""
        return self.dictionary.config.semantics.gate_on_decoder_norm

    @property
    def lengths(self) -> Float64[Tensor, " d_sae"]:
        """Length of each decoder vector."""
        return self.dictionary.decoder_norms().detach()

    def shifted(self, shift: Float64[Tensor, " d_sae"]) -> dict[str, Tensor]:
        """Return the weights when an encoder's sums are larger by a vector than they were before.

        Args:
            shift: By how much; biases take it off.
        """
        ones = torch.ones_like(shift)
        own = {name: each for name, each in self.tensors.items() if name not in WEIGHTS}
        function = ACTIVATION_FUNCTIONS[self.activation.kind]
        return {**self.tensors, **function.rewritten(own, shift=shift, values=ones, gate=ones)}

    def subtracting(self) -> dict[str, Tensor]:
        """Return the weights for a tool that subtracts the decoder bias before encoding."""
        return self.shifted(-self.tensors["b_dec"] @ self.tensors["W_enc"])

    def unit(self) -> "Plain":
        """Return the same with decoder vectors of length 1 and the gate on h, where that is exact."""
        form = canonical(self.dictionary)
        return replace(
            self,
            dictionary=form.dictionary,
            factors=self.factors * form.factors,
            rewrites=(*self.rewrites, *form.rewrites),
        )

    def scaled(self, factor: float) -> "Plain":
        """Return the same with all features in another unit."""
        values = torch.full_like(self.factors, factor)
        gate = torch.ones_like(values) if self.gate_on_decoder_norm else values
        own = {name: each for name, each in self.tensors.items() if name not in WEIGHTS}
        function = ACTIVATION_FUNCTIONS[self.activation.kind]
        tensors = {
            **self.tensors,
            **function.rewritten(own, shift=torch.zeros_like(values), values=values, gate=gate),
            "W_enc": self.tensors["W_enc"] * factor,
            "W_dec": self.tensors["W_dec"] / factor,
        }
        config = self.dictionary.config
        semantics = config.semantics.model_copy(update={"decoder_norm": "free"})
        return replace(
            self,
            dictionary=self.dictionary.restore(
                config.model_copy(update={"semantics": semantics}), self.dictionary.scales, tensors
            ),
            factors=self.factors * factor,
            rewrites=(*self.rewrites, f"features multiplied by {factor:.6g}"),
        )

    def above_thresholds(self) -> "Plain":
        """Return the same as a JumpReLU.

        Raises:
            UnsupportedError: It ranks a row's features, which no threshold can say.
        """
        if isinstance(self.activation, JumpRelu):
            return self
        note = f"{self.activation.kind} written as the JumpReLU with the same codes"
        return replace(
            self, dictionary=self.dictionary.as_jumprelu(), rewrites=(*self.rewrites, note)
        )

    def row_by_row(self) -> "Plain":
        """Return a BatchTopK as a top-k of each row, which is not what it computes."""
        if not isinstance(self.activation, BatchTopK):
            return self
        k = max(1, round(self.activation.k))
        config = self.dictionary.config
        semantics = config.semantics.model_copy(
            update={"activation": TopK(k=k), "inference": SameAsTraining()}
        )
        tensors = {name: each for name, each in self.tensors.items() if name != "threshold"}
        dictionary = self.dictionary.restore(
            config.model_copy(update={"semantics": semantics}), self.dictionary.scales, tensors
        )
        why = f"its features fire above a threshold; there the {k} largest of each row would fire"
        return replace(self, dictionary=dictionary, inexact=(*self.inexact, why))


def plain(
    dictionary: SparseDictionary, *, tool: str, glu: bool = False, transcoders: bool = False
) -> Plain:
    """Return a dictionary in raw units with nothing subtracted.

    Args:
        dictionary: Any dictionary that reads one hookpoint and reconstructs one with linear maps.
        tool: What it is written for, for errors.
        glu: Whether that tool knows gated linear units.
        transcoders: Whether that tool knows dictionaries that reconstruct something else than they read.

    Raises:
        UnsupportedError: It computes something that an autoencoder's matrices cannot say.
    """
    _expressible(dictionary, tool=tool, glu=glu, transcoders=transcoders)
    current = copy.deepcopy(dictionary).cpu().double()
    rewrites = []
    if any(scale.external for scale in current.scales.values()):
        current = current.folded()
        if any(scale.record.kind != "none" for scale in dictionary.scales.values()):
            rewrites.append("normalisation folded into the weights")
    if dictionary.config.semantics.subtract_b_dec:
        current = current.without_subtraction()
        rewrites.append("b_dec absorbed into the encoder bias")
    ones = torch.ones(dictionary.d_sae, dtype=torch.float64)
    return Plain(current, ones, tuple(rewrites))


def _expressible(dictionary: SparseDictionary, *, tool: str, glu: bool, transcoders: bool) -> None:
    """Refuse what no tool's files can say.

    Raises:
        UnsupportedError: It is no sparse autoencoder, or its normalisation is none of the weights'.
    """
    config = dictionary.config
    same = config.hookpoints_in == config.hookpoints_out
    of_matrices = {"W_enc", "W_dec", "b_dec"} <= type(dictionary).shapes(config).keys()
    if not of_matrices or not (same or transcoders):
        other = ", or a transcoder" if transcoders else ""
        raise UnsupportedError(
            f"{tool} has no counterpart of family {config.family!r}",
            found=config.family,
            expected=f"a sparse autoencoder that reconstructs what it reads{other}",
            hint="export one of these",
        )
    if config.options.glu and not glu:
        raise UnsupportedError(
            f"{tool} knows no gated linear unit in the encoder (options.glu)",
            found="glu",
            expected="an encoder of one matrix",
            hint="export it to llamascopium, which has them",
        )
    by_row = [s.record.kind for s in dictionary.scales.values() if s.record.kind in ROW_SCALES]
    if by_row:
        raise UnsupportedError(
            f"its rows are normalised one by one ({by_row[0]}), and weights cannot hold a factor "
            "that differs from row to row",
            found=by_row[0],
            expected="a normalisation of the whole data set, or none",
            hint="keep using the files it was imported from",
        )
