"""What a server serves: the lake, its analyses kept open, and what people wrote about them."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from starlette.requests import Request

from saestore.features import Analysis, FeaturePage, FeatureTable, Overview, Passages, overview
from saestore.features.search import Texts, texts_of
from saestore.lake import Lake, Ref
from saestore.server.answers import Kept
from saestore.server.metrics import Metrics
from saestore.server.problems import refused
from saestore.server.processes import SqlProcesses
from saestore.server.tables import Question
from saestore.server.waiting import Turns
from saestore_schemas.manifest import Manifest
from saestore_schemas.server import ServerSettings
from saestore_schemas.wire import TableAnswer


OPEN = 8
"""Analyses kept open: each some 100 MB at 131 072 features once it is searched."""

FRESH_S = 1.0
"""Seconds for which what an analysis is made of is not looked at again."""


@runtime_checkable
class Live(Protocol):
    """Runs texts through a language model and the dictionary of an analysis."""

    @property
    def model(self) -> str:
        """What texts are run through."""
        ...

    def encode(self, analysis: str, texts: Sequence[str]) -> Passages:
        """Return what fires in some texts, as an analysis would say.

        Args:
            analysis: `series/name/analysis`.
            texts: The texts.

        Raises:
            SaestoreError: There is no such analysis, or no model for it.
        """
        ...


@dataclass
class Opened:
    """An analysis that is kept open.

    Attributes:
        analysis: The analysis.
        table: Its features, to be listed.
        tag: What tells this making of it from any other.
    """

    analysis: Analysis
    table: FeatureTable
    tag: str
    _texts: tuple[str, Texts] = ("", MappingProxyType({}))

    @classmethod
    def of(cls, analysis: Analysis) -> "Opened":
        """Return an analysis, opened."""
        return cls(analysis, FeatureTable(analysis), tag_of(analysis.manifest))

    @property
    def about(self) -> tuple[str, ...]:
        """What changes when it is made anew, or when something is said or found out about a feature of it."""
        runs = self.analysis.interpretations
        return self.tag, self.analysis.annotations.version, runs.version, *runs.unreadable

    def texts(self) -> Texts:
        """Return what people say now about its features.

        Raises:
            DamagedArtefactError: A file of the log does not match its manifest.
        """
        log = self.analysis.annotations
        version = log.version
        if self._texts[0] != version:
            self._texts = version, texts_of(log)
        return self._texts[1]

    @cached_property
    def overview(self) -> Overview:
        """What its features are like."""
        return overview(self.analysis)


class Served:
    """The lake that is served; threads may share it.

    Attributes:
        lake: The lake.
        settings: How it is served.
        live: What runs texts, or None.
        kept: Answers that are kept.
        metrics: What is counted.
        sql: What answers questions in SQL.
        live_turns: Where texts do.
    """

    def __init__(self, lake: Lake, settings: ServerSettings, live: Live | None = None) -> None:
        """Serve a lake; nothing is read yet."""
        self.lake = lake
        self.settings = settings
        self.live = live
        self.kept = Kept(settings.kept_mib)
        self.metrics = Metrics()
        wait = settings.sql_seconds
        self.sql = SqlProcesses(lake, settings)
        self._sql_turns = Turns(settings.sql_at_once, wait, "questions in SQL")
        self.live_turns = Turns(1, wait, "texts")
        self._lock = RLock()
        self._opened: OrderedDict[str, tuple[float, Opened]] = OrderedDict()

    @classmethod
    def by(cls, request: Request) -> "Served":
        """Return what the application serves that a request came to."""
        served: Served = request.app.state.served
        return served

    async def ask(self, question: Question) -> TableAnswer:
        """Return the answer to a question in SQL, when its turn has come.

        Raises:
            Refused: It did not come.
            SaestoreError: The question was refused, its time is up, or the lake cannot be read.
        """
        async with self._sql_turns.turn():
            with self.metrics.sql_busy.track_inprogress(), self.metrics.sql_seconds.time():
                return await self.sql.answer(question)

    def analysis(self, name: str) -> Opened:
        """Return the analysis `series/name/analysis`.

        Raises:
            ArtefactNotFoundError: There is none of that name.
            IncompleteArtefactError: It was started and not finished.
        """
        now = time.monotonic()
        with self._lock:
            checked, opened = self._opened.get(name, (-FRESH_S, None))
            if opened is not None and now - checked < FRESH_S:
                self._opened.move_to_end(name)
                return opened
            manifest = self.lake.manifest(Ref("features", name))
            if opened is None or opened.tag != tag_of(manifest):
                opened = Opened.of(Analysis.open(self.lake, name))
            self._opened[name] = now, opened
            self._opened.move_to_end(name)
            while len(self._opened) > OPEN:
                self._opened.popitem(last=False)
            return opened

    def page(
        self, opened: Opened, feature: int, subsamples: Sequence[str] | None = None
    ) -> FeaturePage:
        """Return everything about one feature.

        Args:
            opened: The analysis.
            feature: Which feature.
            subsamples: Of which subsamples examples are wanted; absent, all.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            DamagedArtefactError: A file is missing or has another size.
        """
        return next(opened.analysis.pages([feature], subsamples=subsamples))

    def needs_live(self) -> Live:
        """Return what runs texts.

        Raises:
            Refused: The server was started without.
        """
        if self.live is None:
            raise refused(
                404,
                "this server runs no texts",
                expected="a server that was started with a language model",
                hint="start it with `saestore serve --live`",
            )
        return self.live


def tag_of(manifest: Manifest) -> str:
    """Return what tells this making of an artefact from any other."""
    return f"{manifest.fingerprint} {manifest.created.isoformat()}"
