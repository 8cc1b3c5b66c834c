"""Write the JSON Schemas and the reference pages from the code they describe.

python docs/generate.py          write what is stale
python docs/generate.py --check  say what is stale and fail
"""

import argparse
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from saestore import errors
from saestore.api import config, problems, template
from saestore.features import named_queries
from saestore_cli import report
from saestore_cli.app import build
from saestore_schemas import metrics, tables
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.manifest import Manifest
from saestore_schemas.server import ServerSettings
from saestore_schemas.settings import MachineSettings
from saestore_schemas.table import TABLE_VERSION


ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = "schemas/json"
REFERENCE = "docs/reference"


def generated() -> dict[str, str]:
    """Return every generated file: path relative to the repository, and content."""
    files = {f"{SCHEMAS}/{verb}.json": template.json_schema(verb) for verb in config.VERBS}
    for name, model in (("manifest", Manifest), ("dictionary", DictionaryConfig)):
        schema = model.model_json_schema()
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        files[f"{SCHEMAS}/{name}.json"] = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    pages = {
        "cli": cli_page, "settings": settings_page, "tables": tables_page,
        "errors": errors_page, "queries": queries_page, "metrics": metrics_page,
    }  # fmt: skip
    for name, page in pages.items():
        files[f"{REFERENCE}/{name}.md"] = "\n".join(page()).rstrip() + "\n"
    return files


def stale() -> list[str]:
    """Return the paths whose content is not what the code says."""
    return [
        path
        for path, content in generated().items()
        if not (ROOT / path).is_file() or (ROOT / path).read_text(encoding="utf-8") != content
    ]


def cli_page() -> Iterator[str]:
    """Write the command line's reference."""
    yield from (
        "# Command line",
        "",
        "Generated from the commands by `docs/generate.py`.",
        "",
        "Every command takes `--help`, `--debug` (show tracebacks) and `--output json`. Answers go",
        "to stdout; progress, warnings and errors to stderr, except that `--output json` puts",
        'errors on stdout too, as `{"error": {"kind", "message", "found", "expected",',
        '"hint"}}`. `NO_COLOR` turns colours into brackets.',
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | done |",
        f"| {report.FAILED} | what was asked for could not be done |",
        f"| {report.MISTAKE} | what was typed is wrong: a name, a setting, a question |",
        f"| {report.INTERRUPTED} | Ctrl-C: run the same command again to resume |",
        "",
        "Running a command again resumes what was interrupted and does nothing twice.",
        "",
    )
    for path, command in commands(build()):
        yield from _command(path, command)


def commands(group: TyperGroup, path: str = "saestore") -> Iterator[tuple[str, TyperCommand]]:
    """Return every command with its full name, in the order of the help."""
    for name, each in group.commands.items():
        if isinstance(each, TyperGroup):
            yield from commands(each, f"{path} {name}")
        elif isinstance(each, TyperCommand):
            yield f"{path} {name}", each


def _command(path: str, command: TyperCommand) -> Iterator[str]:
    yield from (f"## {path}", "", (command.help or "").strip(), "")
    arguments = [p for p in command.params if isinstance(p, TyperArgument)]
    options = [p for p in command.params if isinstance(p, TyperOption)]
    usage = " ".join(p.metavar or p.name.upper() for p in arguments)
    yield from ("```", f"{path} {usage} [OPTIONS]".replace("  ", " "), "```", "")
    rows = [(p.metavar or p.name.upper(), p.help or "") for p in arguments]
    rows += [(" ".join((*p.opts, *_metavar(p))), (p.help or "") + _default_of(p)) for p in options]
    yield from _table(("", ""), [(f"`{name}`", text) for name, text in rows])
    examples = (command.epilog or "").split("\n\n")[1:]
    yield from ("```console", *(f"$ {line.replace(chr(92) + '[', '[')}" for line in examples))
    yield from ("```", "")


def _metavar(option: TyperOption) -> Iterator[str]:
    if option.is_flag:
        return
    if option.metavar:
        yield option.metavar
    else:
        descriptor = option.type_descriptor
        choices = [str(getattr(c, "value", c)) for c in descriptor.choices or ()]
        yield "|".join(choices) if choices else option.bare_type().upper()


