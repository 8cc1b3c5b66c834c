"""Small sparse autoencoders of data far from the origin, on which wrong conversions show.

Widths are neither square nor powers of two, biases are not zero, decoder vectors have unequal
lengths and the data lie far from the origin: with unit lengths and zero biases most wrong code
passes.
"""

import math

import torch

from saestore.dictionaries import Scale, SparseDictionary
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS
from saestore.dictionaries.families import FAMILIES
from saestore_schemas.dictionary import (
    Activation,
    BatchTopK,
    DictionaryConfig,
    ModelRecord,
    Options,
    SameAsTraining,
    ScaleKind,
    ScaleRecord,
    Semantics,
    ThresholdInference,
)


HOOKPOINT = "blocks.1.hook_resid_post"


def awkward_sae(
    activation: Activation,
    *,
    scale: ScaleKind = "dataset_centred_rms",
    subtract_b_dec: bool = True,
    gate_on_decoder_norm: bool = False,
    lengths: tuple[float, float] = (0.3, 3.0),
    glu: bool = False,
    d_in: int = 7,
    d_sae: int = 11,
    seed: int = 0,
) -> SparseDictionary:
    """Return a random SAE, its normalisation external.

    Args:
        activation: Activation function.
        scale: Normalisation; its factor and mean are made up, the mean 30 deviations away.
        subtract_b_dec: Whether the encoder subtracts the decoder bias.
        gate_on_decoder_norm: Whether pre-activations are ranked times decoder length.
        lengths: Range of the decoder vectors' lengths, spread evenly; equal bounds make a unit
            decoder of them.
        glu: Whether the encoder is a gated linear unit.
        d_in: Width of the hookpoint.
        d_sae: Features.
        seed: Of all draws.
    """
    draw = torch.Generator().manual_seed(seed)
    decoder = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=draw))
    decoder *= torch.linspace(*lengths, d_sae)[torch.randperm(d_sae, generator=draw)].unsqueeze(1)
    centred = scale == "dataset_centred_rms"
    mean = 30 * torch.randn(d_in, generator=draw, dtype=torch.float64)
    record = ScaleRecord(
        kind=scale,
        a=1.0 if scale == "none" else 0.37,
        mean=f"scale.{HOOKPOINT}.mean" if centred else None,
        rows=1000,
        excluded=("special",),
        state="external",
    )
    kind = ACTIVATION_FUNCTIONS[activation.kind]
    batch = isinstance(activation, BatchTopK)
    inference = ThresholdInference(source="exact", rows=1000) if batch else SameAsTraining()
    config = DictionaryConfig(
        family="sae",
        d_in=(d_in,),
        d_out=(d_in,),
        d_sae=d_sae,
        dtype="float32",
        hookpoints_in=(HOOKPOINT,),
        hookpoints_out=(HOOKPOINT,),
        options=Options(glu=glu),
        semantics=Semantics(
            subtract_b_dec=subtract_b_dec,
            gate_on_decoder_norm=gate_on_decoder_norm,
            decoder_norm="unit" if lengths == (1.0, 1.0) else "free",
            activation=activation,
            inference=inference,
            l0_scope="row",
            firing=kind.firing,
        ),
        scale={HOOKPOINT: record},
        model=ModelRecord(
            name="tiny", revision=None, weights_fingerprint=None, processing="raw",
            capture_dtype="float32",
        ),
        train=None,
        parents=(),
        versions={"saestore": "test"},
    )  # fmt: skip
    tensors = {
        "W_enc": torch.randn(d_in, d_sae, generator=draw) / math.sqrt(d_in),
        kind.bias_name: 0.3 * torch.randn(d_sae, generator=draw),
        "W_dec": decoder,
        "b_dec": 0.5 * torch.randn(d_in, generator=draw),
    }
    own = {
        name: 0.3 * torch.randn(shape, generator=draw) for name, shape in kind.shapes(d_sae).items()
    }
    if "threshold" in own:
        own["threshold"] = torch.full((d_sae,), 0.4) if batch else own["threshold"].abs() + 0.1
    tensors |= own
    if glu:
        tensors["W_glu"] = torch.randn(d_in, d_sae, generator=draw) / math.sqrt(d_in)
        tensors["b_glu"] = 0.3 * torch.randn(d_sae, generator=draw)
    return FAMILIES["sae"](config, {HOOKPOINT: Scale(record, mean if centred else None)}, tensors)
