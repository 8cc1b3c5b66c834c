"""What collectors may ask beside the firings they are given."""

from dataclasses import dataclass, field

from saestore.analyze.joint import Sample
from saestore.analyze.logits import LogitHistogram
from saestore.analyze.negatives import Negatives
from saestore.analyze.scope import Scope
from saestore.analyze.weights import WeightFacts
from saestore_schemas.analyze import AnalyzeSettings


@dataclass(frozen=True)
class Known:
    """What is known of an analysis before features are collected.

    Attributes:
        settings: What to collect.
        scope: The rows analysed.
        weights: What the weights alone say about each feature.
        sample: Rows on which features are counted together; None if they are not.
        logits: Histograms of their logit scores; none if those were not asked for.
        negatives: What hard negatives are found with.
    """

    settings: AnalyzeSettings
    scope: Scope
    weights: WeightFacts
    sample: Sample | None = None
    logits: tuple[LogitHistogram, ...] = ()
    negatives: Negatives = field(default_factory=Negatives)
