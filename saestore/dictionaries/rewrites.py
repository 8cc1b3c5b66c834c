"""Other weights for the same dictionary with a linear encoder: folded, with unit decoder, without subtraction.

    folded               W_enc *= a; b_enc −= (a μ + s b_dec) W_enc; W_dec /= c; b_dec = b_dec/c + ν; s = 0
                         W_glu *= a; b_glu −= a μ W_glu; W_skip *= a/c; b_dec −= (a/c) μ W_skip
    with_unit_decoder    W_enc *= n; b_enc *= n; W_dec /= n; θ on h: θ n; the gate is on h from then on
    without_subtraction  b_enc −= s b_dec W_enc; s = 0
    as_jumprelu          another activation function, the same codes at inference
    above                another activation function, and other codes: the only one that is not exact

Hookpoints stand side by side: a, μ, c and ν are vectors over all their dimensions, so that each
hookpoint keeps its own scale. θ on h n follows n: in a crosscoder whose hookpoints are scaled unequally,
folding changes it feature by feature.

They are computed in float64 and rounded once, to the type of the weights; narrow ones
become float32, where rounding does not show.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import precision
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS, ActivationFunction
from saestore.dictionaries.scale import Scale
from saestore.dictionaries.sides import Sides
from saestore.errors import UnsupportedError
from saestore_schemas.dictionary import DictionaryConfig, JumpRelu, SameAsTraining


EQUAL_LENGTHS = 1e-5
"""Relative spread below which decoder lengths count as one: float32 renormalising leaves 1e-7."""

Tensors = Mapping[str, Tensor]
"""Weights by the names of the file."""
Lengths = Callable[[Tensors], Float[Tensor, " _"]]
"""Returns the decoder lengths of a family's tensors: what gate scores may be multiplied with."""
Divided = Callable[[Tensors, Float[Tensor, " d_sae"]], dict[str, Tensor]]
"""Returns a family's decoder, each feature's divided by a number."""
Multiplied = Callable[[Tensors, Float[Tensor, " d_sae"]], dict[str, Tensor]]
"""Returns a family's encoder, each feature's multiplied by a number."""


def _one_encoder(tensors: Tensors, by: Float[Tensor, " d_sae"]) -> dict[str, Tensor]:
    """Return the encoder of a family that has one, each feature's multiplied by a number."""
    return {"W_enc": tensors["W_enc"] * by}


@dataclass(frozen=True)
class Weights:
    """All that a dictionary with linear encoders is.

    Attributes:
        config: What the weights mean.
        scales: Hookpoint to normalisation.
        tensors: Weights, hookpoints side by side.
        lengths: How its family counts decoder lengths.
        divided: How its family divides decoders.
        multiplied: How its family multiplies encoders.
    """

    config: DictionaryConfig
    scales: Mapping[str, Scale]
    tensors: Mapping[str, Tensor]
    lengths: Lengths
    divided: Divided
    multiplied: Multiplied = _one_encoder

    @property
    def kind(self) -> type[ActivationFunction]:
        """Its activation function."""
        return ACTIVATION_FUNCTIONS[self.config.semantics.activation.kind]

    @property
    def on_lengths(self) -> bool:
        """Whether the gate is on h times decoder length."""
        return self.config.semantics.gate_on_decoder_norm

    @property
    def ranks_lengths(self) -> bool:
        """Whether it ranks pre-activations times decoder lengths, at inference too.

        Not where each head ranks by itself: what scales a hookpoint scales all of its head's scores.
        """
        semantics = self.config.semantics
        free = semantics.inference.kind == "threshold" or semantics.l0_scope == "head"
        return self.kind.ranks and self.on_lengths and not free

    @property
    def ranks_alone(self) -> bool:
        """Whether it ranks pre-activations without their decoder lengths."""
        return self.kind.ranks and not self.on_lengths

    def exact(self) -> dict[str, Tensor]:
        """Return the tensors in float64."""
        return {name: tensor.double() for name, tensor in self.tensors.items()}

    def owned(self) -> dict[str, Tensor]:
        """Return the activation function's tensors, the encoder bias among them, in float64."""
        names = (self.kind.bias_name, *self.kind.shapes(self.config.d_sae))
        return {name: self.tensors[name].double() for name in names}

    def moved(
        self,
        *,
        shift: Float[Tensor, " d_sae"] | float = 0.0,
        values: Float[Tensor, " d_sae"] | float = 1.0,
        gate: Float[Tensor, " _"] | float = 1.0,
    ) -> dict[str, Tensor]:
        """Return `owned` after `ActivationFunction.rewritten`."""
        owned = self.owned()
        ones = torch.ones_like(owned[self.kind.bias_name])
        gate = ones.new_ones(self.config.columns) * gate
        return self.kind.rewritten(owned, shift=ones * shift, values=ones * values, gate=gate)

    def rewritten(
        self,
        tensors: Mapping[str, Tensor],
        semantics: Mapping[str, Any],
        *,
        scales: Mapping[str, Scale] | None = None,
    ) -> "Weights":
        """Return other tensors, rounded to the types of these, float32 at least, and what they mean."""
        scales = self.scales if scales is None else scales
        config = self.config.model_copy(
            update={
                "dtype": "float64" if self.config.dtype == "float64" else "float32",
                "scale": {hook: scale.record for hook, scale in scales.items()},
                "semantics": self.config.semantics.model_copy(update=dict(semantics)),
            }
        )
        kinds = {name: precision.wide(tensor.dtype) for name, tensor in self.tensors.items()}
        other = next(iter(kinds.values()))
        rounded = {name: tensor.to(kinds.get(name, other)) for name, tensor in tensors.items()}
        return replace(self, config=config, scales=scales, tensors=rounded)

    def contained(self) -> dict[str, Scale]:
        """Return the normalisations as they are once the weights contain them."""
        return {
            hook: Scale(scale.record.model_copy(update={"state": "folded"}), scale.mean)
            for hook, scale in self.scales.items()
        }

    def spread(self, sides: Sides) -> tuple[Float[Tensor, " _"], Float[Tensor, " _"]]:
        """Return factor and mean of each dimension of some hookpoints; 1 and 0 where folded."""
        scales = [self.scales[hook] for hook in sides.hookpoints]
        factor = sides.spread(s.record.a if s.external else 1.0 for s in scales)
        means = [
            scale.mean.double()
            if scale.external and scale.mean is not None
            else torch.zeros(width, dtype=torch.float64)
            for scale, width in zip(scales, sides.widths, strict=True)
        ]
        device = next(iter(self.tensors.values())).device
        return factor.to(device), torch.cat([mean.to(device) for mean in means])


