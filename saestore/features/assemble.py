"""One feature's page from the tables."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from saestore.features import relations
from saestore.features.page import (
    ExampleGroup,
    FeaturePage,
    HeadPair,
    Histogram,
    LogitTable,
    LogitToken,
    Provenance,
    Read,
    Written,
)
from saestore.features.pieces import Vocabulary, example
from saestore.features.read import TableReader
from saestore.lake import Lake, Ref
from saestore_schemas.analyze import LOGIT_SCORES, AnalyzeSettings
from saestore_schemas.manifest import Manifest
from saestore_schemas.tables import REMAINDER


_CONTEXTS_MIB = 256
"""Contexts kept decoded: those of a page lie anywhere. Some 150 000 of 128 tokens."""
_KEYS = {"feature", "score", "head"}
_ORDER: Mapping[str, int] = {score: place for place, score in enumerate(LOGIT_SCORES)}


@dataclass(frozen=True)
class Assembler:
    """Builds the pages of one analysis; what it reads once is kept.

    Attributes:
        lake: The lake.
        ref: The analysis.
        manifest: Its manifest.
        settings: Its settings.
    """

    lake: Lake
    ref: Ref
    manifest: Manifest
    settings: AnalyzeSettings

    @cached_property
    def readers(self) -> dict[str, TableReader]:
        """A reader of each table."""
        artefact = self.lake.artefact(self.ref)
        return {
            name: TableReader(
                artefact, self.manifest, name, kept_mib=_CONTEXTS_MIB if name == "contexts" else 0
            )
            for name in self.manifest.arrays
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return Vocabulary.of(self.readers["vocabulary"].whole(["token_id", "token", "special"]))

    @cached_property
    def _rows_of_tokens(self) -> Mapping[int, int]:
        """How many kept rows hold each token."""
        table = self.readers["vocabulary"].whole(["token_id", "n_rows"])
        ids, rows = (table[name].to_pylist() for name in ("token_id", "n_rows"))
        return {int(token or 0): int(n or 0) for token, n in zip(ids, rows, strict=True)}

    @cached_property
    def _n_layers(self) -> int:
        """How many layers have features: those of the last layer are the last ones."""
        (last,) = self.rows("features", self.manifest.counts["features"] - 1)
        return int(last["layer"]) + 1

    def page(self, feature: int) -> FeaturePage:
        """Return the page of a feature that exists."""
        return next(self.pages([feature]))

    def pages(
        self,
        features: Sequence[int],
        subsamples: Collection[str] | None = None,
        *,
        related: bool = True,
    ) -> Iterator[FeaturePage]:
        """Yield the pages of features that exist; the contexts they show are read once for all.

        Args:
            features: Which.
            subsamples: Of which subsamples examples are wanted; absent, all.
            related: Whether the tokens and features that it goes with are wanted.
        """
        shown = {feature: self._examples(feature, subsamples) for feature in features}
        contexts = self.contexts({line["context"] for lines in shown.values() for line in lines})
        for feature in features:
            reads = self._reads(feature, contexts)
            groups = self._groups(shown[feature], contexts, reads)
            yield self._page(feature, groups, related=related)

    def _page(
        self, feature: int, groups: tuple[ExampleGroup, ...], *, related: bool
    ) -> FeaturePage:
        series, dictionary, analysis = self.ref.name.split("/")
        lines = self.rows("features", feature)
        statistics = {name: value for name, value in lines[0].items() if name != "feature"}
        top = statistics["top_token_id"]
        known = partial(self._known, feature)
        return FeaturePage(
            series=series,
            dictionary=dictionary,
            analysis=analysis,
            feature=feature,
            n_features=self.manifest.counts["features"],
            n_layers=self._n_layers,
            statistics=statistics,
            top_token=None if top is None else self.vocabulary.token(int(top)),
            histograms={
                line["what"]: Histogram(line["what"], line["lo"], line["hi"], tuple(line["counts"]))
                for line in self.rows("histograms", feature)
            },
            logits=self._logits(feature),
            writes=self._writes(feature),
            pairs=self._pairs(feature),
            tokens=relations.token_tables(known, statistics, self._counted) if related else (),
            coactive=relations.coactive(known) if related else (),
            neighbours=relations.neighbours(known) if related else (),
            groups=groups,
            provenance=self.provenance,
        )

    def _known(self, feature: int, table: str) -> list[dict[str, Any]]:
        """Return a feature's lines of a table, none where the analysis has no such table."""
        return self.rows(table, feature) if table in self.readers else []

    def _examples(self, feature: int, subsamples: Collection[str] | None) -> list[dict[str, Any]]:
        lines = self.rows("examples", feature)
        return [line for line in lines if subsamples is None or line["subsample"] in subsamples]

    def rows(self, table: str, feature: int) -> list[dict[str, Any]]:
        """Return a feature's lines of a table."""
        return self.readers[table].rows("feature", [feature]).to_pylist()

    def _counted(self, token_id: int) -> tuple[str, int]:
        """Return a token's text, and how many kept rows hold it."""
        return self.vocabulary.token(token_id), self._rows_of_tokens[token_id]

    def _logits(self, feature: int) -> tuple[LogitTable, ...]:
        if "logits" not in self.readers:
            return ()
        lines = self.rows("logits", feature)
        found = []
        for stats in self.rows("logit_stats", feature):
            ends: dict[int, list[LogitToken]] = {1: [], -1: []}
            for line in lines:
                if (line["score"], line["head"]) == (stats["score"], stats["head"]):
                    token = self.vocabulary.token(line["token_id"])
                    ends[line["sign"]].append(LogitToken(line["token_id"], token, line["value"]))
            found.append(
                LogitTable(
                    score=stats["score"],
                    head=stats["head"],
                    promoted=tuple(ends[1]),
                    suppressed=tuple(ends[-1]),
                    statistics={k: v for k, v in stats.items() if k not in _KEYS},
                )
            )
        return tuple(sorted(found, key=lambda table: (_ORDER[table.score], table.head)))

    def _writes(self, feature: int) -> tuple[Written, ...]:
        if "decoders" not in self.readers:
            return ()
        lengths = {line["hookpoint"]: line for line in self.rows("decoders", feature)}
        if "head_scaling" not in self.readers:
            return tuple(
                Written(name, line["norm"], line["relative_norm"]) for name, line in lengths.items()
            )
        found = []
        for line in self.rows("head_scaling", feature):
            own = lengths.get(line["hookpoint"], {"norm": 0.0, "relative_norm": 0.0})
            other = line["head"] != line["owner"]
            nu = (line[f"nu_{what}"] if other else None for what in ("error", "reconstruction"))
            found.append(Written(line["hookpoint"], own["norm"], own["relative_norm"], *nu))
        return tuple(found)

    def _pairs(self, feature: int) -> tuple[HeadPair, ...]:
        names = {line["head"]: line["hookpoint"] for line in self._known(feature, "decoders")}
        return tuple(
            HeadPair(
                names[line["head_a"]],
                names[line["head_b"]],
                line["cosine"],
                line["inner_product"],
            )
            for line in self._known(feature, "decoder_pairs")
            if line["head_a"] != line["head_b"] and {line["head_a"], line["head_b"]} <= names.keys()
        )

    def _reads(
        self, feature: int, contexts: Mapping[int, dict[str, Any]]
    ) -> dict[tuple[int, int], tuple[Read, ...]]:
        """Return what the feature reads from, by context and position where it fires."""
        found: dict[tuple[int, int], list[Read]] = {}
        for line in self._known(feature, "attention"):
            if line["context"] not in contexts:  # of a subsample that is not asked for
                continue
            key, context = line["key"], contexts[line["context"]]
            offsets, text = context["char_offsets"], context["text"]
            read = (
                Read(None, "", line["value"])
                if key == REMAINDER
                else Read(key, text[offsets[key] : offsets[key + 1]], line["value"])
            )
            found.setdefault((line["context"], line["query"]), []).append(read)
        return {
            place: tuple(sorted(reads, key=lambda r: (r.position is None, -r.value)))
            for place, reads in found.items()
        }

    def _groups(
        self,
        lines: Sequence[dict[str, Any]],
        contexts: Mapping[int, dict[str, Any]],
        reads: Mapping[tuple[int, int], tuple[Read, ...]],
    ) -> tuple[ExampleGroup, ...]:
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for line in lines:
            groups.setdefault((line["subsample"], line["stratum"]), []).append(line)
        order = list(self.settings.subsamples)
        return tuple(
            ExampleGroup(
                subsample=name,
                kind=self.settings.subsamples[name].kind,
                stratum=stratum,
                strata=getattr(self.settings.subsamples[name], "q", 1),
                n_eligible=members[0]["n_eligible"],
                examples=tuple(
                    replace(
                        example(line, contexts[line["context"]], self.vocabulary),
                        reads=reads.get((line["context"], line["peak_position"]), ()),
                    )
                    for line in members
                ),
            )
            for (name, stratum), members in sorted(
                groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
            )
        )

    def contexts(self, wanted: set[int]) -> dict[int, dict[str, Any]]:
        """Return the lines of some contexts, by number."""
        rows = self.readers["contexts"].rows("context", sorted(wanted))
        return {line["context"]: line for line in rows.drop_columns(["shuffle_rank"]).to_pylist()}

    @property
    def provenance(self) -> Provenance:
        """Where the numbers come from."""
        facts: Mapping[str, Any] = self.manifest.facts
        return Provenance(
            activations=facts["activations"],
            hookpoints=tuple(facts["hookpoints"]),
            n_rows=self.manifest.counts["rows"],
            n_contexts=self.manifest.counts["contexts"],
            fingerprint=self.manifest.fingerprint,
            created=self.manifest.created.isoformat(),
            parents={f"{p.kind}/{p.name}": p.fingerprint for p in self.manifest.parents},
            version=self.manifest.versions.get("saestore", ""),
            keeps_firings="firings_by_feature" in self.manifest.arrays,
        )
