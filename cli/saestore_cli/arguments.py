"""What stands behind a verb that works on dictionaries: a settings file, dictionaries, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saestore.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """A settings file and dictionaries.

    Attributes:
        config: The settings file, if there is one.
        dictionaries: Dictionaries that are named.
    """

    config: Path | None
    dictionaries: tuple[str, ...]

    @property
    def options(self) -> Mapping[str, str]:
        """Settings that stand instead of the file's: the first dictionary named, if one is."""
        return {"dictionary": self.dictionaries[0]} if self.dictionaries else {}


def parsed(given: Sequence[str]) -> Arguments:
    """Return what the arguments mean: a name that ends in `.toml` is a settings file.

    Raises:
        ConfigError: There are two files.
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
    return Arguments(Path(files[0]) if files else None, names)


def of_one(given: Sequence[str], *, expected: str, hint: str) -> Arguments:
    """Return the same where only one dictionary makes sense.

    Args:
        given: The arguments.
        expected: What is expected, for people.
        hint: What to do with several.

    Raises:
        ConfigError: There are two files, or two dictionaries.
    """
    found = parsed(given)
    if len(found.dictionaries) > 1:
        raise ConfigError(
            field="DICTIONARY", found=list(found.dictionaries), expected=expected, hint=hint
        )
    return found
