"""Words by which features are found: an inverted index of their tokens, and what people wrote of them.

    query "sun fl"  finds  features with a word that begins with "sun" and a word that begins with "fl"

Deterministic, with no ranking and no stemming. Text is compared in Unicode's compatible form (NFKC), case
folded. A word is a run of letters, digits and underscores, or a run of other visible characters, so that
features of punctuation are found too.

Price: every distinct word of the tokens and four bytes for each feature that has it, in memory.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from saestore.features.annotations import AnnotationLog, events_of
from saestore_schemas.annotations import AnnotationField


Texts = Mapping[int, Sequence[str]]
"""What people wrote about features, by feature: names, descriptions, tags, interpretations."""

SEARCHED: tuple[AnnotationField, ...] = (
    "name", "description", "interpretation", "examples", "notes", "tag",
)  # fmt: skip
"""What people wrote that a search looks at: all of it that is text."""

_WORD = re.compile(r"\w+|[^\w\s]+")
_LAST = chr(0x10FFFF)
"""Sorts behind every other character."""


def words(text: str) -> tuple[str, ...]:
    """Return the distinct words of a text, in their order.

    >>> words("The SUN, the ﬂare…")
    ('the', 'sun', ',', 'flare', '...')
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return tuple(dict.fromkeys(_WORD.findall(unicodedata.normalize("NFKC", plain))))


_remembered = lru_cache(maxsize=1 << 16)(words)


@dataclass(frozen=True)
class WordIndex:
    """Which features have which words.

    Attributes:
        words: Distinct words, ascending by code point.
        starts: Where the features of each word begin, and where the last ones end.
        features: Features of each word, ascending, one word after the other.
        n_features: Features there are.
    """

    words: Sequence[str]
    starts: Int64[np.ndarray, " _"]
    features: UInt32[np.ndarray, " _"]
    n_features: int

    @classmethod
    def of(
        cls,
        features: Int64[np.ndarray, " pair"],
        tokens: Int64[np.ndarray, " pair"],
        texts_of: Callable[[Int64[np.ndarray, " _"]], Sequence[str]],
        n_features: int,
    ) -> "WordIndex":
        """Return the index of features that have tokens.

        Args:
            features: Feature of each pair.
            tokens: Token of each pair.
            texts_of: Returns the texts of some tokens.
            n_features: Features there are.
        """
        ids, place = np.unique(tokens, return_inverse=True)
        of_token = [words(text) for text in texts_of(ids)]
        distinct = sorted({word for each in of_token for word in each})
        number = {word: n for n, word in enumerate(distinct)}
        most = max(map(len, of_token), default=0)
        keys = [np.empty(0, dtype=np.int64)]
        for nth in range(most):
            at = [number[each[nth]] if nth < len(each) else -1 for each in of_token]
            word = np.array(at, dtype=np.int64)[place]
            keys.append((word * n_features + features)[word >= 0])
        pairs = np.concatenate(keys)
        pairs.sort()  # np.unique hashes: ten times slower on millions of different ones
        pairs = pairs[np.flatnonzero(np.diff(pairs, prepend=-1))]
        edges = np.arange(len(distinct) + 1, dtype=np.int64) * n_features
        starts = np.searchsorted(pairs, edges).astype(np.int64)
        return cls(distinct, starts, (pairs % max(1, n_features)).astype(np.uint32), n_features)

    def beginning(self, prefix: str) -> UInt32[np.ndarray, " _"]:
        """Return the features with a word that begins so; one may come several times."""
        first = bisect_left(self.words, prefix)
        behind = bisect_left(self.words, prefix + _LAST)
        return self.features[self.starts[first] : self.starts[behind]]

    def matching(
        self, query: str, texts: Texts | None = None, beside: "WordIndex | None" = None
    ) -> Bool[np.ndarray, " d_sae"]:
        """Return which features have, for each word of a query, a word that begins with it.

        Args:
            query: Words; none match all features.
            texts: What people wrote about features.
            beside: Words of the same features that count too.
        """
        found = np.ones(self.n_features, dtype=np.bool_)
        for prefix in words(query):
            has = np.zeros(self.n_features, dtype=np.bool_)
            has[self.beginning(prefix)] = True
            if beside is not None:
                has[beside.beginning(prefix)] = True
            has[written(prefix, texts or {})] = True
            found &= has
        return found

    def of_features(self, features: Sequence[int]) -> dict[int, list[str]]:
        """Return the words of some features, ascending."""
        starts, which = self._by_feature
        wanted = np.unique(np.asarray(features, dtype=np.int64)).tolist()
        return {
            feature: [
                self.words[at] for at in which[starts[feature] : starts[feature + 1]].tolist()
            ]
            for feature in wanted
        }

    @cached_property
    def _by_feature(self) -> tuple[Int64[np.ndarray, " _"], UInt32[np.ndarray, " _"]]:
        """Where the words of each feature begin, and where the last ones end; the words, by number."""
        word = np.repeat(np.arange(len(self.words), dtype=np.uint32), np.diff(self.starts))
        which: UInt32[np.ndarray, " _"] = word[np.argsort(self.features, kind="stable")]
        counts = np.bincount(self.features, minlength=self.n_features)
        return np.concatenate([[0], np.cumsum(counts)]), which


def written(prefix: str, texts: Texts) -> list[int]:
    """Return the features of which people wrote a word that begins so."""
    return [feature for feature, each in texts.items() if _any(prefix, each)]


def _any(prefix: str, texts: Iterable[str]) -> bool:
    return any(word.startswith(prefix) for text in texts for word in _remembered(text))


def texts_of(log: AnnotationLog) -> Texts:
    """Return what people say now of the features of an analysis.

    Raises:
        DamagedArtefactError: A file of the log does not match its manifest.
    """
    found: dict[int, list[str]] = {}
    for event in events_of(log.current().to_pylist()):
        if event.field in SEARCHED:
            texts = event.value if isinstance(event.value, list) else [event.value]
            found.setdefault(event.feature, []).extend(map(str, texts))
    return found
