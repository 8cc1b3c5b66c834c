"""Printed settings files: complete, true, and loadable as they are."""

import json
import re
import tomllib
from typing import get_origin

import pytest

from saestore.api import config, problems, template
from saestore.errors import ConfigError


def settings_in(model, prefix=()):
    for name, field in model.model_fields.items():
        children = list(problems.models_in(field.annotation))
        if not children:
            yield name, field
        # The settings of named sections are listed in one line each.
        for child in [] if get_origin(field.annotation) is dict else children:
            yield from settings_in(child, (*prefix, name))


@pytest.mark.parametrize("verb", config.VERBS)
def test_a_printed_file_loads_and_means_the_defaults(verb, tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(template.toml(verb))
    loaded = config.load_settings(verb, file)
    examples = {}
    for path, value in template.EXAMPLES[verb].items():
        here = examples
        *sections, last = path.split(".")
        for section in sections:
            here = here.setdefault(section, {})
        here[last] = value
    assert loaded == config.as_settings(config.VERBS[verb], examples)


@pytest.mark.parametrize("verb", config.VERBS)
def test_a_printed_file_shows_every_setting_with_its_meaning(verb):
    text = template.toml(verb)
    words = " ".join(re.sub(r"(?m)^#+ ?!? ?", "", text).split())
    for name, field in settings_in(config.VERBS[verb]):
        assert re.search(rf"(?m)^(# )?{name} = |\b{name}\b", text), name
        first = " ".join(field.description.split())[:60]
        if f"\n{name} = " in text or f"\n# {name} = " in text:
            assert first in words or field.description == "Discriminator.", name


@pytest.mark.parametrize("verb", config.VERBS)
def test_commented_settings_are_toml_too(verb):
    found = [
        match.group(1)
        for line in template.toml(verb).splitlines()
        if (match := re.fullmatch(r"# ([a-z_0-9]+ = .*)", line))
        and not match.group(1).endswith("...")
    ]
    assert found
    assert all(tomllib.loads(line) for line in found)


@pytest.mark.parametrize("verb", config.VERBS)
def test_the_first_line_names_the_schema(verb):
    assert template.toml(verb).startswith(f"{template.SCHEMA_LINE}./{verb}.schema.json\n")


@pytest.mark.parametrize("verb", config.VERBS)
def test_the_schema_takes_false_where_a_setting_may_be_null(verb):
    schema = json.loads(template.json_schema(verb))
    assert '"type": "null"' not in template.json_schema(verb)
    assert schema["$schema"]
    assert schema["additionalProperties"] is False


def test_the_schema_describes_every_setting():
    for verb in config.VERBS:
        schema = json.loads(template.json_schema(verb))
        for model in (schema, *schema["$defs"].values()):
            for each in model.get("properties", {}).values():
                # A section whose meaning is its model's docstring has it there.
                assert "description" in each or "$ref" in each


def test_an_unknown_verb_is_refused():
    with pytest.raises(ConfigError, match="verb: found 'trian'"):
        template.toml("trian")