def _default_of(option: TyperOption) -> str:
    if option.default in (None, False, ()) or not option.show_default:
        return ""
    return f" Default {option.default}."


def settings_page() -> Iterator[str]:
    """Write every setting of every verb, and the machine's variables."""
    yield from (
        "# Settings",
        "",
        "Generated from the settings models by `docs/generate.py`.",
        "",
        "A verb reads one TOML file; `--set a.b.c=value` changes any setting of it.",
        "`saestore config show VERB` prints a file with every setting, and `saestore config check",
        "FILE` checks one. Unknown settings are errors. **!** marks settings without a default.",
        "TOML has no null: where a meaning says null, write `false`. A setting whose default is null is",
        "left out instead.",
        "",
        "The first line of a settings file names its JSON Schema, so that editors complete it:",
        "`#:schema ./generate.schema.json`; `saestore config schema generate` prints that schema.",
        "",
    )
    for verb, model in config.VERBS.items():
        yield from (f"## saestore {verb}", "", _doc(model), "")
        yield from _settings(model, "")
    yield from (
        "## This machine",
        "",
        "Facts about the machine are environment variables, overruled by flags. They are never part",
        "of an artefact's fingerprint. An unknown `SAESTORE_*` variable is warned about.",
        "",
    )
    yield from _variables(MachineSettings)
    yield from ("### The server", "", _doc(ServerSettings), "")
    yield from _variables(ServerSettings)


def _variables(model: type[BaseSettings]) -> Iterator[str]:
    prefix = str(model.model_config.get("env_prefix", ""))
    rows = [
        (
            f"`{prefix}{name.upper()}`",
            _type(field.annotation) + _range(field),
            _default(field),
            " ".join((field.description or "").split()),
        )
        for name, field in model.model_fields.items()
    ]
    yield from _table(("variable", "type", "default", "meaning"), rows)


def _settings(model: type[BaseModel], prefix: str) -> Iterator[str]:
    plain, sections = [], []
    for name, field in model.model_fields.items():
        children = list(problems.models_in(field.annotation))
        if children:
            sections.append((name, field, children))
        needed = " **!**" if field.is_required() else ""
        meaning = " ".join((field.description or "").split())
        kind = _type(field.annotation) + _range(field)
        plain.append((f"`{name}`{needed}", kind, _default(field), meaning))
    yield from _table(("setting", "type", "default", "meaning"), plain)
    for name, field, children in sections:
        many = get_origin(field.annotation) in {tuple, list, dict}
        path = f"{prefix}{name}"
        for child in children:
            kind = child.model_fields.get("kind") or child.model_fields.get("family")
            tagged = len(children) > 1 and kind is not None
            which = f', kind = "{kind.default}"' if tagged and kind is not None else ""
            each = ".NAME" if get_origin(field.annotation) is dict else "[]" if many else ""
            yield from (f"### `{path}{each}`{which}", "", _doc(child), "")
            yield from _settings(child, f"{path}{each}.")


def tables_page() -> Iterator[str]:
    """Write every Parquet table: columns, types, meaning, order."""
    yield from (
        "# Tables",
        "",
        "Generated from `saestore_schemas.tables` by `docs/generate.py`.",
        "",
        f"Table version {TABLE_VERSION}. In SQL, the tables of all analyses are views that",
        "carry the columns `series`, `dictionary` and `analysis` too. A column holds null only where",
        "its meaning says so.",
        "",
    )
    for table in tables.TABLES:
        yield from (f"## {table.name}", "", f"{table.doc} Sorted by {', '.join(table.sort)}.", "")
        rows = [
            (f"`{c.name}`", f"`{c.type}`".replace(" not null", ""), c.doc) for c in table.columns
        ]
        yield from _table(("column", "type", "meaning"), rows)


