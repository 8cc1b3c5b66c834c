"""Which features to show first: a stated rule, never a choice by hand."""

from saestore.features.analysis import Analysis
from saestore.features.page import FeaturePage


RULE = ""
"""The rule of `features_about_something`, in one sentence."""


def features_about_something(analysis: Analysis, n: int) -> tuple[FeaturePage, ...]:
    """Return the pages of up to `n` features chosen by `RULE`, best first; deterministic."""
    return tuple(analysis.feature(i) for i in range(min(n, 0)))
