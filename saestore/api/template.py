"""Settings files and JSON Schemas written from the settings models: one source for all of them."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from saestore.api import problems
from saestore.api.config import settings_of
from saestore_schemas.activations import RowRange


EXAMPLES: dict[str, dict[str, Any]] = {
    "generate": {
        "name": "pythia-70m",
        "lm.model": "EleutherAI/pythia-70m",
        "corpus.sources": [{"kind": "text", "path": "books"}],
        "hookpoints": ["blocks.3.hook_resid_post"],
    },
    "train": {
        "series": "pythia-70m",
        "name": "topk-32",
        "activations.name": "pythia-70m",
        "dictionary.hookpoint": "blocks.3.hook_resid_post",
        "dictionary.expansion": 8.0,
        "dictionary.activation": {"kind": "topk", "k": 32},
        "budget.epochs": 1.0,
    },
    "evaluate": {"dictionary": "pythia-70m/topk-32"},
    "analyze": {"dictionary": "pythia-70m/topk-32"},
    "interpret": {"features": "pythia-70m/topk-32", "endpoint.model": "gpt-4o-mini"},
    "import": {
        "name": "imported",
        "source": {"kind": "llamascopium", "path": "activations"},
    },
}
"""What stands in a printed file where a setting has no default."""

_WIDTH = 96

SCHEMA_LINE = "#:schema "
"""First line of a settings file: where editors find its JSON Schema."""


def toml(verb: str) -> str:
    """Return a settings file with every setting, its default and its meaning; it loads as it is.

    Settings without a default hold an example. Settings that are absent by default, and the
    alternatives of a section, are commented out.

    Raises:
        ConfigError: There is no such verb.
    """
    model = settings_of(verb)
    lines = [
        f"{SCHEMA_LINE}./{verb}.schema.json",
        f"# saestore {verb}: every setting, its default, what it means. `!` marks those without a",
        "# default: change the example that stands there. A commented setting is absent by default.",
        "# TOML has no null: where a text below says null, write false.",
        f"# The schema on the first line: saestore config schema {verb} > {verb}.schema.json",
        "",
        *_comment(model.__doc__ or "", prefix="# "),
        "",
        *_section(verb, model, (), live=True),
    ]
    return "\n".join(lines).rstrip() + "\n"


def json_schema(verb: str) -> str:
    """Return the JSON Schema of a verb's settings file.

    TOML has no null. The schema takes `false` where null differs from leaving the setting out.

    Raises:
        ConfigError: There is no such verb.
    """
    schema = settings_of(verb).model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(_toml_nulls(schema), indent=1, ensure_ascii=False) + "\n"


def _toml_nulls(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_toml_nulls(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "default" in schema and schema["default"] is None and "anyOf" in schema:
        # Null by default: a file leaves it out.
        others = [each for each in schema["anyOf"] if each != {"type": "null"}]
        kept = {k: v for k, v in schema.items() if k not in {"default", "anyOf"}}
        schema = {**kept, **(others[0] if len(others) == 1 else {"anyOf": others})}
    if schema.get("type") == "null":
        return {"const": False, "description": "false: none, switched off"}
    return {key: _toml_nulls(value) for key, value in schema.items()}


def _section(
    verb: str, model: type[BaseModel], path: tuple[str, ...], *, live: bool
) -> Iterator[str]:
    """Write a model's plain settings, then its sections, as TOML orders them."""
    plain: list[tuple[str, FieldInfo, list[type[BaseModel]]]] = []
    sections: list[tuple[str, FieldInfo, list[type[BaseModel]]]] = []
    for name, field in model.model_fields.items():
        children = list(problems.models_in(field.annotation))
        (sections if children and not _inline(verb, (*path, name)) else plain).append(
            (name, field, children)
        )
    mark = "" if live else "# "
    for name, field, _ in plain:
        yield from _setting(verb, (*path, name), field, mark)
    for name, field, children in sections:
        yield from _subsection(verb, (*path, name), field, children, live=live)


def _inline(verb: str, path: tuple[str, ...]) -> bool:
    """Return whether an example of a whole list stands in one line."""
    return isinstance(EXAMPLES[verb].get(".".join(path)), list)


def _example(verb: str, path: tuple[str, ...]) -> Any:
    """Return the example of a setting, alone or as part of its section's."""
    section = EXAMPLES[verb].get(".".join(path[:-1]))
    if isinstance(section, Mapping) and path[-1] in section:
        return section[path[-1]]
    return EXAMPLES[verb].get(".".join(path))


