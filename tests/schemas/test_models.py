"""Everything written to disk or read from a file: documented, closed, frozen, and round."""

import importlib
import json
import pkgutil

import pyarrow as pa
import pytest
from pydantic import BaseModel, ValidationError

import saestore_schemas
from saestore.api import config, template
from saestore_schemas import tables
from saestore_schemas.base import Model
from saestore_schemas.table import TABLE_VERSION


def models():
    found = set()
    for module in pkgutil.iter_modules(saestore_schemas.__path__):
        loaded = importlib.import_module(f"saestore_schemas.{module.name}")
        found |= {
            each
            for each in vars(loaded).values()
            if isinstance(each, type) and issubclass(each, Model) and each is not Model
        }
    return sorted(found, key=lambda m: m.__name__)


@pytest.mark.parametrize("model", models(), ids=lambda m: m.__name__)
def test_a_model_and_its_fields_are_documented(model):
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.strip().endswith((".", "`", ")")), (name, field.description)


@pytest.mark.parametrize("model", models(), ids=lambda m: m.__name__)
def test_a_model_is_frozen_and_closed(model):
    assert model.model_config["frozen"]
    assert model.model_config["extra"] == "forbid"
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"surely_no_field": 1})


def test_a_field_without_a_docstring_is_refused_when_the_class_is_defined():
    with pytest.raises(TypeError, match="Bare: every field needs a docstring; missing on x"):
        type("Bare", (Model,), {"__annotations__": {"x": int}, "__module__": __name__})


@pytest.mark.parametrize("verb", config.VERBS)
def test_settings_survive_json_and_the_manifest(verb):
    model = config.VERBS[verb]
    example = config.load_settings(verb, None, [f"{k}={_toml(v)}" for k, v in _flat(verb)])
    assert isinstance(example, BaseModel)
    dumped = json.loads(json.dumps(example.model_dump(mode="json")))
    assert model.model_validate(dumped) == example
    assert model.model_validate_json(example.model_dump_json()) == example


def _flat(verb):
    return template.EXAMPLES[verb].items()


def _toml(value):
    return template._value(value)


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda t: t.name)
def test_a_table_is_documented_sorted_by_its_columns_and_says_its_version(table):
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert {name for name, _ in table.order} <= set(names)
    assert table.doc.endswith(".")
    assert all(column.doc for column in table.columns)
    schema = table.schema()
    assert schema.metadata[b"saestore.table"] == table.name.encode()
    assert schema.metadata[b"saestore.table_version"] == str(TABLE_VERSION).encode()
    assert schema.equals(pa.schema(schema), check_metadata=True)


def test_nullable_columns_say_when_they_are_null():
    for table in tables.TABLES:
        for column in table.columns:
            if column.nullable:
                assert any(w in column.doc for w in ("null", "if ", "where")), column.name
