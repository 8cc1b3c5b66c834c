"""What explainers and scorers are shown of a feature: places in its contexts, and what stands there."""

from dataclasses import dataclass
from typing import Literal

from saestore.features import Example, FeaturePage


Negative = Literal["silent", "near", "same_token"]
"""Why a context is shown in which a feature does not fire: drawn at random, because a feature like it
fires there, or because the token that it fires on most often stands there."""


@dataclass(frozen=True)
class Pick:
    """One place to be shown.

    Attributes:
        context: Its context.
        position: The token at the centre: where the feature is strongest, or, of a negative, the token
            for whose sake it is shown.
        stratum: Of a positive drawn by strata, which one, 0 weakest; else None.
        negative: Why it is shown although the feature does not fire there; None, it does.
    """

    context: int
    position: int
    stratum: int | None = None
    negative: Negative | None = None


@dataclass(frozen=True)
class Snippet:
    """One place with its text.

    Attributes:
        pick: The place.
        example: The tokens around it, each with the feature's value there.
    """

    pick: Pick
    example: Example


@dataclass(frozen=True)
class Evidence:
    """All that one prompt may show of a feature.

    Attributes:
        page: The feature's page: statistics, logits, tokens at, before and after its firings; its examples
            where they are asked for.
        snippets: The places that were picked, in that order.
    """

    page: FeaturePage
    snippets: tuple[Snippet, ...]

    @property
    def maximum(self) -> float:
        """Its largest strength in the whole analysis."""
        return float(self.page.statistics["max"] or 0.0)
