"""Calls made in another process by `anyio.to_process`.

A process of anyio's has no `__main__` where the one that started it has none in a file, as in a notebook, and
DuckDB cannot be imported then. What is called is named, so that this module comes first, before the arguments.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


sys.modules.setdefault("__main__", ModuleType("__main__"))


def call(name: str, *arguments: Any) -> Any:
    """Return what a function returns.

    Args:
        name: `module:function`.
        arguments: Its arguments.
    """
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)(*arguments)
