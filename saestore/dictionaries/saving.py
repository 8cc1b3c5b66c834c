"""Dictionaries on disk: `config.json` and `weights.safetensors`.

Saving is pure and byte-deterministic: the same dictionary gives the same bytes. Loading computes
exactly what training computed, or refuses and says why.
"""

from saestore.dictionaries.base import SparseDictionary
from saestore.lake import Lake, Storage


def save(dictionary: SparseDictionary, folder: Storage) -> None:
    """Write config and weights into a folder.

    Raises:
        UnsupportedError: The weights have another type than the config says.
        StorageError: The folder cannot be written.
    """
    raise AssertionError(dictionary, folder)


def load(lake: Lake, name: str) -> SparseDictionary:
    """Return a finished dictionary of the lake.

    Args:
        lake: The lake.
        name: `series/name`.

    Raises:
        ArtefactNotFoundError: There is none of that name.
        IncompleteArtefactError: It is still training.
        DamagedArtefactError: Its files are not what its manifest says.
        FormatVersionError: Another major version wrote it.
    """
    raise AssertionError(lake, name)


def load_folder(folder: Storage) -> SparseDictionary:
    """Return the dictionary in a folder, which need not be in a lake.

    Raises:
        DamagedArtefactError: A file is missing, unreadable, or not what the config says.
        FormatVersionError: Another major version wrote it.
    """
    raise AssertionError(folder)
