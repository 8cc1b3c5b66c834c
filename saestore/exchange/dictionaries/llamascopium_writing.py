"""What is written for llamascopium, of any family: weights in raw units, an activation function that it has.

Where its gate is on pre-activation times decoder length it divides by that length again, and a decoder vector
of zero makes NaN: a dictionary with one is refused.
"""

import copy
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import SparseDictionary, tensor_file
from saestore.errors import UnsupportedError
from saestore.exchange.dictionaries.foreign import Written
from saestore_schemas.dictionary import ROW_SCALES, Activation, DictionaryConfig


@dataclass(frozen=True)
class Place:
    """Where files stand, and of which release they are.

    Attributes:
        weights: Path of the weights.
        config: Path of the config.
        version: The release.
        context_size: Rows of the longest context that it shall read; None where that is not known.
    """

    weights: str
    config: str
    version: str
    context_size: int | None = None


@dataclass(frozen=True)
class Raw:
    """A dictionary as it is written.

    Attributes:
        same: It in float64, with an activation function that llamascopium has, and the same codes.
        dictionary: The same, reading and reconstructing rows as they are.
        steps: What was done to get there, in order.
        factors: Its features are those of `same` times this; None: they are the same.
    """

    same: SparseDictionary
    dictionary: SparseDictionary
    steps: tuple[str, ...]
    factors: Float[Tensor, " d_sae"] | None = None

    def written(
        self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], place: Place
    ) -> Written:
        """Return the files.

        Args:
            tensors: By its names.
            values: Of the config, beside those of every family.
            place: Where.
        """
        config = self.dictionary.config
        semantics = config.semantics
        values = {
            **config_of(
                config.family, semantics.activation, width=config.d_in[0], features=config.d_sae
            ),
            "sparsity_include_decoder_norm": semantics.gate_on_decoder_norm,
            **values,
        }
        return Written(
            architecture=f"{config.family}, {semantics.activation.kind}",
            files=files(tensors, values, place),
            rewrites=self.steps,
            factors=self.factors,
            instead=self.same,
        )


def files(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], place: Place
) -> dict[str, bytes]:
    """Return weights, in float32 where they are numbers, and config."""
    rounded = {
        name: (each.float() if each.is_floating_point() else each).contiguous()
        for name, each in tensors.items()
    }
    return {
        place.weights: tensor_file.dump(rounded, {"version": place.version}),
        place.config: (json.dumps(values, indent=4) + "\n").encode(),
    }


def expressed(
    dictionary: SparseDictionary, functions: Collection[str]
) -> tuple[SparseDictionary, list[str]]:
    """Return a dictionary in float64 with one of these activation functions, and what was done to it.

    Raises:
        UnsupportedError: There is none with the same codes, or its weights do not say all that it computes.
    """
    found: SparseDictionary = copy.deepcopy(dictionary).cpu().double()
    config = found.config
    _check_width(config)
    others = [name for name in ("glu", "skip") if getattr(config.options, name)]
    others += sorted({each.record.kind for each in found.scales.values()} & ROW_SCALES)
    if others:
        raise UnsupportedError(
            f"llamascopium has no counterpart of {', '.join(others)} of a {config.family}",
            found=", ".join(others),
            expected="one encoder and decoder, and rows as they are",
            hint="train one without it before exporting",
        )
    if config.semantics.subtract_b_dec:
        found = found.without_subtraction()
    kind: str = config.semantics.activation.kind
    if kind in {"batchtopk", "batchlayertopk", "gated"}:
        return found.as_jumprelu(), [f"{kind} written as the JumpReLU with the same codes"]
    if kind not in functions:
        raise UnsupportedError(
            f"llamascopium has no counterpart of activation {kind!r} of a {config.family}",
            found=kind,
            expected=f"one of {', '.join(functions)}",
            hint="train with one of these",
        )
    return found, []


def _check_width(config: DictionaryConfig) -> None:
    """Refuse hookpoints of several widths.

    Raises:
        UnsupportedError: There are.
    """
    widths = config.d_in if config.d_in == config.d_out else (*config.d_in, *config.d_out)
    if len(set(widths)) > 1:
        said = ", ".join(map(str, widths))
        raise UnsupportedError(
            f"its hookpoints have widths {said}, and those of a {config.family} of llamascopium have one",
            found=f"widths {said}",
            expected="hookpoints of one width",
            hint="train one on hookpoints of one width",
        )


def in_raw_units(same: SparseDictionary, steps: Sequence[str]) -> Raw:
    """Return a dictionary with its normalisation in the weights.

    Raises:
        UnsupportedError: It cannot be there, or features write nothing where it divides by their lengths.
    """
    silent = int((same.column_norms() == 0).sum())
    if silent and same.config.semantics.gate_on_decoder_norm:
        several = len(same.hookpoints_out) > 1
        raise UnsupportedError(
            f"{silent} features write nothing{' at some head' * several}, where llamascopium divides zero by "
            "zero",
            found=f"{silent} decoder vectors of zero",
            expected="none",
            hint="keep it here: no file of llamascopium can say it",
        )
    if not any(scale.external for scale in same.scales.values()):
        return Raw(same, same, tuple(steps))
    folded = "normalisation folded into the weights"
    try:
        return Raw(same, same.folded(), (*steps, folded))
    except UnsupportedError:  # outputs of unequal factors: features would rank in another order
        lengths = same.decoder_norms().detach()
        return Raw(
            same,
            same.with_unit_decoder().folded(),
            (*steps, "features multiplied by their decoder lengths", folded),
            lengths,
        )


def config_of(family: str, activation: Activation, *, width: int, features: int) -> dict[str, Any]:
    """Return what the config of any family says, of weights that contain the normalisation."""
    expansion = features / width
    if int(width * expansion) != features:  # it rounds the product down
        expansion = math.nextafter(expansion, math.inf)
    return {
        "sae_type": family,
        "d_model": width,
        "expansion_factor": expansion,
        "use_decoder_bias": True,
        "act_fn": activation.kind,
        "norm_activation": "inference",
        "top_k": int(getattr(activation, "k", 50)),
        "use_triton_kernel": False,
        "sparsity_threshold_for_triton_spmm_kernel": 0.996,
        "jumprelu_threshold_window": float(getattr(activation, "bandwidth", 2.0)),
    }
