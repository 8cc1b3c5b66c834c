"""Ways of asking what a feature stands for: one file each, and one line in `REGISTRY`."""

from collections.abc import Callable, Mapping
from typing import Any

from saestore.interpret.explainers.answer import Explanation, read
from saestore.interpret.explainers.base import Explainer
from saestore.interpret.explainers.contrastive import Contrastive
from saestore.interpret.explainers.logits import Logits
from saestore.interpret.explainers.quantile import Quantile
from saestore.interpret.explainers.top import Top
from saestore.interpret.explainers.zpattern import ZPattern
from saestore_schemas.interpret import Explainer as ExplainerSettings


__all__ = ["REGISTRY", "Explainer", "Explanation", "explainer_of", "read"]

REGISTRY: Mapping[str, Callable[[Any], Explainer]] = {
    "contrastive": Contrastive,
    "logits": Logits,
    "quantile": Quantile,
    "top": Top,
    "zpattern": ZPattern,
}
"""What makes an explainer of its settings, by their kind."""


def explainer_of(settings: ExplainerSettings) -> Explainer:
    """Return the explainer that some settings describe."""
    return REGISTRY[settings.kind](settings)
