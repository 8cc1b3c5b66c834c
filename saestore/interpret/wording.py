"""The words of prompts: plain text files with a version in their names, never edited after a release.

Another wording is another file, `top-2.txt`, and another version in the tables.
"""

from functools import cache
from importlib import resources


def wording(*names: str) -> str:
    """Return some files of `prompts/`, one after another with an empty line between.

    Args:
        names: Their names without `.txt`, such as `top-1`.
    """
    return "\n\n".join(_file(name) for name in names)


@cache
def _file(name: str) -> str:
    folder = resources.files("saestore.interpret").joinpath("prompts")
    return folder.joinpath(f"{name}.txt").read_text("utf-8").strip()
