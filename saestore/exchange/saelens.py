"""SAELens: `cfg.json` and `sae_weights.safetensors`, as sae-lens 6.54 reads them."""

import os
from typing import TYPE_CHECKING

from saestore.exchange.report import ExportReport


if TYPE_CHECKING:
    from saestore.activations import ActivationStore
    from saestore.dictionaries import SparseDictionary


def export_saelens(
    dictionary: "SparseDictionary",
    folder: str | os.PathLike[str],
    *,
    store: "ActivationStore | None" = None,
) -> ExportReport:
    """Write a dictionary as SAELens reads it, and measure how exactly.

    Args:
        dictionary: Any dictionary whose codes SAELens can compute.
        folder: Where to write; made if it is not there.
        store: The store it was trained on: its rows are measured too, and its settings fill in
            the metadata.

    Raises:
        UnsupportedError: SAELens has no exact counterpart, and why.
    """
    raise AssertionError(dictionary, folder, store)
