"""Settings from a TOML file, a mapping and `--set` overrides, or an error that names the repair.

TOML has no null. Where null differs from leaving a setting out (a section switched off, a limit
lifted), the file says `false`; `--set` takes `null` for any setting that may be null.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings

from saestore.api import problems
from saestore.errors import ConfigError, nearest
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.exchange import ImportSettings
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.interpret import InterpretSettings
from saestore_schemas.server import ServerSettings
from saestore_schemas.settings import MachineSettings
from saestore_schemas.train import TrainSettings


VERBS: dict[str, type[BaseModel]] = {
    "generate": GenerateSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "analyze": AnalyzeSettings,
    "interpret": InterpretSettings,
    "import": ImportSettings,
}
"""Verbs that take a settings file, in the order of the main job."""

OVERRIDES = "--set"
"""Where a setting stands that came from an override."""

PREFIX = "SAESTORE_"
"""What environment variables for saestore begin with."""

ENVIRONMENT: tuple[type[BaseSettings], ...] = (MachineSettings, ServerSettings)
"""Settings that come from environment variables."""

M = TypeVar("M", bound=BaseModel)
S = TypeVar("S", bound=BaseSettings)


def settings_of(verb: str) -> type[BaseModel]:
    """Return the settings model of a verb.

    Raises:
        ConfigError: There is no such verb.
    """
    if verb not in VERBS:
        close = nearest(verb, list(VERBS), n=1)
        raise ConfigError(
            field="verb",
            found=verb,
            expected=f"one of {', '.join(VERBS)}",
            hint=f"did you mean {close[0]}?" if close else "`saestore --help` lists the verbs",
        )
    return VERBS[verb]


def load_settings(
    verb: str,
    path: str | os.PathLike[str] | None,
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
) -> BaseModel:
    """Return the settings of a verb: the file, changed by the overrides, validated.

    Args:
        verb: `generate`, `train`, `evaluate`, `analyze`, `interpret` or `import`.
        path: A TOML file; None starts from nothing.
        overrides: `a.b.c=value` each, in order; values in TOML's spelling, bare words are strings.
        options: Settings by dotted path that stand instead of the file's.

    Raises:
        ConfigError: The file is missing or not TOML, an override is malformed, or a setting is
            unknown, missing or wrong. All problems are listed, the first one is the error.
    """
    return load(settings_of(verb), path, overrides, options=options)


def load(
    model: type[M],
    path: str | os.PathLike[str] | None,
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
) -> M:
    """Return settings of one model from a file and overrides, as `load_settings` does.

    Args:
        model: The settings' model.
        path: A TOML file; None starts from nothing.
        overrides: As there; the last word.
        options: Settings by dotted path that stand instead of the file's.

    Raises:
        ConfigError: As there.
    """
    data = {} if path is None else read_toml(path)
    for name, value in (options or {}).items():
        _put(data, tuple(name.split(".")), value)
    changed = [_assign(data, text) for text in overrides]
    return _validated(
        model,
        problems.without_false(model, data),
        file=None if path is None else os.fspath(path),
        changed=tuple(changed),
    )


def as_settings(model: type[M], settings: M | Mapping[str, Any] | str | os.PathLike[str]) -> M:
    """Return settings given as the model itself, a mapping with the same keys, or a TOML file.

    Raises:
        ConfigError: As `load_settings`.
    """
    if isinstance(settings, model):
        return settings
    if isinstance(settings, Mapping):
        return _validated(model, dict(settings), file=None, changed=())
    if isinstance(settings, (str, os.PathLike)):
        return load(model, settings)
    raise ConfigError(
        field="settings",
        found=type(settings).__name__,
        expected=f"{model.__name__}, a mapping, or the path of a TOML file",
        hint="`saestore config show VERB` prints a file to start from",
    )


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a TOML file's contents.

    Raises:
        ConfigError: It is missing, a folder, not UTF-8, or not TOML (with line and column).
    """
    name = os.fspath(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(
            field="settings file",
            found=name,
            expected="an existing TOML file",
            hint=_beside(Path(path)),
            problem=f"there is no file {name}",
        ) from error
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            field="settings file",
            found=name,
            expected="a readable TOML file",
            hint="save it as UTF-8"
            if isinstance(error, UnicodeDecodeError)
            else "name the file itself, such as configs/train/topk.toml",
            problem=f"cannot read {name}: {why}",
        ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            field="TOML",
            found=None,
            expected="valid TOML",
            hint="text stands in quotes, sections are [section], lists are [1, 2]",
            file=name,
            problem=str(error),
        ) from error


