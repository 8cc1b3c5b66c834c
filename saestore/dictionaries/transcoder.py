"""Transcoder: reconstructs another hookpoint than it reads, such as an MLP's output from its input.

    ŷ' = f W_dec + b_dec (+ x' W_skip)

See `linear` for the rest; n_i = ‖W_dec[i]‖. Weights: those of an SAE, with W_dec (d_sae, d_out), and
W_skip (d_in, d_out) with a skip. Input and output have a normalisation each, and nothing is subtracted
before encoding.

Source: Dunefsky et al. 2024 (arXiv:2406.11944); the skip, Paulo et al. 2025 (arXiv:2501.18823).
"""

from typing import ClassVar

from saestore.dictionaries.sae import Sae


class Transcoder(Sae):
    """A transcoder, with a skip or without."""

    family: ClassVar[str] = "transcoder"
