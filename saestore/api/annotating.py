"""What people say about features, of an open lake: said, read and put together."""

import getpass
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import JsonValue

from saestore.errors import ConfigError
from saestore.lake import Lake
from saestore_schemas.annotations import AnnotationEvent
from saestore_schemas.manifest import Manifest
from saestore_schemas.settings import MachineSettings


if TYPE_CHECKING:
    from saestore.features import Compacted


class Annotating:
    """A lake's annotations.

    Attributes:
        lake: The lake.
    """

    lake: Lake

    def annotate(
        self,
        name: str,
        feature: int,
        said: Mapping[str, JsonValue],
        *,
        author: str | None = None,
        source: str = "python",
    ) -> tuple[AnnotationEvent, ...]:
        """Write what somebody says about a feature into the lake; return the events.

        Args:
            name: The analysis, `series/name/analysis`, or `series/name` with only one.
            feature: Which feature.
            said: Field to what it is now: `name`, `description`, `interpretation`, `notes` are texts,
                `examples` and `tag` lists of all texts, `confidence` is `high`, `medium` or `low`,
                `bookmark` is true. None takes a field back.
            author: Who says it; absent, `SAESTORE_AUTHOR`, else the user who is logged in.
            source: By which way it comes.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            FeatureNotFoundError: The dictionary has no such feature.
            ConfigError: There is no such field, or it cannot have the value; nothing is written.
            StorageError: The lake cannot be written.
        """
        from saestore.features import Analysis

        log = Analysis.open(self.lake, name).annotations
        return log.say({feature: said}, author=author or default_author(), source=source)

    def annotations(
        self, name: str, *, feature: int | None = None, history: bool = False
    ) -> tuple[AnnotationEvent, ...]:
        """Return what people say about an analysis's features now: the last event of each field and author.

        Args:
            name: The analysis, `series/name/analysis`, or `series/name` with only one.
            feature: Of which feature alone.
            history: Return every event instead, in the order in which they were written.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            FeatureNotFoundError: The dictionary has no such feature.
            DamagedArtefactError: A file of the log does not match its manifest.
        """
        from saestore.features import Analysis
        from saestore.features.annotations import events_of

        analysis = Analysis.open(self.lake, name)
        if feature is not None:
            analysis.check(feature)
        log = analysis.annotations
        if history:
            events = events_of(log.events(feature).to_pylist())
            return tuple(sorted(events, key=lambda event: event.event_id))
        return tuple(events_of(log.current().to_pylist())) if feature is None else log.of(feature)

    def compact_annotations(self, name: str) -> "Compacted":
        """Put an analysis's annotations into one file; every event stays.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            DamagedArtefactError: A file of the log does not match its manifest; nothing is changed.
            StorageError: The lake cannot be written.
        """
        from saestore.features import Analysis

        return Analysis.open(self.lake, name).annotations.compact()

    def _annotation_damage(self, manifest: Manifest, *, quick: bool) -> list[str]:
        """Return one line per damaged, missing or foreign file of the log beside an artefact, if any."""
        if manifest.kind != "features":
            return []
        from saestore.features import AnnotationLog

        return AnnotationLog(self.lake, manifest).damage(quick=quick)


def default_author() -> str:
    """Return who annotates on this machine: `SAESTORE_AUTHOR`, else the user who is logged in.

    Raises:
        ConfigError: Nobody knows.
    """
    author = MachineSettings().author
    if author:
        return author
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise ConfigError(
            field="author",
            problem="nobody is logged in by a name",
            expected="who says it",
            hint="set SAESTORE_AUTHOR, or give --author",
        ) from error