def _setting(verb: str, path: tuple[str, ...], field: FieldInfo, mark: str) -> Iterator[str]:
    name = path[-1]
    example = _example(verb, path)
    needed = field.is_required()
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if name in {"kind", "family"} and len(choices) == 1:
        yield f'{mark}{name} = "{field.default}"'
        return
    listed = f" One of {', '.join(choices)}." if len(choices) > 1 else ""
    prefix = "## " if mark else "# ! " if needed else "# "
    yield from _comment(f"{field.description}{listed}", prefix=prefix)
    value = example if example is not None else _default(field)
    if value is None:
        yield f"# {name} = {_hint_of(field)}"
    else:
        yield f"{mark}{name} = {_value(value)}"
    for alternative in _alternatives(field) if example is not None else ():
        yield f"#   {alternative}"
    if not mark:
        yield ""


def _subsection(
    verb: str,
    path: tuple[str, ...],
    field: FieldInfo,
    children: list[type[BaseModel]],
    *,
    live: bool,
) -> Iterator[str]:
    dotted = ".".join(path)
    default = _default(field)
    example = EXAMPLES[verb].get(dotted)
    if get_origin(field.annotation) is dict:
        yield from _table_of(dotted, field, default, children)
        return
    chosen = example if isinstance(example, Mapping) else default
    several = get_origin(field.annotation) is tuple
    live_here = live and not several and (chosen is not None or field.is_required())
    yield from _comment(field.description or "", prefix="# ! " if field.is_required() else "# ")
    shown = _matching(children, chosen)
    if several:
        yield "# None by default; this section can be written several times."
    elif chosen is None and not field.is_required():
        yield "# Absent by default."
    for child in [shown, *(c for c in children if c is not shown)]:
        alive = live_here and child is shown
        mark = "" if alive else "# "
        if child is not shown:
            yield f"# Or: {_first_sentence(child)}"
        yield f"{mark}[[{dotted}]]" if several else f"{mark}[{dotted}]"
        yield from _section(verb, child, path, live=alive)
        if not alive:
            yield ""


def _table_of(
    dotted: str, field: FieldInfo, default: Mapping[str, Any], children: list[type[BaseModel]]
) -> Iterator[str]:
    """Write a dictionary of sections, such as the subsamples."""
    yield from _comment(field.description or "", prefix="# ")
    for child in children:
        names = ", ".join(n for n in child.model_fields if n != "kind")
        own = child.model_fields.get("kind")
        what = f"[{dotted}.NAME]" if own is None else f'"{own.default}"'
        yield from _comment(f"{what} ({names}): {_first_sentence(child)}", prefix="#   ")
    for key, value in default.items():
        yield f"[{dotted}.{key}]"
        yield from (f"{name} = {_value(each)}" for name, each in value.items())
        yield ""


def _matching(children: list[type[BaseModel]], chosen: Any) -> type[BaseModel]:
    kind = chosen.get("kind") if isinstance(chosen, Mapping) else None
    for child in children:
        own = child.model_fields.get("kind")
        if kind is not None and own is not None and own.default == kind:
            return child
    return children[0]


def _alternatives(field: FieldInfo) -> Iterator[str]:
    """Return one example line for each kind of a list's items."""
    for child in problems.models_in(field.annotation):
        needed = [n for n, f in child.model_fields.items() if f.is_required()]
        own = child.model_fields["kind"].default
        parts = [f'kind = "{own}"', *(f'{name} = "..."' for name in needed)]
        others = [n for n in child.model_fields if n != "kind" and n not in needed]
        also = f"  # also: {', '.join(others)}" if others else ""
        yield f"{{ {', '.join(parts)} }}{also}"


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {k: v for k, v in value.model_dump(mode="json").items() if v is not None}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    if isinstance(value, float) and value and abs(value) < 1e-3:  # noqa: PLR2004 - readable
        return f"{value!r}"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _hint_of(field: FieldInfo) -> str:
    """Return what a value of an absent setting looks like."""
    if problems.allows(field.annotation, bool):
        return "true"
    for kind, text in ((int, "1"), (float, "0.001"), (str, '"..."')):
        if problems.allows(field.annotation, kind):
            return text
    return "[0, 1000]" if RowRange in get_args(field.annotation) else "..."


def _comment(text: str, *, prefix: str) -> Iterator[str]:
    for number, paragraph in enumerate(textwrap.dedent(text).strip().split("\n\n")):
        if number:
            yield "#"
        words = " ".join(paragraph.split())
        for line in textwrap.wrap(words, _WIDTH - len(prefix)):
            yield f"{prefix}{line}"
            prefix = prefix.replace("! ", "")


def _first_sentence(model: type[BaseModel]) -> str:
    words = " ".join((model.__doc__ or "").split())
    return words.split(". ")[0].rstrip(".") + "."