def folded(given: Weights) -> Weights:
    """Return weights that read and reconstruct rows as they are stored; codes stay the same.

    Raises:
        UnsupportedError: They are folded already, or rows are normalised one by one.
    """
    refuse_folding(given)
    config = given.config
    a, mean = given.spread(Sides(config.hookpoints_in, config.d_in))
    c, centre = given.spread(Sides(config.hookpoints_out, config.d_out))
    refuse_unequal(given, c)
    old = given.exact()
    subtracted = a * mean
    if config.semantics.subtract_b_dec:
        subtracted = subtracted + old["b_dec"]
    decoder = old["W_dec"] / c
    gate: Tensor | float = 1.0
    if given.on_lengths:
        gate = ratio(given.lengths({"W_dec": decoder}), given.lengths(old))
    tensors = {
        **given.moved(shift=subtracted @ old["W_enc"], gate=gate),
        "W_enc": old["W_enc"] * a.unsqueeze(1),
        "W_dec": decoder,
        "b_dec": old["b_dec"] / c + centre,
    }
    if config.options.glu:
        tensors["W_glu"] = old["W_glu"] * a.unsqueeze(1)
        tensors["b_glu"] = old["b_glu"] - (a * mean) @ old["W_glu"]
    if config.options.skip:
        tensors["W_skip"] = old["W_skip"] * a.unsqueeze(1) / c
        tensors["b_dec"] = tensors["b_dec"] - mean @ tensors["W_skip"]
    return given.rewritten(tensors, {"subtract_b_dec": False}, scales=given.contained())


def refuse_folding(given: Weights) -> None:
    """Refuse what cannot be folded.

    Raises:
        UnsupportedError: It is folded already, or rows are normalised one by one.
    """
    for hookpoint, scale in given.scales.items():
        if not scale.external:
            raise UnsupportedError(
                f"the normalisation of {hookpoint} is folded into the weights already",
                found="state folded",
                expected="state external",
                hint="use the dictionary as it is: folding twice would scale it twice",
            )
        if scale.by_row:
            raise UnsupportedError(
                f"rows of {hookpoint} are normalised one by one ({scale.record.kind}), and weights "
                "cannot hold a factor that differs from row to row",
                found=scale.record.kind,
                expected="a normalisation of the whole data set, or none",
                hint="use the dictionary as it is",
            )


def refuse_unequal(given: Weights, factors: Float[Tensor, " _"]) -> None:
    """Refuse to change decoder lengths feature by feature where they decide what a top-k keeps.

    Args:
        given: The weights.
        factors: Of each output dimension.

    Raises:
        UnsupportedError: It ranks pre-activations times these lengths, and the factors differ.
    """
    if given.ranks_lengths and bool((factors != factors[0]).any()):
        raise UnsupportedError(
            "output hookpoints are scaled unequally, which changes decoder lengths feature by feature, "
            f"and {given.config.semantics.activation.kind} ranks pre-activations times these lengths",
            found=f"factors from {float(factors.min()):.3g} to {float(factors.max()):.3g}",
            expected="equal factors, or a gate on pre-activations alone",
            hint="with_unit_decoder() first: activations then take their decoder vector's length",
        )