def parse_override(text: str) -> tuple[tuple[str | int, ...], Any]:
    """Return the path and value of one `a.b.c=value`.

    >>> parse_override("dictionary.activation.k=32")
    (('dictionary', 'activation', 'k'), 32)
    >>> parse_override("corpus.sources[0].path=books/a.txt")
    (('corpus', 'sources', 0, 'path'), 'books/a.txt')

    Raises:
        ConfigError: There is no `=`, a part of the path is empty, or the value opens a TOML list,
            table or string and does not close it.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().replace("[", ".").replace("]", "").split(".")
    if not equals or not all(parts):
        raise ConfigError(
            field=OVERRIDES,
            found=text,
            expected="name=value, such as dictionary.activation.k=32",
            hint="write the dotted path of a setting, `=`, and its value, without spaces",
        )
    path = tuple(int(part) if part.isdigit() else part for part in parts)
    return path, _value(key.strip(), value.strip())


def _value(key: str, text: str) -> Any:
    if text == "null":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text[:1] in {"[", "{", '"', "'"} or "\n" in text:
            raise ConfigError(
                field=key,
                found=text,
                expected="a value as TOML writes it",
                hint=f"quote it for the shell: {OVERRIDES} '{key}=[1, 2]'; {error}",
                file=OVERRIDES,
            ) from error
        return text


def _assign(data: dict[str, Any], text: str) -> tuple[str | int, ...]:
    path, value = parse_override(text)
    here: Any = data
    for depth, part in enumerate(path):
        fits = (
            (isinstance(here, dict) and isinstance(part, str))
            or (isinstance(here, list) and isinstance(part, int) and part < len(here))
        )  # fmt: skip
        if not fits:
            where = problems.dotted(path[:depth])
            size = f"a list of {len(here)}" if isinstance(here, list) else repr(here)
            raise ConfigError(
                field=problems.dotted(path),
                found=here,
                expected=f"a section or list that has {part!r}",
                hint=f"set {where or 'the section'} itself, or another name below it",
                file=OVERRIDES,
                problem=f"{where or 'the file'} is {size}, which has no {part!r}",
            )
        if depth == len(path) - 1:
            here[part] = value
        elif isinstance(here, dict):
            here = here.setdefault(part, {})
        else:
            here = here[part]
    return path


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    here = data
    for part in path[:-1]:
        here = here.setdefault(part, {})
    here[path[-1]] = value


def _validated(
    model: type[M], data: dict[str, Any], *, file: str | None, changed: tuple[Any, ...]
) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        verb = next((name for name, known in VERBS.items() if known is model), None)
        if verb is not None and (other := _other_verb(verb, data)) is not None:
            raise ConfigError(
                field="settings file",
                found=other,
                expected=f"settings of saestore {verb}",
                hint=f"saestore {other} {file or 'FILE'}",
                file=file,
                problem=f"holds settings of saestore {other}",
            ) from error

        def source(path: tuple[str | int, ...]) -> str | None:
            mine = any(path[: len(c)] == c or c[: len(path)] == path for c in changed if path)
            return OVERRIDES if mine else file

        raise problems.config_error(model, data, error, source=source, verb=verb) from error


def _valid(model: type[BaseModel], data: dict[str, Any]) -> bool:
    try:
        model.model_validate(problems.without_false(model, data))
    except ValidationError:
        return False
    return True


def _other_verb(verb: str, data: Mapping[str, Any]) -> str | None:
    """Return the verb that these settings were written for, if it is plainly another."""
    strange = data.keys() - VERBS[verb].model_fields.keys()
    for other, model in VERBS.items():
        if len(strange) > 1 and data.keys() <= model.model_fields.keys():
            return other
    return None


def _beside(path: Path) -> str:
    folder = path.parent
    known = (
        sorted(p.name for p in folder.glob("*.toml") if p.name != "pyproject.toml")
        if folder.is_dir()
        else []
    )
    close = nearest(path.stem, [name.removesuffix(".toml") for name in known], n=1)
    if close:
        return f"did you mean {folder / close[0]}.toml?"
    if known:
        return f"{folder} holds {', '.join(known[:5])}"
    return "`saestore config show VERB > FILE` writes one to start from"


def machine_settings() -> MachineSettings:
    """Return what `SAESTORE_*` variables say about this machine.

    Raises:
        ConfigError: A variable has a value it cannot have.
    """
    return from_environment(MachineSettings)


def from_environment(model: type[S], **given: Any) -> S:
    """Return what environment variables say, where it is not given.

    Args:
        model: Which variables.
        given: What overrules them, by the names of settings; None does not.

    Raises:
        ConfigError: A variable has a value it cannot have, or what is given has.
    """
    prefix = str(model.model_config.get("env_prefix", ""))
    try:
        return model(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{prefix}{first['loc'][0]}".upper()
        raise ConfigError(
            field=name,
            found="a text that is not shown" if _secret(model, first["loc"]) else first["input"],
            expected=problems.expected(first),
            hint=f"change or unset the environment variable {name}",
        ) from None  # the cause would show what is secret


def _secret(model: type[BaseSettings], place: tuple[int | str, ...]) -> bool:
    """Return whether a setting is never shown."""
    field = model.model_fields.get(str(place[0]))
    return field is not None and "SecretStr" in str(field.annotation)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each `SAESTORE_*` variable that nothing reads, with the nearest name."""
    known = [
        f"{model.model_config.get('env_prefix', '')}{name}".upper()
        for model in ENVIRONMENT
        for name in model.model_fields
    ]
    found = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            close = nearest(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            found.append(f"the environment variable {name} is not known and ignored; {hint}")
    return found


def verb_of(path: str | os.PathLike[str]) -> str:
    """Return the verb whose settings a file holds, told from its sections.

    Raises:
        ConfigError: It cannot be read, or fits no verb better than another.
    """
    data = read_toml(path)
    fits = {verb: len(data.keys() & model.model_fields.keys()) for verb, model in VERBS.items()}
    best = max(fits.values())
    chosen = [verb for verb, n in fits.items() if n == best]
    if best and len(chosen) > 1:
        # evaluate and analyze share names: what only one of them knows decides.
        own = {v: len(data.keys() - VERBS[v].model_fields.keys()) for v in chosen}
        chosen = [v for v in chosen if own[v] == min(own.values())]
    if len(chosen) > 1:
        chosen = [verb for verb in chosen if _valid(VERBS[verb], data)] or chosen
    if best == 0 or len(chosen) > 1:
        raise ConfigError(
            field="settings file",
            found=sorted(data),
            expected="the settings of one verb",
            hint="say which with --verb",
            file=os.fspath(path),
            problem=f"fits {' and '.join(chosen)} alike" if best else "fits no verb",
        )
    return chosen[0]
