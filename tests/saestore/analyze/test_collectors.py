import numpy as np
import pytest

from saestore.analyze.collectors import COLLECTORS, Examples, Histograms, Statistics
from saestore.analyze.weights import WeightFacts
from saestore.testing.collectors import CollectorContract
from saestore_schemas import tables
from saestore_schemas.analyze import (
    AnalyzeSettings,
    IntervalSubsample,
    ProportionSubsample,
    QuantileSubsample,
    SilentSubsample,
    TopSubsample,
    UniformSubsample,
)


def weights(features):
    ones = np.linspace(0.5, 2, features, dtype=np.float32)
    cosine = ones.copy()
    cosine[::3] = np.nan
    return WeightFacts(ones, ones * 2, cosine, -ones, threshold=None)


class TestStatistics(CollectorContract):
    def make(self, scope, *, features):
        return Statistics(scope, weights(features))

    def described(self):
        return tables.FEATURES


class TestHistograms(CollectorContract):
    def make(self, scope, *, features):
        del features
        return Histograms(scope)

    def described(self):
        return tables.HISTOGRAMS


class TestExamples(CollectorContract):
    def make(self, scope, *, features):
        del features
        return Examples(
            scope,
            {
                "top": TopSubsample(n=3, window=4),
                "parts": QuantileSubsample(q=3, n=2, window=5),
                "any": UniformSubsample(n=4, window=None),
                "off": SilentSubsample(n=5, window=2),
                "weak": ProportionSubsample(p=0.3, n=9, include_silent=True),
                "ranges": IntervalSubsample(q=4, n=2),
            },
        )

    def described(self):
        return tables.EXAMPLES


@pytest.mark.parametrize("name", COLLECTORS)
def test_the_registry_names_tables(name):
    assert name in {table.name for table in tables.TABLES}


def test_thresholds_and_undefined_cosines_are_null_or_themselves():
    facts = WeightFacts(*[np.ones(4, np.float32)] * 4, threshold=np.arange(4, dtype=np.float32))
    assert facts.columns(1, 2)["threshold"].to_pylist() == [1, 2]
    assert weights(4).columns(0, 4)["enc_dec_cos"].to_pylist()[0] is None
    assert weights(4).columns(0, 4)["threshold"].to_pylist() == [None] * 4
    assert AnalyzeSettings(dictionary="a/b").memory_mib
