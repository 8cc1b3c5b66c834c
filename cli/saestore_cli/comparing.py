"""What `evaluate` is asked: a settings file, dictionaries, one evaluation or a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saestore.errors import ConfigError


if TYPE_CHECKING:
    from saestore_schemas.evaluate import EvaluateSettings


@dataclass(frozen=True)
class Asked:
    """What stands on the command line.

    Attributes:
        config: The settings file, if there is one.
        dictionaries: Dictionaries that are named.
    """

    config: Path | None
    dictionaries: tuple[str, ...]


def asked(given: Sequence[str], *, compare: bool, out: Path | None) -> Asked:
    """Return what the arguments mean: a name that ends in `.toml` is a settings file.

    Raises:
        ConfigError: There are two files, or more dictionaries than one without `--compare`.
    """
    files = [each for each in given if each.endswith(".toml")]
    names = tuple(each.removeprefix("dictionaries/") for each in given if each not in files)
    if len(files) > 1:
        raise ConfigError(
            field="CONFIG.toml",
            found=files,
            expected="one settings file",
            hint="leave out the others",
        )
    if not compare and len(names) > 1:
        raise ConfigError(
            field="DICTIONARY",
            found=list(names),
            expected="one dictionary, or --compare",
            hint=f"saestore evaluate --compare {' '.join(given)}",
        )
    if not compare and out is not None:
        raise ConfigError(
            field="--out",
            found=str(out),
            expected="--compare beside it",
            hint='of one evaluation: saestore query "SELECT * FROM scores" --out FILE.parquet',
        )
    return Asked(Path(files[0]) if files else None, names)


def settings(asked: Asked, overrides: Sequence[str]) -> "EvaluateSettings":
    """Return the settings of the file, of the first dictionary named if one is.

    Raises:
        ConfigError: A setting is unknown, missing or wrong.
    """
    from saestore.api.config import load
    from saestore_schemas.evaluate import EvaluateSettings

    options = {"dictionary": asked.dictionaries[0]} if asked.dictionaries else {}
    return load(EvaluateSettings, asked.config, overrides, options=options)
