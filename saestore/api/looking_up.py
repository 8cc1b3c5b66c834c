"""From a text to features and from a feature to texts, in a lake and in texts that are given."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from saestore.api.machine import OnMachine
from saestore.errors import ConfigError
from saestore.lake import Lake
from saestore.progress import Progress, Silent


if TYPE_CHECKING:
    import pyarrow as pa

    from saestore.analyze import LiveDictionary
    from saestore.features import Analysis, Highlight, Passages

Named: TypeAlias = "str | LiveDictionary"
"""A dictionary that was analysed, `series/name` or `series/name/analysis`; or one that is loaded."""

_WINDOW = 64
"""Tokens around a peak, as examples have them by default."""


class LookingUp(OnMachine):
    """Look-ups in a lake.

    Attributes:
        lake: The lake.
    """

    lake: Lake

    def live(
        self,
        dictionary: str,
        *,
        lm: str | Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> "LiveDictionary":
        """Load an analysed dictionary with its language model, to ask about many texts.

        Args:
            dictionary: `series/name`, or `series/name/analysis` where there are several.
            lm: Name or directory of the language model, if it is not where the store says; of heads in
                several models, by the name of a head.
            progress: Where to report.

        Raises:
            ArtefactNotFoundError: There is no such dictionary, or no analysis of it yet.
            ConfigError: There is no such language model, or nobody said which it is.
            MissingExtraError: torch or TransformerLens is not installed.
        """
        from saestore.analyze import LiveDictionary

        self._use_threads()
        return LiveDictionary.load(
            self.lake, dictionary, lm=lm, device=self.device, progress=progress or Silent()
        )

    def features_for_text(
        self,
        dictionary: Named,
        text: str | Sequence[str],
        k: int | None = 10,
        *,
        by_token: bool = False,
        compat: Literal["mlxterp"] | None = None,
        progress: Progress | None = None,
    ) -> "pa.Table":
        """Return the features that fire in texts, strongest first: the live model, the analysis's rules.

        Per feature the largest value over the positions that the analysis keeps, and the first place of
        it: text, feature, value, context, position, token, n (tokens it fires on). `context` counts the
        contexts of a text that is longer than one.

        Args:
            dictionary: Which; one from `live` keeps the language model from being loaded again.
            text: One text or several.
            k: At most so many features of a text, or of a token; None, all.
            by_token: List the features of each token instead.
            compat: `mlxterp`: as mlxterp lists them, BOS kept and of equal values the larger id first.
            progress: Where to report.

        Raises:
            ConfigError: A text is empty.
            SaestoreError: See `live`.
        """
        passages = self._encoded(dictionary, text, masked=compat is None, progress=progress)
        if by_token:
            return passages.at_tokens(k)
        return passages.strongest(k, ties="smaller" if compat is None else "larger")

    def features_of_contexts(
        self,
        dictionary: Named,
        contexts: Sequence[int],
        k: int | None = 10,
        *,
        by_token: bool = False,
    ) -> "pa.Table":
        """Return what `features_for_text` does of stored contexts, from the lake alone.

        Args:
            dictionary: Which.
            contexts: Their numbers.
            k: At most so many features of a context, or of a token; None, all.
            by_token: List the features of each token instead.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            QueryError: It has no such context.
        """
        passages = self._analysis(dictionary).passages(contexts)
        return passages.at_tokens(k) if by_token else passages.strongest(k)

    def texts_for_feature(
        self,
        dictionary: Named,
        feature: int,
        k: int = 10,
        *,
        texts: str | Sequence[str] | None = None,
        window: int | None = _WINDOW,
        progress: Progress | None = None,
    ) -> "pa.Table":
        """Return the texts in which a feature is strongest: from the lake alone, or among texts given.

        One line of each: text (its number; null of the lake's), context, value, position (the first
        with that value), token, document_id, window_start, window. Texts where it is silent are left out.

        Args:
            dictionary: Which; one from `live` keeps the language model from being loaded again.
            feature: Which feature.
            k: At most so many.
            texts: Texts to look in, with the live model; absent, all contexts of the analysis, without.
            window: Tokens shown around the peak; None, the whole context.
            progress: Where to report.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            SaestoreError: Without texts, of the lake; with them see also `live`.
        """
        found = self.texts(dictionary, feature, k, texts=texts, window=window, progress=progress)
        return found.table()

    def texts(
        self,
        dictionary: Named,
        feature: int,
        k: int = 10,
        *,
        texts: str | Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        window: int | None = _WINDOW,
        progress: Progress | None = None,
    ) -> "Highlight":
        """Return what `texts_for_feature` finds, token by token, to be drawn.

        Args:
            dictionary: As there.
            feature: As there.
            k: As there.
            texts: As there.
            names: What each text is called.
            window: As there.
            progress: As there.

        Raises:
            SaestoreError: As there.
        """
        from saestore.features import texts_of

        analysis = self._analysis(dictionary)
        analysis.check(feature)  # before a language model is loaded
        passages = None
        if texts is not None:
            passages = self._encoded(
                dictionary, texts, names=names, features=[feature], progress=progress
            )
        return texts_of(analysis, feature, k, width=window, passages=passages)

    def highlight(
        self,
        dictionary: Named,
        text: str | Sequence[str] | None = None,
        features: Sequence[int] | None = None,
        *,
        contexts: Sequence[int] | None = None,
        k: int = 5,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> "tuple[Highlight, ...]":
        """Return whole texts under features, token by token, to be drawn: one answer a feature.

        Args:
            dictionary: Which; one from `live` keeps the language model from being loaded again.
            text: One text or several, by the live model.
            features: Which features; absent, the k that are strongest in any of the texts.
            contexts: Stored contexts instead of texts, by number, from the lake alone.
            k: How many, if none are chosen.
            names: What each text is called.
            progress: Where to report.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            ConfigError: Texts and contexts are given, or neither; or a text is empty.
            SaestoreError: See `live`.
        """
        from saestore.features import whole

        analysis = self._analysis(dictionary)
        for each in features or ():
            analysis.check(each)  # before a language model is loaded
        passages = self._passages(dictionary, text, contexts, names=names, progress=progress)
        chosen = passages.leading(k) if features is None else list(features)
        return whole(analysis, chosen, passages)

    def write_highlights(
        self, found: "Highlight | Sequence[Highlight]", to: str | os.PathLike[str]
    ) -> Path:
        """Write what `texts` or `highlight` found as one HTML page; return its file.

        Args:
            found: It.
            to: A file that ends in `.html`; one that is there is replaced.

        Raises:
            ConfigError: The name ends in something else, or there is no such folder.
            StorageError: The disk is full, or the folder is read-only.
        """
        from saestore import report
        from saestore.features import Highlight

        several = (found,) if isinstance(found, Highlight) else tuple(found)
        return report.write_highlights(several, to)

    def overlap(
        self,
        dictionary: Named,
        text: Sequence[str] | None = None,
        k: int = 20,
        *,
        contexts: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> "pa.Table":
        """Return how many of their k strongest features every two of some texts share.

        For each pair a, b: n_a, n_b, overlap, jaccard, expected (the overlap of two independent contexts
        of the analysis: the sum over features of P(f in top k) squared, over all contexts), shared.

        Args:
            dictionary: Which; one from `live` keeps the language model from being loaded again.
            text: Two texts or more, by the live model.
            k: Features of each that count.
            contexts: Stored contexts instead of texts, by number, from the lake alone.
            progress: Where to report.

        Raises:
            ConfigError: Fewer than two are given; texts and contexts are given; or a text is empty.
            SaestoreError: See `live`.
        """
        from saestore.features import expected, overlaps

        given = len(text or ()) or len(set(contexts or ()))
        if isinstance(text, str) or given < 2:  # noqa: PLR2004 - a pair
            raise ConfigError(
                field="text",
                found="1 text" if given else "none",
                expected="two texts or more, or two stored contexts",
                hint="an overlap is one of two texts",
            )
        analysis = self._analysis(dictionary)
        passages = self._passages(dictionary, text, contexts, progress=progress)
        return overlaps(passages, k, expected(analysis, k))

    def _analysis(self, dictionary: Named) -> "Analysis":
        """Return the analysis that a name means, or of what is loaded."""
        from saestore.features import Analysis

        if isinstance(dictionary, str):
            return Analysis.open(self.lake, dictionary)
        return dictionary.analysis

    def _passages(
        self,
        dictionary: Named,
        text: str | Sequence[str] | None,
        contexts: Sequence[int] | None,
        *,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> "Passages":
        """Return texts by the live model, or contexts from the lake.

        Raises:
            ConfigError: Both are given, or neither.
        """
        if (text is None) == (contexts is None):
            raise ConfigError(
                field="text",
                problem="there are texts and contexts" if contexts else "there is none",
                expected="texts, or stored contexts",
            )
        if contexts is not None:
            return self._analysis(dictionary).passages(contexts)
        return self._encoded(dictionary, text or "", names=names, progress=progress)

    def _encoded(
        self,
        dictionary: Named,
        texts: str | Sequence[str],
        *,
        names: Sequence[str] | None = None,
        features: Sequence[int] | None = None,
        masked: bool = True,
        progress: Progress | None = None,
    ) -> "Passages":
        """Return what fires in texts, by the live model."""
        given = [texts] if isinstance(texts, str) else list(texts)
        reporter = progress or Silent()
        live = (
            self.live(dictionary, progress=reporter) if isinstance(dictionary, str) else dictionary
        )
        return live.encode(given, names=names, features=features, masked=masked, progress=reporter)
