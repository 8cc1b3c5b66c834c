"""Matryoshka: prefixes of the features reconstruct by themselves.

    Σ_g w_g · mean over rows of ‖x' − (f[:m_g] W_dec[:m_g] + b_dec)‖²        Σ_g w_g = 1

One code for all prefixes m_1 < … < m_G = d_sae. The weights add up to 1, so that learning rate and
AuxK's weight do not depend on G. (SAELens sums: G times this. dictionary_learning divides by G once
more, unless its group_weights are 1.) Early features become general, late ones special, which helps
against absorption; the reconstruction of all features gets slightly worse.

Sampled prefixes are a function of seed and step: G − 1 draws from a Pareto distribution cut off at
d_sae, and d_sae itself.

Source: Bussmann et al. 2025 (arXiv:2503.17547); sampling, Nabeshima 2024, "Matryoshka SAEs".
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saestore.errors import ConfigError
from saestore.train.objectives.base import Pass
from saestore.train.objectives.errors import summed_error
from saestore_schemas.objective import MatryoshkaSettings


PARETO = 0.5
"""Exponent of the distribution of sampled prefixes."""

Prefixes = list[tuple[int, float]]
"""Widths, ascending, and weights, which add up to 1."""


class Matryoshka:
    """Squared error of several prefixes."""

    name = "mse"

    def __init__(self, settings: MatryoshkaSettings, d_sae: int, seed: int) -> None:
        """Take settings.

        Args:
            settings: Which prefixes.
            d_sae: Features of the dictionary.
            seed: Of sampled prefixes.

        Raises:
            ConfigError: The prefixes do not fit the dictionary.
        """
        self.settings = settings
        self.d_sae = d_sae
        self.seed = seed
        self._fixed = None if settings.sampled is not None else fixed(settings, d_sae)

    def prefixes(self, step: int) -> Prefixes:
        """Return the prefixes of a step."""
        if self._fixed is None:
            return sampled(self.settings.sampled or 1, self.d_sae, seed=self.seed, step=step)
        return self._fixed

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term; each feature is decoded once for all prefixes but the last."""
        *inner, (_, weight) = self.prefixes(seen.step)
        total = summed_error(seen.output.reconstruction, seen.targets) * weight
        start, partial = 0, seen.dictionary.without_features(seen.inputs)
        for stop, weight in inner:
            added = seen.dictionary.decode_between(seen.output.code, seen.inputs, start, stop)
            partial = {hook: bias + added[hook] for hook, bias in partial.items()}
            total = total + summed_error(partial, seen.targets) * weight
            start = stop
        return total

    def weight(self, step: int) -> float:
        """Return 1, the sum of the prefixes' weights."""
        del step
        return 1.0


def fixed(settings: MatryoshkaSettings, d_sae: int) -> Prefixes:
    """Return prefixes of given widths or shares.

    Raises:
        ConfigError: They do not end with all features, or one of them adds none.
    """
    widths = settings.widths
    if widths is None:
        ends = np.cumsum(settings.shares or (1.0,))
        widths = (*(round(share * d_sae) for share in ends[:-1].tolist()), d_sae)
    if widths[-1] != d_sae:
        raise ConfigError(
            field="loss.matryoshka.widths", found=widths[-1], expected=f"d_sae = {d_sae} at the end"
        )
    if len(set(widths)) < len(widths) or widths[0] < 1:
        raise ConfigError(
            field="loss.matryoshka.shares",
            found=f"prefixes {list(widths)}",
            expected="at least one more feature in each",
            hint="use fewer prefixes, or a larger d_sae",
        )
    weights = np.array(settings.weights or [1.0] * len(widths))
    return list(zip(widths, (weights / weights.sum()).tolist(), strict=True))


def sampled(count: int, d_sae: int, *, seed: int, step: int) -> Prefixes:
    """Return prefixes of a step; one that is drawn twice weighs double.

    Args:
        count: How many, all features among them.
        d_sae: Features of the dictionary.
        seed: Of the run.
        step: From 0.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, step, *b"prefixes"]))
    u = rng.random(count - 1)
    drawn = np.ceil((1 - u * (1 - d_sae**-PARETO)) ** (-1 / PARETO))
    widths, often = np.unique([*drawn.clip(1, d_sae).astype(int), d_sae], return_counts=True)
    return list(zip(widths.tolist(), (often / count).tolist(), strict=True))
