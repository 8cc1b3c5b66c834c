"""`saestore import TOOL`: another tool's dictionary becomes one of the lake.

The files are read without running anything and put into our terms; then both sides compute the same
rows, and the largest differences stand in the record. What is not exact is refused unless that was
allowed. The manifest is written last: an import that fails leaves nothing.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float32
from pydantic import JsonValue
from torch import Tensor

from saestore import dictionaries
from saestore.activations import ActivationStore
from saestore.dictionaries import SparseDictionary
from saestore.errors import ConfigError
from saestore.exchange import spelling
from saestore.exchange.dictionaries.assemble import assemble
from saestore.exchange.dictionaries.comparing import check, first_rows, measured
from saestore.exchange.dictionaries.foreign import Asked
from saestore.exchange.dictionaries.formats import FORMATS
from saestore.exchange.dictionaries.hub import locate
from saestore.exchange.dictionaries.report import Conversion, ImportReport
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore.progress import Progress, Silent
from saestore_schemas.exchange import ImportDictionarySettings


Calibrate = Callable[[SparseDictionary, str], SparseDictionary]
"""Returns a dictionary with the threshold that its inference needs, found on the rows of a store."""


def import_dictionary(
    settings: ImportDictionarySettings,
    lake: Lake,
    *,
    store: ActivationStore | None = None,
    calibrate: Calibrate | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Make a dictionary of the lake from another tool's files, or find it made.

    Args:
        settings: Whose files, where, and what they do not say themselves.
        lake: Where.
        store: A store of what it reads: some of its rows are computed too, and decide what the files
            do not say.
        calibrate: Finds on the store the threshold of a BatchTopK whose files hold none; absent, it
            is a top-k of each row, which is not exact.
        progress: Where to report.

    Raises:
        ArtefactExistsError: The name is taken by other settings, or the files have changed.
        ArtefactBusyError: Another process is writing it.
        ConfigError: The files are not what they should be, or do not say what has to be known.
        UnsupportedError: There is no exact counterpart here, and why.
        StorageError: The disk is full, or the hub cannot be reached.
    """
    form = FORMATS[settings.tool]
    located = locate(settings.path, revision=settings.revision)
    asked = Asked(
        hub_name=located.name,
        hookpoint=settings.hookpoint,
        fold_state=settings.fold_state,
        rows=None if store is None else _rows(store, settings.hookpoint),
    )
    foreign = form.read(located.place, asked)
    able = calibrate is not None and store is not None
    foreign = foreign.with_threshold() if able else foreign.by_row()
    settings = settings.model_copy(update={"digest": _digest(settings, foreign.files)})
    ref = Ref("dictionary", f"{settings.series}/{settings.name}")
    run = manifests.Run.of(ref, settings)
    artefact = lake.artefact(ref)
    reporter = progress or Silent()
    if artefact.exists(layout.MANIFEST):
        manifests.begin(artefact, run)
        reporter.note(f"dictionary {ref.name}: imported already")
        return ImportReport(None, ref.name, settings.path)
    dictionary = assemble(foreign, settings, tool=form.title, version=form.version)
    title = f"{form.title} {foreign.version or form.version}"
    conversion = measured(dictionary, foreign, title=title, store=store)
    check(conversion, allowed=settings.approximate)
    dictionary = _recorded(dictionary, conversion)
    if calibrate is not None and store is not None and foreign.uncalibrated is not None:
        dictionary = calibrate(dictionary, store.ref.name)
        conversion = replace(conversion, steps=(*conversion.steps, _found(dictionary, store)))
    dictionaries.keep(dictionary, lake, run, facts=_facts(conversion, located.revision))
    return ImportReport(conversion, ref.name, settings.path)


def _found(dictionary: SparseDictionary, store: ActivationStore) -> str:
    """Return which threshold was found where, in words."""
    found = dictionary.config.semantics.inference.model_dump()
    threshold = dictionary.thresholds()
    value = float("nan") if threshold is None else float(threshold[0])
    return (
        f"its files hold no threshold: {value:.4g} was found on {found['rows']} rows of "
        f"{store.ref.name}, where {found['l0']:.4g} features fire on one"
    )


def _rows(
    store: ActivationStore, hookpoint: str | None
) -> Callable[[str], Float32[Tensor, "row d_in"]]:
    """Return how rows of a store are had, by the files' name of what they are of."""

    def rows(theirs: str) -> Float32[Tensor, "row d_in"]:
        wanted = hookpoint or theirs
        return first_rows(store, spelling.translated(wanted) or wanted)

    return rows


def _digest(settings: ImportDictionarySettings, files: Sequence[Path]) -> str:
    """Return the digest of the files that were read.

    Raises:
        ConfigError: The settings want another.
    """
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as data:
            whole.update(hashlib.file_digest(data, "sha256").digest())
    found = whole.hexdigest()
    if settings.digest not in {None, found}:
        raise ConfigError(
            field="digest",
            found=settings.digest,
            problem=f"the files under {settings.path} have digest {found}",
            expected=str(settings.digest),
            hint="the files have changed, or are others: leave `digest` out to take them as they are",
        )
    return found


def _recorded(dictionary: SparseDictionary, conversion: Conversion) -> SparseDictionary:
    """Return the dictionary with what was measured in its record."""
    imported = dictionary.config.imported
    if imported is None:
        raise TypeError(dictionary.config)
    measured = imported.model_copy(update={"max_error": conversion.max_error})
    return dictionary.with_config(dictionary.config.model_copy(update={"imported": measured}))


def _facts(conversion: Conversion, revision: str | None) -> dict[str, JsonValue]:
    facts: dict[str, JsonValue] = {
        "imported": {
            "format": conversion.format,
            "architecture": conversion.architecture,
            "revision": revision,
            "steps": list(conversion.steps),
            "inexact": list(conversion.inexact),
            "rows": conversion.rows,
            "tied_rows": conversion.tied_rows,
            "firings": conversion.firings,
            "max_error_codes": conversion.max_error_codes,
            "max_error_reconstruction": conversion.max_error_reconstruction,
            "store": conversion.store,
        }
    }
    if conversion.explained_variance is not None:
        facts["explained_variance"] = conversion.explained_variance
    return facts
