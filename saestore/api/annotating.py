"""What people say about features, of an open lake: said, read and put together."""

import getpass
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from saestore.errors import ConfigError, UnsupportedError, nearest
from saestore.lake import Lake, Ref
from saestore_schemas.annotations import AnnotationEvent
from saestore_schemas.manifest import Manifest
from saestore_schemas.settings import MachineSettings


if TYPE_CHECKING:
    from saestore.exchange.annotations import (
        AnnotationFormat,
        AnnotationsExport,
        AnnotationsImport,
    )
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

    def export_annotations(
        self,
        name: str,
        file: str | os.PathLike[str],
        form: str | None = None,
        *,
        author: str | None = None,
        theirs: str | None = None,
    ) -> "AnnotationsExport":
        """Write what people say about an analysis's features to a file; return how much that was.

        Args:
            name: The analysis, `series/name/analysis`, or `series/name` with only one.
            file: Where; one that is there is replaced.
            form: As which tool reads it: `parquet` or `json` (every event, for another lake), `mlxterp`,
                `feature-circuits` or `llamascopium` (what is said now); absent, by the file's suffix.
            author: Whose words alone; absent, everybody's, and where a format has room for one the last.
            theirs: `series/name` by which the other tool knows the dictionary; absent, its own.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            ConfigError: There is no such format or folder, or the format has no place for the hookpoint.
            StorageError: The disk is full or read-only.
        """
        from saestore.exchange import annotations
        from saestore.features import Analysis

        analysis = Analysis.open(self.lake, name)
        return annotations.export_annotations(
            _form(form, file), analysis, file, author=author, theirs=theirs
        )

    def import_annotations(
        self,
        name: str,
        file: str | os.PathLike[str],
        form: str | None = None,
        *,
        author: str | None = None,
        theirs: str | None = None,
    ) -> "AnnotationsImport":
        """Add what a file says about an analysis's features, all of it or nothing; return how much is added.

        Args:
            name: The analysis, `series/name/analysis`, or `series/name` with only one.
            file: Whence.
            form: As which tool wrote it, as of `export_annotations`; absent, by the file's suffix.
            author: Who says what the file does not tell the author of; absent, as of `annotate`.
            theirs: `series/name` by which the other tool knows the dictionary; absent, its own.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            FeatureNotFoundError: The dictionary has no such feature.
            ConfigError: It is no such file, or says what cannot be said; the place is named.
            StorageError: The lake cannot be written.
        """
        from saestore.exchange import annotations
        from saestore.features import Analysis

        analysis = Analysis.open(self.lake, name)
        who = author or default_author()
        return annotations.import_annotations(
            _form(form, file), analysis, file, author=who, theirs=theirs
        )

    def _refuse_said(self, ref: Ref) -> None:
        """Refuse to lose what people say about an analysis.

        Raises:
            UnsupportedError: Somebody says something.
        """
        if ref.kind != "features" or ref not in self.lake.refs("features"):
            return
        said = self.annotations(ref.name)
        if said:
            authors = ", ".join(sorted({event.author for event in said}))
            raise UnsupportedError(
                f"{ref.name!r} holds {len(said)} annotations, of {authors}",
                found=f"{len(said)} annotations",
                expected="none",
                hint=f"`saestore annotations export {ref.name} FILE.parquet` keeps them; then remove it with "
                "--with-annotations",
            )

    def _annotation_damage(self, manifest: Manifest, *, quick: bool) -> list[str]:
        """Return one line per damaged, missing or foreign file of the log beside an artefact, if any."""
        if manifest.kind != "features":
            return []
        from saestore.features import AnnotationLog

        return AnnotationLog(self.lake, manifest).damage(quick=quick)


def _form(form: str | None, file: str | os.PathLike[str]) -> "AnnotationFormat":
    """Return the format that is named, or that a file's suffix says.

    Raises:
        ConfigError: There is none of that name, or the suffix says none.
    """
    from saestore.exchange.annotations import FORMATS

    suffix = Path(file).suffix
    name = suffix.removeprefix(".") if form is None else form
    if name in FORMATS:
        return FORMATS[name]
    close = nearest(name, tuple(FORMATS))
    raise ConfigError(
        field="--format",
        found=form if form is not None else suffix,
        problem=f"there is no format {name!r}"
        if form is not None
        else f"{file} does not say which",
        expected=f"one of {', '.join(FORMATS)}",
        hint=f"did you mean {close[0]}?" if close else "give --format; .parquet and .json say it",
    )


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