def ratio(after: Float[Tensor, " _"], before: Float[Tensor, " _"]) -> Float[Tensor, " _"]:
    """Return by which factor decoder lengths changed; 1 where there was none."""
    return torch.where(before == 0, 1.0, after / torch.where(before == 0, 1.0, before))


def with_unit_decoder(given: Weights) -> Weights:
    """Return weights with decoder vectors of length 1; activations take their lengths.

    Raises:
        UnsupportedError: Pre-activations of features with unequal lengths are ranked, or a feature is
            decided on by several of its lengths.
    """
    if given.config.gates > 1:
        raise UnsupportedError(
            "heads gate by themselves, each by its own decoder length: a feature has no one length that "
            "its activation could take",
            found="gating per_head",
            expected="gating shared",
            hint="keep the decoder as it is",
        )
    old = given.exact()
    lengths = given.lengths(old)
    equal = bool(lengths.max() <= lengths.min() * (1 + EQUAL_LENGTHS))
    if given.ranks_alone and not equal:
        raise UnsupportedError(
            f"{given.config.semantics.activation.kind} ranks pre-activations, and decoder vectors "
            "of unequal length would change their order",
            found=f"lengths from {float(lengths.min()):.3g} to {float(lengths.max()):.3g}",
            expected="equal lengths, or gate_on_decoder_norm = true",
            hint="keep the decoder as it is",
        )
    # Where the gate is on h n, a feature with n = 0 never fires; scaled by 0 it stays silent.
    factors = lengths if given.on_lengths else torch.where(lengths == 0, 1.0, lengths)
    if given.ranks_alone:  # lengths that differ by rounding must not change the order
        factors = torch.full_like(lengths, float(factors.mean()))
    tensors = {
        **old,
        **given.moved(values=factors, gate=1.0 if given.on_lengths else factors),
        **given.multiplied(old, factors),
        **given.divided(old, torch.where(factors == 0, 1.0, factors)),
    }
    unit = "unit" if (lengths > 0).all() else given.config.semantics.decoder_norm
    return given.rewritten(tensors, {"gate_on_decoder_norm": False, "decoder_norm": unit})


def without_subtraction(given: Weights) -> Weights:
    """Return weights whose encoder reads rows as they are."""
    if not given.config.semantics.subtract_b_dec:
        return given
    old = given.exact()
    moved = given.moved(shift=old["b_dec"] @ old["W_enc"])
    return given.rewritten({**old, **moved}, {"subtract_b_dec": False})


def as_jumprelu(given: Weights) -> Weights:
    """Return weights of a JumpReLU with the same codes at inference.

    Raises:
        UnsupportedError: The activation function ranks a row's features.
    """
    activation = given.config.semantics.activation
    if isinstance(activation, JumpRelu):
        return given
    return _jumping(given, *given.kind.as_jumprelu(given.owned()))


def above(given: Weights, threshold: Float[Tensor, " _"]) -> Weights:
    """Return weights of a JumpReLU that fires above thresholds where these rank gate scores.

    Raises:
        UnsupportedError: See `must_rank`.
    """
    must_rank(given)
    owned = given.owned()
    ones = torch.ones_like(owned[given.kind.bias_name])
    return _jumping(given, ones, {**owned, "threshold": threshold.to(ones)})


def must_rank(given: Weights) -> None:
    """Refuse what does not keep the largest gate scores.

    Raises:
        UnsupportedError: Negative ones may fire, another pre-activation than the gate's is kept, or
            there is no k.
    """
    kind, activation = given.kind, given.config.semantics.activation
    if kind.has_gate:
        why = "has a gate of its own"
    elif kind.firing != "positive":
        why = "keeps negative pre-activations too"
    elif "k" not in type(activation).model_fields:
        why = "does not rank"
    else:
        return
    raise UnsupportedError(
        f"{activation.kind} {why}, so that its firings are not those above a threshold",
        found=activation.kind,
        expected="an activation function that keeps the largest gate scores",
        hint="keep the dictionary as it is",
    )


def _jumping(
    given: Weights, factors: Float[Tensor, "..."], own: Mapping[str, Float[Tensor, "..."]]
) -> Weights:
    """Return weights of a JumpReLU.

    Args:
        given: What they are made from.
        factors: What each encoder vector is multiplied with.
        own: Encoder bias and thresholds.
    """
    old, owned = given.exact(), given.owned()
    others = {name: tensor for name, tensor in old.items() if name not in owned}
    return given.rewritten(
        {**others, **given.multiplied(old, factors), **own},
        {"activation": JumpRelu(), "inference": SameAsTraining(), "l0_scope": "row"},
    )
