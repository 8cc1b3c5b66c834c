"""Every settings file in configs/ loads, and names its schema in its first line."""

from pathlib import Path

import pytest

from saestore.api import config, template


ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_settings_file_loads_and_names_its_schema(path):
    verb = path.parent.name
    config.load_settings(verb, path)
    first = path.read_text().splitlines()[0]
    assert first.startswith(template.SCHEMA_LINE)
    schema = (path.parent / first.removeprefix(template.SCHEMA_LINE)).resolve()
    assert schema == ROOT / "schemas" / "json" / f"{verb}.json"


def test_each_verb_has_one():
    assert {path.parent.name for path in FILES} == set(config.VERBS)
