"""Examples in docs are tests: every Python block of the Markdown pages, every `>>>` of the library."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser


pytest_collect_file = (
    Sybil(
        parsers=[SkipParser(), PythonCodeBlockParser()],
        patterns=["README.md", "docs/**/*.md"],
        fixtures=["demo_folder"],
    )
    + Sybil(parsers=[DocTestParser()], patterns=["saestore/**/*.py"])
).pytest()
