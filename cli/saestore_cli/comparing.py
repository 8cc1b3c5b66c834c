"""What `evaluate` is asked: a settings file, dictionaries, one evaluation or a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saestore.errors import ConfigError
from saestore_cli import arguments
from saestore_cli.arguments import Arguments


if TYPE_CHECKING:
    from saestore_schemas.evaluate import EvaluateSettings


def asked(given: Sequence[str], *, compare: bool, out: Path | None) -> Arguments:
    """Return what the arguments mean.

    Raises:
        ConfigError: There are two files, or more dictionaries than one without `--compare`.
    """
    if compare:
        return arguments.parsed(given)
    hint = f"saestore evaluate --compare {' '.join(given)}"
    found = arguments.of_one(given, expected="one dictionary, or --compare", hint=hint)
    if out is not None:
        raise ConfigError(
            field="--out",
            found=str(out),
            expected="--compare beside it",
            hint='of one evaluation: saestore query "SELECT * FROM scores" --out FILE.parquet',
        )
    return found


def settings(asked: Arguments, overrides: Sequence[str]) -> "EvaluateSettings":
    """Return the settings of the file, of the first dictionary named if one is.

    Raises:
        ConfigError: A setting is unknown, missing or wrong.
    """
    from saestore.api.config import load
    from saestore_schemas.evaluate import EvaluateSettings

    return load(EvaluateSettings, asked.config, overrides, options=asked.options)
