"""How well answers agree with what is so: arrays in, numbers out; what is undefined is None, never NaN."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64


DECILES = 10
"""Parts of a feature's strength with equally many contexts each."""
_ENDS = (2.5, 97.5)
"""Percentiles between which 95 % of resamples lie."""
_ROUNDING = 1e-12
"""Share of a sum of squares that float64 cannot tell from none."""

Interval = tuple[float, float]
"""Lower and upper end."""


@dataclass(frozen=True)
class Judged:
    """What was told of some examples, and what is so.

    Attributes:
        label: Whether each is a positive.
        answer: Whether it was told to be one; of no meaning where nothing could be read.
        parsed: Whether an answer could be read.
        likelihood: How likely it was told to be one, on any scale.
    """

    label: Bool[np.ndarray, " example"]
    answer: Bool[np.ndarray, " example"]
    parsed: Bool[np.ndarray, " example"]
    likelihood: Float64[np.ndarray, " example"]

    @cached_property
    def counts(self) -> tuple[int, int, int, int]:
        """True positives, false positives, true negatives, false negatives, of what could be read."""
        told, known = self.answer[self.parsed], self.label[self.parsed]
        pairs = (told & known, told & ~known, ~told & ~known, ~told & known)
        tp, fp, tn, fn = (int(each.sum()) for each in pairs)
        return tp, fp, tn, fn

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean share of positives and of negatives told right, of what could be read."""
        tp, fp, tn, fn = self.counts
        return _mean_share(tp, tp + fn, tn, tn + fp)

    @property
    def balanced_accuracy_all(self) -> float | None:
        """The same of all examples: what could not be read is wrong."""
        tp, _, tn, _ = self.counts
        positives = int(self.label.sum())
        return _mean_share(tp, positives, tn, len(self.label) - positives)

    @property
    def precision(self) -> float | None:
        """Share of positives among what was told to be one."""
        tp, fp, _, _ = self.counts
        return _share(tp, tp + fp)

    @property
    def recall(self) -> float | None:
        """Share of positives that were told to be one."""
        tp, _, _, fn = self.counts
        return _share(tp, tp + fn)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        tp, fp, _, fn = self.counts
        return _share(2 * tp, 2 * tp + fp + fn)

    @property
    def auroc(self) -> float | None:
        """Share of pairs of a positive and a negative of which the positive was told to be the likelier."""
        known, told = self.label[self.parsed], self.likelihood[self.parsed]
        return auroc(told[known], told[~known])

    def of_strata(self, stratum: Int64[np.ndarray, " example"]) -> list["Judged"]:
        """Return the positives of each of ten strata, with all negatives.

        Args:
            stratum: Of each positive, from 0; of no meaning of negatives.
        """
        return [self._some(~self.label | (stratum == each)) for each in range(DECILES)]

    def _some(self, chosen: Bool[np.ndarray, " example"]) -> "Judged":
        return Judged(
            self.label[chosen], self.answer[chosen], self.parsed[chosen], self.likelihood[chosen]
        )


def auroc(
    positives: Float64[np.ndarray, " positive"], negatives: Float64[np.ndarray, " negative"]
) -> float | None:
    """Return the share of pairs of which the positive is larger, ties half; None without any pair.

    Source: Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    pairs = len(positives) * len(negatives)
    if not pairs:
        return None
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left").sum()
    not_above = np.searchsorted(ordered, positives, side="right").sum()
    return float(below + not_above) / 2 / pairs


def brier(
    probability: Float64[np.ndarray, " example"], label: Bool[np.ndarray, " example"]
) -> float | None:
    """Return the mean squared distance of probability and label; None without examples."""
    return float(np.mean((probability - label) ** 2)) if len(label) else None


