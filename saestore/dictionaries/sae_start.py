"""Starting weights of a sparse autoencoder.

In this order: decoder vectors (random, or data points), active subspace, decoder bias, their length,
tie, encoder bias. A GLU gate starts at W_glu = b_glu = 0, which halves all pre-activations; what the
activation function owns starts as that says.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from saestore.dictionaries import initial
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS
from saestore.dictionaries.base import Beginning, SparseDictionary
from saestore.dictionaries.scale import Scale
from saestore.errors import ConfigError
from saestore_schemas.dictionary import DictionaryConfig, SaeSettings


Tensors = dict[str, Tensor]
"""Weights by the names of the file format."""
SEARCH_ROWS = 4096
"""Rows of the sample on which lengths of decoder vectors are tried."""


class Start:
    """The weights that one SAE starts from, but for the length of its decoder vectors."""

    def __init__(
        self, settings: SaeSettings, beginning: Beginning, scale: Scale, d_sae: int
    ) -> None:
        """Draw what is random, and measure what is measured.

        Raises:
            ConfigError: An option asks for more than the sample holds.
        """
        self.settings, self.init = settings, beginning.init
        self.d_sae = d_sae
        width = beginning.width(settings.hookpoint)
        self._rows: Float64[np.ndarray, "row d"] | None = None
        if beginning.sample is not None:
            self._rows = scale.normalise(beginning.sample[settings.hookpoint].double()).numpy()
        self._decoder = self._vectors(beginning, width)
        self._bias = self._decoder_bias(beginning, scale, width)
        self._encoder = None if self.init.tie else self._drawn(beginning, width)

    @property
    def rows(self) -> Float64[np.ndarray, "row d"]:
        """The sample, normalised."""
        if self._rows is None:
            raise ConfigError(
                field="init",
                found="no sample of rows",
                expected="one: these options measure something",
                hint="give build() a sample, or train on a store",
            )
        return self._rows

    def tensors(self, length: float) -> Tensors:
        """Return all weights, with decoder vectors times a length."""
        init, settings = self.init, self.settings
        decoder = _times(self._decoder, length)
        encoder = _times(decoder, init.tie_factor) if self._encoder is None else self._encoder
        kind = ACTIVATION_FUNCTIONS[settings.activation.kind]
        own = {
            kind.bias_name: torch.zeros(self.d_sae, dtype=torch.float64),
            **kind.start(settings.activation, self.d_sae, init),
        }
        shift = self._shift(encoder)
        if shift is not None:
            ones = torch.ones(self.d_sae, dtype=torch.float64)
            moved = torch.from_numpy(shift)
            own = kind.rewritten(own, shift=moved, values=ones, gate=ones)
        found = {"W_enc": torch.from_numpy(encoder.T), "W_dec": torch.from_numpy(decoder)}
        found |= {"b_dec": torch.from_numpy(self._bias), **own}
        if settings.glu:
            found["W_glu"] = torch.zeros(found["W_enc"].shape)
            found["b_glu"] = torch.zeros(self.d_sae)
        return {name: tensor.float().contiguous() for name, tensor in found.items()}

    def length(self, made: Callable[[Tensors], SparseDictionary]) -> float:
        """Return how long decoder vectors shall be.

        Args:
            made: Makes the dictionary of some weights.
        """
        init = self.init
        if not init.search_decoder_norm:
            return 1.0 if init.decoder_bound is not None else init.decoder_vector_norm
        rows = torch.from_numpy(self.rows[:SEARCH_ROWS]).float()
        hook = self.settings.hookpoint

        def error(length: float) -> float:
            with torch.no_grad():
                output = made(self.tensors(length))({hook: rows})
                return float((output.reconstruction[hook] - rows).double().square().sum())

        return initial.best_length(error)

    def _vectors(self, beginning: Beginning, width: int) -> Float64[np.ndarray, "feature d"]:
        """Return decoder vectors of length 1, or within bounds."""
        init, rng = self.init, beginning.rng
        if init.decoder_bound is not None:
            shape = (self.d_sae, width)
            vectors = rng.uniform(-init.decoder_bound, init.decoder_bound, shape)
        elif init.data_points:
            noise = init.data_noise
            vectors = initial.data_points(self.rows, self.d_sae, noise=noise, rng=rng)
        else:
            vectors = beginning.directions(self.d_sae, width, 1.0)
        if init.active_subspace is not None:
            directions = initial.active_subspace(self.rows, init.active_subspace)
            if init.data_points:  # they say where in the subspace they lie
                vectors = vectors @ directions @ directions.T
            else:
                vectors = vectors[:, : init.active_subspace] @ directions.T
            if init.decoder_bound is None:
                vectors = initial.unit(vectors)
        return vectors

    def _drawn(self, beginning: Beginning, width: int) -> Float64[np.ndarray, "feature d"]:
        """Return encoder vectors that have nothing to do with the decoder's."""
        bound = self.init.encoder_bound
        if bound is None:
            return beginning.directions(self.d_sae, width, 1.0)
        return beginning.rng.uniform(-bound, bound, (self.d_sae, width))

    def _decoder_bias(
        self, beginning: Beginning, scale: Scale, width: int
    ) -> Float64[np.ndarray, " d"]:
        kind = self.init.decoder_bias
        if kind == "geometric_median":
            return initial.geometric_median(self.rows)
        if kind == "mean" and scale.mean is None:
            moments = beginning.moments[self.settings.hookpoint]
            return np.asarray(moments.mean * scale.record.a, np.float64)
        return np.zeros(width)

    def _shift(
        self, encoder: Float64[np.ndarray, "feature d"]
    ) -> Float64[np.ndarray, " feature"] | None:
        """Return what is to be taken off the encoder bias."""
        init = self.init
        if not init.center_encoder_bias and init.firing_rate is None:
            return None
        read = self.rows - self._bias if self.settings.subtract_b_dec else self.rows
        if init.firing_rate is None:
            return np.asarray(encoder @ read.mean(axis=0), np.float64)
        found = np.empty(self.d_sae)
        step = max(1, (1 << 24) // len(read))
        for start in range(0, self.d_sae, step):  # all at once may be more than memory holds
            scores = read @ encoder[start : start + step].T
            found[start : start + step] = np.quantile(scores, 1 - init.firing_rate, axis=0)
        return found


def _times(
    vectors: Float64[np.ndarray, "feature d"], factor: float
) -> Float64[np.ndarray, "feature d"]:
    """Return vectors times a factor; no copy of the largest arrays there are where it is 1."""
    return vectors if factor == 1 else vectors * factor


def weights_of(
    source: SparseDictionary, expected: DictionaryConfig, *, named: str
) -> tuple[dict[str, Scale], Tensors]:
    """Return scales and weights of a dictionary that means what another will mean.

    Args:
        source: Where they come from.
        expected: The record of the dictionary that starts from them.
        named: What the source is called.

    Raises:
        ConfigError: It means something else; with what differs.
    """
    ours, theirs = _meaning(expected), _meaning(source.config)
    differ = {key: theirs[key] for key in ours if ours[key] != theirs[key]}
    if differ:
        raise ConfigError(
            field="init.dictionary",
            found=f"{named} with {', '.join(f'{k} = {v}' for k, v in differ.items())}",
            expected=", ".join(f"{key} = {ours[key]}" for key in differ),
            hint="the settings under dictionary must say what its weights mean",
        )
    return dict(source.scales), source.tensors()


def _meaning(config: DictionaryConfig) -> dict[str, object]:
    """Return what must be equal for weights to be taken over."""
    found: dict[str, object] = {"d_sae": config.d_sae, "dtype": config.dtype}
    found |= {"hookpoint": config.hookpoints_in, "d_in": config.d_in}
    found |= {"options": config.options.model_dump()}
    semantics = config.semantics.model_dump(exclude={"inference"})
    found |= {f"semantics.{key}": value for key, value in semantics.items()}
    for hook, record in config.scale.items():
        folded = record.state == "folded"
        found[f"scale of {hook}"] = "none" if folded else record.kind
    return found
