"""One feature's page from its lines, wherever they lie: in the tables of an analysis, or in an index."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from saestore.features import relations
from saestore.features.annotations import events_of, latest
from saestore.features.explanations import explanations
from saestore.features.lines import Lines
from saestore.features.making import LazySequence, made, runs
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
from saestore.features.pieces import Reads, examples
from saestore.lake import Ref
from saestore_schemas.analyze import LOGIT_SCORES, AnalyzeSettings
from saestore_schemas.annotations import ANNOTATIONS
from saestore_schemas.interpretation_tables import INTERPRETATION_SCORES, INTERPRETATIONS
from saestore_schemas.manifest import Manifest
from saestore_schemas.tables import REMAINDER


_KEYS = {"feature", "score", "head"}
_ORDER: Mapping[str, int] = {score: place for place, score in enumerate(LOGIT_SCORES)}


@dataclass(frozen=True)
class Assembler:
    """Builds the pages of one analysis.

    Attributes:
        ref: The analysis.
        manifest: Its manifest.
        settings: Its settings.
        n_layers: Layers that its features belong to; 1 where they belong to none.
    """

    ref: Ref
    manifest: Manifest
    settings: AnalyzeSettings
    n_layers: int

    def page(
        self,
        feature: int,
        lines: Lines,
        subsamples: Collection[str] | None = None,
        *,
        related: bool = True,
        unreadable: Mapping[str, str] = MappingProxyType({}),
    ) -> FeaturePage:
        """Return the page of a feature.

        Args:
            feature: Which.
            lines: What the analysis says of it.
            subsamples: Of which subsamples examples are wanted; absent, all.
            related: Whether the tokens and features that it goes with are wanted.
            unreadable: Runs of `interpret` that cannot be read, and why.
        """
        series, dictionary, analysis = self.ref.name.split("/")
        (known,) = lines.rows("features")
        statistics = {name: value for name, value in known.items() if name != "feature"}
        top = statistics["top_token_id"]
        return FeaturePage(
            series=series,
            dictionary=dictionary,
            analysis=analysis,
            feature=feature,
            n_features=self.manifest.counts["features"],
            n_layers=self.n_layers,
            statistics=statistics,
            top_token=None if top is None else lines.vocabulary.token(int(top)),
            histograms={
                line["what"]: Histogram(line["what"], line["lo"], line["hi"], tuple(line["counts"]))
                for line in lines.rows("histograms")
            },
            logits=_logits(lines),
            writes=_writes(lines),
            pairs=_pairs(lines),
            tokens=relations.token_tables(lines, statistics) if related else (),
            coactive=relations.coactive(lines) if related else (),
            neighbours=relations.neighbours(lines) if related else (),
            groups=self._groups(lines, subsamples),
            provenance=self.provenance,
            annotations=latest(events_of(lines.rows(ANNOTATIONS.name))),
            explanations=explanations(
                lines.rows(INTERPRETATIONS.name), lines.rows(INTERPRETATION_SCORES.name)
            ),
            unreadable=unreadable,
        )

    def _groups(self, lines: Lines, subsamples: Collection[str] | None) -> tuple[ExampleGroup, ...]:
        wanted = lines.examples(subsamples)
        shown, reads = lines.shown(wanted), _reads(lines, wanted["context"].tolist())
        every = cache(lambda: examples(wanted, shown, reads))
        names, n_eligible = wanted["subsample"], wanted["n_eligible"].tolist()
        groups = runs(zip(names, wanted["stratum"].tolist(), strict=True))
        order = list(self.settings.subsamples)
        return tuple(
            ExampleGroup(
                subsample=name,
                kind=self.settings.subsamples[name].kind,
                stratum=stratum,
                strata=getattr(self.settings.subsamples[name], "q", 1),
                n_eligible=n_eligible[start],
                examples=LazySequence.part(every, start, stop),
            )
            for (name, stratum), start, stop in sorted(
                groups, key=lambda run: (order.index(run[0][0]), run[0][1])
            )
        )

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


def _reads(lines: Lines, contexts: Collection[int]) -> Reads:
    """Return what the feature reads from, by context and position where it fires."""
    attention = lines.rows("attention")
    wanted = set(contexts) if attention else ()
    found: dict[tuple[int, int], list[Read]] = {}
    for line in attention:
        context, key = line["context"], line["key"]
        if context not in wanted:  # of a subsample that is not asked for
            continue
        read = (
            Read(None, "", line["value"])
            if key == REMAINDER
            else Read(key, lines.piece(context, key), line["value"])
        )
        found.setdefault((context, line["query"]), []).append(read)
    return {
        place: tuple(sorted(reads, key=lambda r: (r.position is None, -r.value)))
        for place, reads in found.items()
    }


def _logits(lines: Lines) -> tuple[LogitTable, ...]:
    table = lines.columns("logits")
    if not table:
        return ()
    vocabulary = lines.vocabulary

    @cache
    def tokens() -> list[LogitToken]:
        token_ids, values = table["token_id"], table["value"]
        columns = (token_ids.tolist(), vocabulary.texts(token_ids), values.tolist())
        return made(
            LogitToken,
            [
                {"token_id": token_id, "token": token, "value": value}
                for token_id, token, value in zip(*columns, strict=True)
            ],
        )

    where = zip(table["score"], table["head"].tolist(), table["sign"].tolist(), strict=True)
    ends = {end: LazySequence.part(tokens, start, stop) for end, start, stop in runs(where)}
    found = [
        LogitTable(
            score=stats["score"],
            head=stats["head"],
            promoted=ends.get((stats["score"], stats["head"], 1), ()),
            suppressed=ends.get((stats["score"], stats["head"], -1), ()),
            statistics={k: v for k, v in stats.items() if k not in _KEYS},
        )
        for stats in lines.rows("logit_stats")
    ]
    return tuple(sorted(found, key=lambda table: (_ORDER[table.score], table.head)))


def _writes(lines: Lines) -> tuple[Written, ...]:
    lengths = {line["hookpoint"]: line for line in lines.rows("decoders")}
    scaling = lines.rows("head_scaling")
    if not scaling:
        return tuple(
            Written(name, line["norm"], line["relative_norm"]) for name, line in lengths.items()
        )
    found = []
    for line in scaling:
        own = lengths.get(line["hookpoint"], {"norm": 0.0, "relative_norm": 0.0})
        other = line["head"] != line["owner"]
        nu = (line[f"nu_{what}"] if other else None for what in ("error", "reconstruction"))
        found.append(Written(line["hookpoint"], own["norm"], own["relative_norm"], *nu))
    return tuple(found)


def _pairs(lines: Lines) -> tuple[HeadPair, ...]:
    names = {line["head"]: line["hookpoint"] for line in lines.rows("decoders")}
    return tuple(
        HeadPair(
            names[line["head_a"]],
            names[line["head_b"]],
            line["cosine"],
            line["inner_product"],
        )
        for line in lines.rows("decoder_pairs")
        if line["head_a"] != line["head_b"] and {line["head_a"], line["head_b"]} <= names.keys()
    )