def accuracy_interval(judged: Judged, *, resamples: int, seed: int) -> Interval | None:
    """Return the interval of balanced accuracy, examples that could be read drawn with replacement.

    Resamples without one of both kinds are left out.

    Args:
        judged: The answers.
        resamples: How many; 0, there is no interval.
        seed: Of the drawing.
    """
    known, told = judged.label[judged.parsed], judged.answer[judged.parsed]
    weight = _weights(len(known), resamples, seed)
    positives, negatives = weight @ known, weight @ ~known
    both = (positives > 0) & (negatives > 0)
    right = weight[both] @ (known & told) / positives[both]
    return _interval((right + weight[both] @ (~known & ~told) / negatives[both]) / 2)


def auroc_interval(judged: Judged, *, resamples: int, seed: int) -> Interval | None:
    """Return the interval of AUROC in the same way."""
    known, told = judged.label[judged.parsed], judged.likelihood[judged.parsed]
    weight = _weights(len(known), resamples, seed)
    positives, negatives = weight[:, known], weight[:, ~known]
    pairs = positives.sum(1) * negatives.sum(1)
    won = told[known][:, None] - told[~known][None, :]
    wins = ((positives @ ((np.sign(won) + 1) / 2)) * negatives).sum(1)
    return _interval(wins[pairs > 0] / pairs[pairs > 0])


@dataclass(frozen=True)
class Simulated:
    """Strengths told and true of the tokens of some examples.

    Attributes:
        told: Of each token.
        true: What is so.
        example: Which example it belongs to, any numbers.
    """

    told: Float64[np.ndarray, " position"]
    true: Float64[np.ndarray, " position"]
    example: Int64[np.ndarray, " position"]

    @property
    def constant(self) -> str | None:
        """Why there is no correlation, in words; None, there is one."""
        if not len(self.told):
            return "no answer could be read"
        if (self.told == self.told[0]).all():
            return "the strengths told are the same everywhere"
        if (self.true == self.true[0]).all():
            return "the true strengths are the same everywhere"
        return None

    @property
    def correlation(self) -> float | None:
        """Pearson's r over all tokens."""
        if self.constant is not None:
            return None
        return float(_pearson(self._sums.sum(0, keepdims=True))[0])

    def interval(self, *, resamples: int, seed: int) -> Interval | None:
        """Return the interval of `correlation`, examples drawn with replacement.

        Resamples in which either is constant are left out.
        """
        if self.constant is not None:
            return None
        sums = _weights(len(self._sums), resamples, seed) @ self._sums
        n, x, y, xx, yy, _ = sums.T
        # what is left of a constant is rounding
        varies = (xx - x * x / n > _ROUNDING * xx) & (yy - y * y / n > _ROUNDING * yy)
        return _interval(_pearson(sums[varies]))

    @cached_property
    def _sums(self) -> Float64[np.ndarray, "example moment"]:
        """Of each example: tokens, sums of both, of their squares, of their product; about their means."""
        _, example = np.unique(self.example, return_inverse=True)
        x, y = self.told - self.told.mean(), self.true - self.true.mean()
        moments = (np.ones_like(x), x, y, x * x, y * y, x * y)
        return np.stack([np.bincount(example, weights=each) for each in moments], axis=1)


def _pearson(sums: Float64[np.ndarray, "resample moment"]) -> Float64[np.ndarray, " resample"]:
    n, x, y, xx, yy, xy = sums.T
    r: Float64[np.ndarray, " resample"] = (xy - x * y / n) / np.sqrt(
        (xx - x * x / n) * (yy - y * y / n)
    )
    return r.clip(-1.0, 1.0)


def _weights(n: int, resamples: int, seed: int) -> Float64[np.ndarray, "resample example"]:
    """Return how often each of n examples is in each resample."""
    drawn = np.random.default_rng(seed).integers(0, max(n, 1), (resamples, n))
    places = drawn + np.arange(resamples)[:, None] * n
    counts = np.bincount(places.ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(np.float64)


def _interval(found: Float64[np.ndarray, " resample"]) -> Interval | None:
    if not len(found):
        return None
    low, high = np.percentile(found, _ENDS)
    return float(low), float(high)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean_share(tp: int, positives: int, tn: int, negatives: int) -> float | None:
    if not positives or not negatives:
        return None
    return (tp / positives + tn / negatives) / 2
