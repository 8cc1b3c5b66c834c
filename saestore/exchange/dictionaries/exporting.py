"""`saestore export TOOL`: a dictionary as another tool reads it.

The files are written beside their place, read back by our reader of that format, and measured; only
then they appear, the record last. A folder that holds anything else is left alone.
"""

import json
import os
import shutil
from pathlib import Path

import crc32c
from pydantic import ValidationError

from saestore.activations import ActivationStore
from saestore.dictionaries import SparseDictionary
from saestore.errors import ConfigError
from saestore.exchange.dictionaries.comparing import check, measured
from saestore.exchange.dictionaries.foreign import Asked, Context, Written
from saestore.exchange.dictionaries.formats import WRITTEN
from saestore.exchange.dictionaries.report import Conversion, ExportReport
from saestore.exchange.place import listed
from saestore.fingerprint import canonical
from saestore.lake import manifest as manifests
from saestore.lake.storage import TEMPORARY, Storage, storage_errors
from saestore_schemas.exchange import DictionaryExport, WrittenTool


RECORD = "saestore-export.json"


def export_dictionary(
    dictionary: SparseDictionary,
    tool: WrittenTool,
    folder: str | os.PathLike[str],
    *,
    name: str = "",
    fingerprint: str | None = None,
    store: ActivationStore | None = None,
    approximate: bool = False,
) -> ExportReport:
    """Write a dictionary as another tool reads it, and measure how exactly.

    Args:
        dictionary: The dictionary.
        tool: Which tool.
        folder: Where; made if it is not there. An earlier export of the same dictionary is replaced.
        name: Its name, for the record.
        fingerprint: Its fingerprint, likewise.
        store: The store it was trained on: some of its rows are computed too, and its settings fill
            in what the tool wants to know.
        approximate: Write what the tool will not compute exactly.

    Raises:
        ConfigError: The folder holds other things.
        UnsupportedError: The tool has no exact counterpart, and why.
        StorageError: The folder cannot be written.
    """
    form = WRITTEN[tool]
    target = Path(folder).expanduser().absolute()
    _free(target, name)
    written = form.write(dictionary, _context(store))
    staging = target.parent / f"{TEMPORARY}{target.name}-{os.getpid()}"
    try:
        place = Storage.at(staging)
        for path, data in written.files.items():
            place.write(path, data)
        asked = Asked(hookpoint=dictionary.hookpoints_in[0])
        conversion = measured(
            written.instead or dictionary,
            form.read(staging, asked),
            title=f"{form.title} {form.version}",
            factors=written.factors,
            steps=written.rewrites,
            inexact=written.inexact,
            store=store,
        )
        check(conversion, allowed=approximate)
        record = _record(tool, conversion, written, name=name, fingerprint=fingerprint)
        place.write(RECORD, (canonical(record) + "\n").encode())
        with storage_errors(f"writing {target}"):
            _appear(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ExportReport(conversion, name, Path(folder), (*sorted(written.files), RECORD))


def _record(
    tool: WrittenTool,
    conversion: Conversion,
    written: Written,
    *,
    name: str,
    fingerprint: str | None,
) -> DictionaryExport:
    """Return what stands beside the files: from what they were made, and how exactly."""
    return DictionaryExport(
        tool=tool,
        tool_version=WRITTEN[tool].version,
        dictionary=name,
        fingerprint=fingerprint,
        saestore=manifests.library_versions()["saestore"],
        hookpoint=conversion.hookpoint,
        rewrites=conversion.steps,
        inexact=conversion.inexact,
        max_error_codes=conversion.max_error_codes,
        max_error_reconstruction=conversion.max_error_reconstruction,
        files={
            path: manifests.checksum_text(crc32c.crc32c(data))
            for path, data in sorted(written.files.items())
        },
    )


def _context(store: ActivationStore | None) -> Context:
    if store is None:
        return Context()
    lm = store.record.lm
    return Context(store.record.context_size, None if lm is None else lm.prepend_bos)


def _appear(staging: Path, target: Path) -> None:
    """Put the files in their place: all of them at once, or none."""
    before = target.parent / f"{TEMPORARY}{target.name}-{os.getpid()}-before"
    if target.exists():
        target.rename(before)
    try:
        staging.rename(target)
    except OSError:
        if before.exists():
            before.rename(target)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _free(target: Path, name: str) -> None:
    """Refuse a folder that holds anything but an earlier export of the same dictionary.

    Raises:
        ConfigError: It does, or it is no folder.
    """
    if not target.exists():
        beside = next(parent for parent in target.parents if parent.exists())
        if not beside.is_dir():
            raise _taken(target, f"{beside} is a file")
        return
    if not target.is_dir():
        raise _taken(target, f"{target} is a file")
    there = {each.relative_to(target).as_posix() for each in target.rglob("*") if each.is_file()}
    if not there:
        return
    if RECORD not in there:
        raise _taken(target, f"{target} holds {listed(target)}, and no export of ours")
    try:
        record = DictionaryExport.model_validate_json((target / RECORD).read_bytes())
    except (ValidationError, json.JSONDecodeError) as error:
        raise _taken(target, f"{target / RECORD} is no record of ours") from error
    if record.dictionary != name:
        raise _taken(target, f"{target} holds an export of {record.dictionary or 'another'}")
    strange = sorted(there - {RECORD, *record.files})
    changed = sorted(
        path
        for path, checksum in record.files.items()
        if path in there
        and manifests.checksum_text(crc32c.crc32c((target / path).read_bytes())) != checksum
    )
    if strange or changed:
        what = (
            f"files beside the export: {', '.join(strange[:4])}"
            if strange
            else (f"files that were changed since: {', '.join(changed[:4])}")
        )
        raise _taken(target, f"{target} holds {what}")


def _taken(target: Path, problem: str) -> ConfigError:
    return ConfigError(
        field="folder",
        found=str(target),
        problem=problem,
        expected="a folder that is empty, not there yet, or holds an export of this dictionary",
        hint="choose another folder",
    )
