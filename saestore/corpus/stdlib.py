"""English that every machine has: the documentation and sources of Python's standard library.

Three parts: the topics of `pydoc` (prose), the docstrings of each module under the signatures they
belong to (prose with code), and whole source files. They are read where Python is installed, never
copied. Documents stand in the order of a hash of their names, so that the first n of them are a
fair sample of prose and code alike, and the same on every machine with that Python.
"""

import ast
import hashlib
import inspect
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from saestore.corpus import files
from saestore.corpus.documents import Document, Position, Reading
from saestore.errors import ConfigError
from saestore.fingerprint import fingerprint
from saestore_schemas.corpus import StdlibSource


LEFT_OUT = frozenset(
    {
        "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__",
        "encodings",  # tables of characters
        "pydoc_data",  # the topics, which are a part of their own
        "lib2to3", "ensurepip", "turtledemo",
    }
)  # fmt: skip
"""Folders that are not prose about the library, or not there on every machine."""

_Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class _Entry(NamedTuple):
    part: str
    name: str
    path: Path | None

    @property
    def id(self) -> str:
        return f"{self.part}/{self.name}"


class StdlibDocuments:
    """The parts of a `stdlib` source, mixed."""

    metadata = pa.schema([pa.field("part", pa.string())])

    def __init__(self, settings: StdlibSource, field: str) -> None:
        self._parts = settings.parts
        self._root = Path(sysconfig.get_path("stdlib"))
        if not any(self._root.glob("*.py")):
            raise ConfigError(
                field=f"{field}.kind",
                found="stdlib",
                expected=f"Python's sources in {self._root}",
                hint="this Python comes without them: name another corpus, such as text files",
            )
        self._entries = sorted(
            self._list(), key=lambda entry: hashlib.sha256(entry.id.encode()).digest()
        )

    @property
    def fingerprint(self) -> str:
        """Digest of the Python version, the parts and every file's size and ends."""
        found = [files.Found(e.path, e.id) for e in self._entries if e.path is not None]
        topics = [(e.name, _topics()[e.name]) for e in self._entries if e.path is None]
        return fingerprint(
            "stdlib", platform.python_version(), self._parts, topics, files.digest(found)
        )

    def documents(self, start: int = 0, *, position: Position = None) -> Reading:
        """Read topics, modules' docstrings and sources; modules without docstrings are none."""
        at = [int(str(position or 0))]  # entries read
        return Reading(self._documents(0 if at[0] else start, at), lambda: at[0])

    def _documents(self, skipped: int, at: list[int]) -> Iterator[Document]:
        for number, (entry, text) in enumerate(self._texts(at)):
            if number >= skipped:
                yield Document(
                    id=entry.id, source="stdlib", text=text, metadata={"part": entry.part}
                )

    def _texts(self, at: list[int]) -> Iterator[tuple[_Entry, str]]:
        for entry in self._entries[at[0] :]:
            at[0] += 1
            if entry.path is None:
                text = _topics()[entry.name].strip() + "\n"
            else:
                with tokenize.open(entry.path) as file:
                    text = file.read()
                if entry.part == "docstrings":
                    text = docstrings(text, entry.name)
            if text:
                yield entry, text

    def _list(self) -> Iterator[_Entry]:
        if "topics" in self._parts:
            yield from (_Entry("topics", name, None) for name in _topics())
        if not {"docstrings", "sources"} & set(self._parts):
            return
        for path in self._root.rglob("*.py"):
            below = path.relative_to(self._root)
            if LEFT_OUT & set(below.parts) or below.name.startswith("_sysconfigdata"):
                continue
            if "docstrings" in self._parts:
                module = ".".join(below.with_suffix("").parts).removesuffix(".__init__")
                yield _Entry("docstrings", module, path)
            if "sources" in self._parts:
                yield _Entry("sources", below.as_posix(), path)


def docstrings(source: str, module: str) -> str:
    """Return a module's docstrings in source order, each under its name or signature.

    Empty if there are none.
    """
    tree = ast.parse(source)
    found = [f"{module}\n\n{doc}"] if (doc := ast.get_docstring(tree)) else []
    found.extend(f"{head}\n{inspect.cleandoc(doc)}" for head, doc in _inside(tree, ""))
    return "\n\n\n".join(found) + "\n" if found else ""


def _inside(node: ast.Module | _Documented, prefix: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Documented):
            name = f"{prefix}{child.name}"
            if doc := ast.get_docstring(child, clean=False):
                yield _head(child, name), doc
            yield from _inside(child, f"{name}.")


def _head(node: _Documented, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if bases else f"class {name}"
    return f"{name}({ast.unparse(node.args)})"


def _topics() -> dict[str, str]:
    # Half a megabyte of literals: loaded when first asked for.
    from pydoc_data.topics import topics  # noqa: PLC0415

    return dict(topics)
