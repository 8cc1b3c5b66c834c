"""Starting weights of dictionaries with a linear encoder.

`Start` has what does not depend on the decoder, `DecoderStart` the rest for linear ones, in this order:
decoder vectors (random, data points, or the host's), active subspace, decoder bias, their length, tie,
encoder bias.
A GLU gate starts at W_glu = b_glu = 0, which halves all pre-activations, a skip at 0; what the activation
function owns starts as that says.

    host    W_dec[i] = (o_i − ō) at length 1, o_i = MLP(E x + ê_i mean‖x − E x‖), ō the mean over features,
            ê_i the encoder vector at length 1, rows x in raw units

Of several output hookpoints each gets directions of its own length; those of equal width the same ones,
where `init.repeat_heads` says so.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from saestore.dictionaries import initial, precision
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS
from saestore.dictionaries.base import Beginning, SparseDictionary
from saestore.dictionaries.host import HostMlp
from saestore.dictionaries.scale import Scale, measured
from saestore.dictionaries.sides import Sides, sides_of
from saestore.errors import ConfigError
from saestore.lake import manifest as manifests
from saestore_schemas.dictionary import DictionaryConfig, Options, Semantics
from saestore_schemas.families import LinearSettings


Tensors = dict[str, Tensor]
"""Weights, hookpoints side by side."""
SEARCH_ROWS = 4096
"""Rows of the sample on which lengths of decoder vectors are tried."""


def record(
    settings: LinearSettings, beginning: Beginning
) -> tuple[DictionaryConfig, dict[str, Scale]]:
    """Return the record of an untrained dictionary, and how each hookpoint is normalised.

    Raises:
        ConfigError: A setting contradicts the widths or the moments.
        HookpointNotFoundError: The store has no such hookpoint.
    """
    reads, writes = settings.reads, settings.writes
    d_in, d_out = (tuple(map(beginning.width, hooks)) for hooks in (reads, writes))
    d_sae = settings.features(max(d_in))
    k, among = getattr(settings.activation, "k", 0), settings.counted(d_sae)
    if k > among:  # with `expansion`, known only now
        raise ConfigError(
            field="dictionary.activation.k", found=k, expected=f"at most d_sae = {among}"
        )
    scales = {
        hook: measured(hook, settings.scale_of(hook), beginning.moments[hook], beginning.excluded)
        for hook in dict.fromkeys((*reads, *writes))
    }
    versions = manifests.library_versions()
    kind = ACTIVATION_FUNCTIONS[settings.activation.kind]
    config = DictionaryConfig(
        family=settings.family,
        d_in=d_in,
        d_out=d_out,
        d_sae=d_sae,
        dtype=settings.dtype,
        hookpoints_in=reads,
        hookpoints_out=writes,
        options=Options(**settings.parts()),
        semantics=Semantics(
            subtract_b_dec=settings.subtracts,
            gate_on_decoder_norm=settings.gated_on_lengths,
            decoder_norm=settings.decoder_norm,
            activation=settings.activation,
            inference=kind.inference(),
            head_norm=settings.norm_of_heads,
            l0_scope=settings.l0_scope,
            firing=kind.firing,
        ),
        scale={hook: scale.record for hook, scale in scales.items()},
        model=None,
        train=None,
        parents=(),
        versions={name: versions[name] for name in ("saestore", "torch")},
    )
    return config, scales


class Start:
    """What one dictionary starts from, whatever its decoder is.

    Attributes:
        bias: Decoder bias, hookpoints side by side.
    """

    def __init__(
        self,
        settings: LinearSettings,
        beginning: Beginning,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
    ) -> None:
        """Measure what is measured.

        Raises:
            ConfigError: An option asks for more than the sample holds.
        """
        self.settings, self.init = settings, beginning.init
        self.d_sae = config.features
        self.reads, self.writes = sides_of(config)
        self._rows: dict[str, Tensor] | None = None
        if beginning.sample is not None:
            self._rows = {
                hook: scale.normalise(beginning.sample[hook].double())
                for hook, scale in scales.items()
            }
        self.bias = np.concatenate(
            [self._decoder_bias(beginning, hook, scales[hook]) for hook in self.writes.hookpoints]
        )

    def rows(self, sides: Sides) -> Float64[np.ndarray, "row d"]:
        """Return the sample at some hookpoints, normalised, side by side."""
        if self._rows is None:
            raise unsampled()
        return sides.joined(self._rows).numpy()

    def raw(self, beginning: Beginning, hookpoint: str) -> Float64[np.ndarray, "row d"]:
        """Return the sample at a hookpoint in raw units."""
        if beginning.sample is None:
            raise unsampled()
        return beginning.sample[hookpoint].double().numpy()

    def owned(self, encoder: Float64[np.ndarray, "feature d"]) -> Tensors:
        """Return encoder bias and parameters of the activation function for an encoder."""
        return self.moved(self.shift(encoder, self.reads))

    def moved(self, shift: Float64[np.ndarray, " feature"] | None) -> Tensors:
        """Return encoder bias and parameters of the activation function, with what `shift` found."""
        settings = self.settings
        kind = ACTIVATION_FUNCTIONS[settings.activation.kind]
        own = {
            kind.bias_name: torch.zeros(self.d_sae, dtype=torch.float64),
            **kind.start(settings.activation, self.d_sae, self.init),
        }
        if shift is None:
            return own
        ones = torch.ones(self.d_sae, dtype=torch.float64)
        return kind.rewritten(own, shift=torch.from_numpy(shift), values=ones, gate=ones)

    def _decoder_bias(
        self, beginning: Beginning, hookpoint: str, scale: Scale
    ) -> Float64[np.ndarray, " d"]:
        """Return where a hookpoint's reconstructions start from."""
        kind, moments = self.init.decoder_bias, beginning.moments[hookpoint]
        if kind == "geometric_median":
            return initial.geometric_median(self.rows(Sides((hookpoint,), (len(moments.mean),))))
        if kind == "mean" and scale.mean is None:
            return np.asarray(moments.mean * scale.record.a, np.float64)
        return np.zeros(len(moments.mean))

    def shift(
        self, encoder: Float64[np.ndarray, "feature d"], reads: Sides
    ) -> Float64[np.ndarray, " feature"] | None:
        """Return what is to be taken off the bias of an encoder that reads some hookpoints."""
        init = self.init
        if not init.center_encoder_bias and init.firing_rate is None:
            return None
        rows = self.rows(reads)
        read = rows - self.bias if self.settings.subtracts else rows
        if init.firing_rate is None:
            return np.asarray(encoder @ read.mean(axis=0), np.float64)
        found = np.empty(len(encoder))
        step = max(1, (1 << 24) // len(read))
        for start in range(0, len(encoder), step):  # all at once may be more than memory holds
            scores = read @ encoder[start : start + step].T
            found[start : start + step] = np.quantile(scores, 1 - init.firing_rate, axis=0)
        return found


class DecoderStart(Start):
    """The weights that a linear dictionary starts from, but for the length of its decoder vectors."""

    def __init__(
        self,
        settings: LinearSettings,
        beginning: Beginning,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
    ) -> None:
        """Draw what is random, and measure what is measured.

        Raises:
            ConfigError: An option asks for more than the sample holds.
        """
        super().__init__(settings, beginning, config, scales)
        self.tied = self.init.tied(settings)
        host = beginning.host_as(HostMlp)
        self._encoder: Float64[np.ndarray, "feature d"] | None = None
        if host is None:
            vectors = self._vectors(beginning)
            self._decoder = self._in_subspace(vectors, placed=self.init.data_points)
            if not self.tied:
                self._encoder = self._drawn(beginning)
        else:
            self._encoder = self._drawn(beginning)
            vectors = self._answers(beginning, host, initial.unit(self._encoder))
            self._decoder = self._in_subspace(vectors, placed=True)

    def tensors(self, length: float) -> Tensors:
        """Return all weights, with decoder vectors times a length."""
        init, settings = self.init, self.settings
        decoder = _times(self._decoder, length)
        encoder = _times(decoder, init.tie_factor) if self._encoder is None else self._encoder
        found = {"W_enc": torch.from_numpy(encoder.T), "W_dec": torch.from_numpy(decoder)}
        found |= {"b_dec": torch.from_numpy(self.bias), **self.owned(encoder)}
        if settings.parts().get("glu"):
            found["W_glu"] = torch.zeros(found["W_enc"].shape)
            found["b_glu"] = torch.zeros(self.d_sae)
        if settings.parts().get("skip"):
            found["W_skip"] = torch.zeros(self.reads.width, self.writes.width)
        found = {name: tensor.contiguous() for name, tensor in found.items()}
        return precision.rounded(found, settings.dtype)

    def length(self, made: Callable[[Tensors], SparseDictionary]) -> float:
        """Return how long decoder vectors shall be.

        Args:
            made: Makes the dictionary of some weights.
        """
        init = self.init
        if not init.search_decoder_norm:
            return 1.0 if init.decoder_bound is not None else init.decoder_vector_norm
        kind = precision.wide(getattr(torch, self.settings.dtype))
        read, wanted = (
            torch.from_numpy(self.rows(sides)[:SEARCH_ROWS]).to(kind)
            for sides in (self.reads, self.writes)
        )

        def error(length: float) -> float:
            with torch.no_grad():
                output = made(self.tensors(length))(self.reads.split(read))
                found = self.writes.joined(output.reconstruction)
                return float((found - wanted).double().square().sum())

        return initial.best_length(error)

    def _vectors(self, beginning: Beginning) -> Float64[np.ndarray, "feature d"]:
        """Return decoder vectors of length 1 at each hookpoint, or of data or bounds.

        Data points have length 1 at all hookpoints together.
        """
        init, rng, writes = self.init, beginning.rng, self.writes
        if init.decoder_bound is not None:
            shape = (self.d_sae, writes.width)
            return rng.uniform(-init.decoder_bound, init.decoder_bound, shape)
        if init.data_points:
            rows = self.rows(writes)
            return initial.data_points(rows, self.d_sae, noise=init.data_noise, rng=rng)
        return self._directions(beginning)

    def _answers(
        self, beginning: Beginning, host: HostMlp, directions: Float64[np.ndarray, "feature d_in"]
    ) -> Float64[np.ndarray, "feature d_out"]:
        """Return what the host writes when the mean row goes along each direction, over the mean of these.

        Raises:
            ConfigError: It has another shape, or writes the same along all of them.
        """
        (reads,), (width,) = self.reads.hookpoints, self.writes.widths
        mean = np.asarray(beginning.moments[reads].mean, np.float64)
        away = np.linalg.norm(self.raw(beginning, reads) - mean, axis=1).mean()
        kind = precision.wide(getattr(torch, self.settings.dtype))
        found = host.respond(torch.from_numpy(mean + directions * away).to(kind))
        if found.shape != (self.d_sae, width):
            raise ConfigError(
                field="host",
                found=f"an MLP that answers {len(directions)} rows with {list(found.shape)}",
                expected=f"rows of width {width}, that of {self.writes.hookpoints[0]}",
            )
        answers = found.double().numpy()
        answers = answers - answers.mean(axis=0)
        if not (np.linalg.norm(answers, axis=1) > 0).all():
            raise ConfigError(
                field="init.from_host",
                found="an MLP that writes the same whatever it reads",
                expected="one that answers each feature's encoder vector in its own way",
                hint="remove init.from_host",
            )
        return initial.unit(answers)

    def _directions(self, beginning: Beginning) -> Float64[np.ndarray, "feature d"]:
        """Return random directions at each hookpoint; the same ones, if heads are to start equal."""
        widths = self.writes.widths
        if self.init.repeat_heads and len(set(widths)) == 1:
            return np.tile(beginning.directions(self.d_sae, widths[0], 1.0), len(widths))
        return np.concatenate([beginning.directions(self.d_sae, w, 1.0) for w in widths], axis=1)

    def _in_subspace(
        self, vectors: Float64[np.ndarray, "feature d"], *, placed: bool
    ) -> Float64[np.ndarray, "feature d"]:
        """Return vectors in the directions in which each hookpoint's rows vary most, if so set.

        Args:
            vectors: Those of each hookpoint, side by side.
            placed: Whether they say where in the subspace they lie; otherwise they are drawn in it.
        """
        rank = self.init.active_subspace
        if rank is None:
            return vectors
        parts = []
        for hook, part in self.writes.split(torch.from_numpy(vectors)).items():
            rows = self.rows(Sides((hook,), (part.shape[1],)))
            directions = initial.active_subspace(rows, rank)
            here = part.numpy() @ directions if placed else part.numpy()[:, :rank]
            parts.append(here @ directions.T)
        if not placed and self.init.decoder_bound is None:
            parts = [initial.unit(part) for part in parts]
        joined = np.concatenate(parts, axis=1)
        return initial.unit(joined) if placed else joined

    def _drawn(self, beginning: Beginning) -> Float64[np.ndarray, "feature d"]:
        """Return encoder vectors that have nothing to do with the decoder's."""
        bound, width = self.init.encoder_bound, self.reads.width
        if bound is None:
            return beginning.directions(self.d_sae, width, 1.0)
        return beginning.rng.uniform(-bound, bound, (self.d_sae, width))


def unsampled() -> ConfigError:
    """Return the error of a start that measures something, and has nothing to measure it on."""
    return ConfigError(
        field="init",
        found="no sample of rows",
        expected="one: these options measure something",
        hint="give build() a sample, or train on a store",
    )


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
    return dict(source.scales), precision.rounded(source.tensors(), expected.dtype)


def _meaning(config: DictionaryConfig) -> dict[str, object]:
    """Return what must be equal for weights to be taken over."""
    found: dict[str, object] = {"d_sae": config.d_sae}
    found |= {"hookpoint": config.hookpoints_in, "d_in": config.d_in}
    found |= {"options": config.options.model_dump()}
    semantics = config.semantics.model_dump(exclude={"inference"})
    found |= {f"semantics.{key}": value for key, value in semantics.items()}
    for hook, record in config.scale.items():
        folded = record.state == "folded"
        found[f"scale of {hook}"] = "none" if folded else record.kind
    return found
