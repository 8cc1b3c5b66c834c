"""What llamascopium's files of all families say that map one hookpoint's rows to another's.

Weights that do not contain the normalisation are folded while they are read, by the family.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saestore.exchange.dictionaries import llamascopium_fold as fold
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.foreign import Asked, Foreign, Meaning
from saestore.exchange.dictionaries.llamascopium_activation import Activation
from saestore.exchange.dictionaries.reference import Compute


@dataclass(frozen=True)
class Transcoding:
    """What such a config says, whatever its family.

    Attributes:
        family: Which equations apply.
        config: The config.
        weights: The weights.
        activation: The activation function.
        hooks: What it reads and what it reconstructs, as the files spell them.
        factors: By what rows of both are multiplied outside of the weights.
        decided: Who says so.
    """

    family: str
    config: Config
    weights: Weights
    activation: Activation
    hooks: tuple[str, str]
    factors: tuple[float, float]
    decided: str

    @classmethod
    def of(
        cls, family: str, config: Config, weights: Weights, asked: Asked, width: int
    ) -> "Transcoding":
        """Return what a config says.

        Raises:
            ConfigError: Nothing says whether the weights contain the normalisation, or a factor is missing.
            UnsupportedError: It has an activation function or a normalisation without a counterpart here.
        """
        activation = Activation.of(config, family)
        hooks = config.get("hook_point_in", str), config.get("hook_point_out", str)
        a, c, decided = fold.pair(config, weights, asked, hooks, width)
        return cls(family, config, weights, activation, hooks, (a, c), decided)

    def foreign(
        self,
        tensors: Mapping[str, Tensor],
        compute: Compute,
        *,
        known: frozenset[str],
        decided: Sequence[str] = (),
        widths: tuple[int, int, int] | None = None,
        **meaning: Any,
    ) -> Foreign:
        """Return the dictionary.

        Args:
            tensors: Folded weights by the names of our file format.
            compute: What the tool computes from the files.
            known: Keys of the config that are understood.
            decided: What else was decided while reading, for people.
            widths: As in `Foreign`.
            meaning: What else the numbers mean, as in `Meaning`.
        """
        activation, weights = self.activation, self.weights
        return Foreign(
            architecture=f"{self.family}, {activation.kind}",
            version=None,
            files=(self.config.path, weights.path),
            hookpoint=self.hooks[0],
            model=None,
            meaning=Meaning(
                activation.settings,
                subtract_b_dec=False,
                gate_on_decoder_norm=activation.gate_on_norm,
                **meaning,
            ),
            tensors=tensors,
            compute=compute,
            decided=(*weights.notes, self.decided, *decided),
            inexact=self.config.unknown(known),
            uncalibrated=weights.path if activation.kind == "batchtopk" else None,
            transcodes=True,
            hookpoint_out=self.hooks[1],
            family=self.family,
            widths=widths,
        )