def metrics_page() -> Iterator[str]:
    """Write every score of an evaluation with its unit and definition."""
    yield from (
        "# Metrics",
        "",
        "Generated from `saestore_schemas.metrics` by `docs/generate.py`.",
        "",
        "What `saestore evaluate` scores. y is a row of the hookpoint, yhat its reconstruction, e",
        "their difference; sums run over rows and dimensions, E is the mean over rows. A ratio has",
        "no unit. What is undefined is null. Several hookpoints add `@hookpoint` to the names. A",
        "batch is 4096 consecutive evaluated rows.",
        "",
    )
    groups = {
        "Reconstruction": metrics.RECONSTRUCTION,
        "Several hookpoints together": metrics.POOLED,
        "Sparsity": metrics.SPARSITY,
        "How alike features are": metrics.COSINES,
        "Cross-entropy and divergence": metrics.CROSS_ENTROPY,
        "Jacobians": metrics.JACOBIAN,
    }
    for title, group in groups.items():
        yield from (f"## {title}", "")
        yield from _table(
            ("metric", "unit", "definition"), [(f"`{m.name}`", m.unit, m.doc) for m in group]
        )


def errors_page() -> Iterator[str]:
    """Write the tree of errors with the exit codes of the command line."""
    tree = (errors.__doc__ or "").split("\n\n")[1]
    yield from (
        "# Errors",
        "",
        "Generated from `saestore.errors` by `docs/generate.py`.",
        "",
        "Every error that a user can cause is one of these. `.found` and `.expected` say what was",
        "wrong, `.hint` what to do now; the command line prints the hint on a line of its own.",
        "",
        "```",
        *(line.removeprefix("    ") for line in tree.splitlines()),
        "```",
        "",
    )
    rows = []
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and errors.SaestoreError in kind.__mro__[1:]:
            code = report.MISTAKE if issubclass(kind, report.MISTAKES) else report.FAILED
            doc = (kind.__doc__ or "").split("\n\n", maxsplit=1)[0]
            rows.append((f"`{name}`", " ".join(doc.split()), str(code)))
    yield from _table(("error", "when", "exit code"), rows)


def queries_page() -> Iterator[str]:
    """Write every named query with its parameters and SQL."""
    yield from (
        "# Named queries",
        "",
        "Generated from the queries by `docs/generate.py`.",
        "",
        "`saestore query NAME --param name=value --in SERIES/NAME[/ANALYSIS]` runs one inside one",
        "analysis; from Python, `lake.named(name, params, analysis=...)`.",
        "",
    )
    for query in named_queries().values():
        yield from (f"## {query.name}", "", query.doc, "")
        rows = [
            (f"`{p.name}`", p.type, f"`{p.written}`" if p.written else "**!**", p.doc)
            for p in query.params
        ]
        if rows:
            yield from _table(("parameter", "type", "default", "meaning"), rows)
        yield from ("```sql", query.sql.strip(), "```", "")


def _type(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in {Annotated, Union, types.UnionType, tuple, list}:
        inner = args[:1] if origin is Annotated else [arg for arg in args if arg is not ...]
        named = dict.fromkeys(_type(arg) for arg in inner)
        return f"list of {', '.join(named)}" if origin in {tuple, list} else " or ".join(named)
    if origin is Literal:
        return " ".join(f"`{value}`" for value in args)
    if origin is dict:
        return "named sections"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return "null" if annotation is type(None) else str(annotation.__name__)


def _range(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{sign} {getattr(each, name)}"
        for each in field.metadata
        for name, sign in signs.items()
        if getattr(each, name, None) is not None
    ]
    return f", {', '.join(limits)}" if limits else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, (BaseModel, dict)):
        return "on" if isinstance(value, BaseModel) else ", ".join(f"`{key}`" for key in value)
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value)}`"


def _doc(model: type[BaseModel]) -> str:
    return re.sub(r"\s*\n(?!\n)\s*", " ", (model.__doc__ or "").strip())


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        cells = (" ".join(str(cell).split()).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""


def main() -> int:
    """Write, or check, every generated file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if stale")
    check = parser.parse_args().check
    content, old = generated(), stale()
    for path in old:
        if check:
            print(f"stale: {path}")
        else:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(content[path], encoding="utf-8")
            print(f"wrote {path}")
    if check and old:
        print("regenerate them: python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
