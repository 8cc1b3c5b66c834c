"""What an open lake takes from other tools and gives to them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import BaseModel

from saestore.api import config
from saestore.errors import ConfigError, nearest
from saestore.lake import Lake, checkpoint
from saestore.lake.checkpoint import Made
from saestore.progress import Progress, Silent
from saestore_schemas.exchange import ImportDictionarySettings, ImportSettings, WrittenTool
from saestore_schemas.train import ActivationsSettings


if TYPE_CHECKING:
    from saestore.activations import ActivationStore
    from saestore.dictionaries import SparseDictionary
    from saestore.exchange import ActivationsExport, Wanted
    from saestore.exchange.dictionaries import ExportReport, ImportReport
    from saestore.exchange.features import FeatureFormat, FeaturesExport

S = TypeVar("S", bound=BaseModel)

Settings: TypeAlias = S | Mapping[str, Any] | str | os.PathLike[str]
"""Settings of a verb: the model, a mapping with the same keys, or a TOML file's path."""


class Exchanging:
    """A lake's imports and exports.

    Attributes:
        lake: The lake.
    """

    lake: Lake

    def import_activations(
        self, settings: "Settings[ImportSettings]", *, progress: Progress | None = None
    ) -> "ActivationStore":
        """Another tool's files to a store: return it, made, resumed or found finished.

        Raises:
            SaestoreError: Any of the tree; finished parts stay and a rerun resumes.
        """
        from saestore import exchange

        wanted = config.as_settings(ImportSettings, settings)
        return exchange.import_activations(wanted, self.lake, progress=progress or Silent())

    def export_activations(
        self,
        store: str,
        folder: str | os.PathLike[str],
        wanted: "Wanted | None" = None,
        *,
        progress: Progress | None = None,
    ) -> "ActivationsExport":
        """Write a store's rows for other tools; return what was written.

        Args:
            store: Name of the store.
            folder: Where; an earlier export in it is replaced.
            wanted: What of the store, in which format; absent, all of it as safetensors.
            progress: Where to report.

        Raises:
            ConfigError: Nothing is chosen, or the folder holds other things.
        """
        from saestore import exchange

        return exchange.export_activations(
            _store(self.lake, store), folder, wanted or exchange.Wanted(), progress=progress
        )

    def export_features(
        self,
        name: str,
        folder: str | os.PathLike[str],
        form: "FeatureFormat | str",
        *,
        progress: Progress | None = None,
    ) -> "FeaturesExport":
        """Write an analysis for another tool; return what was written.

        Args:
            name: `series/name/analysis`, or `series/name` where there is one analysis.
            folder: Where; an earlier export in it is replaced.
            form: As which tool reads it: `delphi`, `saedashboard`, or a format with settings of its own, such
                as `saestore.exchange.features.Neuronpedia(settings)`.
            progress: Where to report.

        Raises:
            ArtefactNotFoundError: No such analysis.
            ConfigError: No such format, the folder holds other things, or the format cannot hold the
                analysis.
        """
        from saestore.exchange import features
        from saestore.features import Analysis

        if isinstance(form, str):
            if form not in features.FORMATS:
                close = nearest(form, tuple(features.FORMATS))
                raise ConfigError(
                    field="form",
                    found=form,
                    expected=f"one of {', '.join(features.FORMATS)}",
                    hint=f"did you mean {close[0]}?"
                    if close
                    else "see saestore.exchange.features.FORMATS",
                )
            form = features.FORMATS[form]
        analysis = Analysis.open(self.lake, name.removeprefix("features/"))
        return features.export_features(form, analysis, folder, progress=progress)

    def import_dictionary(
        self,
        settings: "Settings[ImportDictionarySettings]",
        *,
        store: str | None = None,
        progress: Progress | None = None,
    ) -> "ImportReport":
        """Another tool's dictionary to one of the lake; return how exact it is, or that it was made.

        Args:
            settings: Whose files, where, and what they do not say themselves.
            store: A store of what it reads: its rows are computed on both sides too, and decide what
                the files do not say; a BatchTopK without a threshold is calibrated on them.
            progress: Where to report.

        Raises:
            UnsupportedError: There is no exact counterpart here, and why.
            SaestoreError: Any other of the tree; nothing is left behind.
        """
        from saestore.evaluate import calibrate
        from saestore.exchange.dictionaries import import_dictionary

        reporter = progress or Silent()

        def calibrated(dictionary: "SparseDictionary", named: str) -> "SparseDictionary":
            rows = ActivationsSettings(name=named)
            return calibrate(dictionary, rows, self.lake, progress=reporter)

        return import_dictionary(
            config.as_settings(ImportDictionarySettings, settings),
            self.lake,
            store=None if store is None else _store(self.lake, store.removeprefix("activations/")),
            calibrate=calibrated,
            progress=reporter,
        )

    def export_dictionary(
        self,
        dictionary: str,
        tool: WrittenTool,
        folder: str | os.PathLike[str],
        *,
        approximate: bool = False,
    ) -> "ExportReport":
        """Write a dictionary as another tool reads it; return the largest difference measured.

        Args:
            dictionary: Its name, or that of a checkpoint, `series/name@step`.
            tool: Which tool.
            folder: Where; an earlier export of the same dictionary is replaced, nothing else is.
            approximate: Write what the tool will not compute exactly.

        Raises:
            UnsupportedError: It cannot be expressed exactly there, and why.
            ConfigError: The folder holds other things.
        """
        from saestore import dictionaries
        from saestore.exchange.dictionaries import export_dictionary

        named = checkpoint.numbered(self.lake, dictionary)
        made = Made.of(named, self.lake)
        return export_dictionary(
            dictionaries.load(self.lake, named),
            tool,
            Path(folder),
            name=named,
            fingerprint=made.fingerprint,
            store=self._trained_on(made),
            approximate=approximate,
        )

    def _trained_on(self, made: Made) -> "ActivationStore | None":
        """Return the store that a dictionary was trained on, if it is still in the lake."""
        from saestore.activations import JoinedStore, heads_of

        known = {ref.name for ref in self.lake.refs("activations")}
        names = [each.name for each in made.parents if each.kind == "activations"]
        if heads_of(made):
            whole = known.issuperset(names)
            return JoinedStore.of(self.lake, heads_of(made), compared=True) if whole else None
        return _store(self.lake, names[0]) if names and names[0] in known else None


def _store(lake: Lake, name: str) -> "ActivationStore":
    from saestore.activations import ActivationStore

    return ActivationStore.open(lake, name)
