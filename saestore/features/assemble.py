"""One feature's page from the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from saestore.features.page import (
    Example,
    ExampleGroup,
    FeaturePage,
    Histogram,
    LogitTable,
    LogitToken,
    Provenance,
    TokenPiece,
    Written,
)
from saestore.features.read import TableReader
from saestore.lake import Lake, Ref
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.manifest import Manifest


_KEYS = {"feature", "score", "head"}


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
    def _readers(self) -> dict[str, TableReader]:
        artefact = self.lake.artefact(self.ref)
        return {name: TableReader(artefact, self.manifest, name) for name in self.manifest.arrays}

    @cached_property
    def _vocabulary(self) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Token ids ascending, their text, and whether they are special."""
        table = self._readers["vocabulary"].whole(["token_id", "token", "special"])
        ids = np.array(table["token_id"].to_pylist(), dtype=np.int64)
        tokens = [str(token) for token in table["token"].to_pylist()]
        return ids, tokens, np.array(table["special"].to_pylist(), dtype=bool)

    def page(self, feature: int) -> FeaturePage:
        """Return the page of a feature that exists."""
        series, dictionary, analysis = self.ref.name.split("/")
        lines = self._rows("features", feature)
        statistics = {name: value for name, value in lines[0].items() if name != "feature"}
        top = statistics["top_token_id"]
        return FeaturePage(
            series=series,
            dictionary=dictionary,
            analysis=analysis,
            feature=feature,
            n_features=self.manifest.counts["features"],
            statistics=statistics,
            top_token=None if top is None else self._token(int(top)),
            histograms={
                line["what"]: Histogram(line["what"], line["lo"], line["hi"], tuple(line["counts"]))
                for line in self._rows("histograms", feature)
            },
            logits=self._logits(feature),
            writes=self._writes(feature),
            groups=self._groups(feature),
            provenance=self._provenance(),
        )

    def _rows(self, table: str, feature: int) -> list[dict[str, Any]]:
        return self._readers[table].rows("feature", [feature]).to_pylist()

    def _token(self, token_id: int) -> str:
        ids, tokens, _ = self._vocabulary
        at = int(np.searchsorted(ids, token_id))
        return tokens[at] if at < len(ids) and ids[at] == token_id else f"#{token_id}"

    def _logits(self, feature: int) -> tuple[LogitTable, ...]:
        if "logits" not in self._readers:
            return ()
        lines = self._rows("logits", feature)
        found = []
        for stats in self._rows("logit_stats", feature):
            ends: dict[int, list[LogitToken]] = {1: [], -1: []}
            for line in lines:
                if (line["score"], line["head"]) == (stats["score"], stats["head"]):
                    token = self._token(line["token_id"])
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
        return tuple(found)

    def _writes(self, feature: int) -> tuple[Written, ...]:
        if "decoders" not in self._readers:
            return ()
        lengths = {line["hookpoint"]: line for line in self._rows("decoders", feature)}
        if "head_scaling" not in self._readers:
            return tuple(
                Written(name, line["norm"], line["relative_norm"]) for name, line in lengths.items()
            )
        found = []
        for line in self._rows("head_scaling", feature):
            own = lengths.get(line["hookpoint"], {"norm": 0.0, "relative_norm": 0.0})
            other = line["head"] != line["owner"]
            nu = (line[f"nu_{what}"] if other else None for what in ("error", "reconstruction"))
            found.append(Written(line["hookpoint"], own["norm"], own["relative_norm"], *nu))
        return tuple(found)

    def _groups(self, feature: int) -> tuple[ExampleGroup, ...]:
        lines = self._rows("examples", feature)
        contexts = self._contexts({line["context"] for line in lines})
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
                examples=tuple(self._example(line, contexts[line["context"]]) for line in members),
            )
            for (name, stratum), members in sorted(
                groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
            )
        )

    def _contexts(self, wanted: set[int]) -> dict[int, dict[str, Any]]:
        rows = self._readers["contexts"].rows("context", sorted(wanted))
        return {line["context"]: line for line in rows.drop_columns(["shuffle_rank"]).to_pylist()}

    def _example(self, line: Mapping[str, Any], context: Mapping[str, Any]) -> Example:
        start, stop = line["window_start"], line["window_start"] + line["window_length"]
        fired = dict(zip(line["positions"], line["values"], strict=True))
        ignored = set(context["ignored"])
        offsets, text = context["char_offsets"], context["text"]
        ids, _, special = self._vocabulary
        places = np.searchsorted(ids, context["token_ids"][start:stop])
        marks = special[np.minimum(places, len(ids) - 1)].tolist()
        tokens = tuple(
            TokenPiece(
                text=text[offsets[at] : offsets[at + 1]],
                value=fired.get(at, 0.0),
                special=marks[at - start],
                kept=at not in ignored,
            )
            for at in range(start, stop)
        )
        home = _segment(context["segments"], line["peak_position"])
        return Example(
            context=line["context"],
            rank=line["rank"],
            peak=line["peak"],
            peak_position=line["peak_position"],
            window_start=start,
            n_positions=context["n_positions"],
            source=context["source"],
            document=home["document"],
            document_id=home["document_id"],
            tokens=tokens,
        )

    def _provenance(self) -> Provenance:
        facts: Mapping[str, Any] = self.manifest.facts
        return Provenance(
            activations=facts["activations"],
            hookpoints=tuple(facts["hookpoints"]),
            n_rows=self.manifest.counts["rows"],
            n_contexts=self.manifest.counts["contexts"],
            fingerprint=self.manifest.fingerprint,
            created=self.manifest.created.isoformat(),
        )


def _segment(segments: Sequence[Mapping[str, Any]], position: int) -> Mapping[str, Any]:
    """Return the segment at a position; between segments (at a BOS) the one before or the first."""
    before = [each for each in segments if each["start"] <= position]
    return before[-1] if before else segments[0]
