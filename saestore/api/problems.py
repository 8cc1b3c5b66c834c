"""What pydantic found wrong with settings, in the words of the file that holds them."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from saestore.errors import ConfigError, nearest


Path = tuple[str | int, ...]

UNKNOWN = "unknown setting"

_SHOWN = 12
"""Names listed in a message when none resembles the one found."""

ELSEWHERE = {
    "act_fn": "dictionary.activation.kind",
    "batch_size": "activations.batch_rows",
    "context_length": "corpus.context_size",
    "d_model": "dictionary.hookpoint (its width is read from the store)",
    "datasets": "corpus.sources",
    "expansion_factor": "dictionary.expansion",
    "hook_point": "dictionary.hookpoint",
    "hook_points": "hookpoints",
    "l1_coefficient": "loss.sparsity.coefficient",
    "learning_rate": "optimizer.lr",
    "explainer_type": "explainers (each has a kind)",
    "include_cot": "explainers (each has reasoning)",
    "max_workers": "concurrency",
    "model_name": "lm.model",
    "n_activating_examples": "explainers (each has examples)",
    "n_non_activating_examples": "scorers (each has negatives)",
    "norm_activation": "dictionary.scale",
    "openai_api_key": "endpoint (its key comes from SAESTORE_LLM_KEY alone)",
    "openai_base_url": "endpoint.base_url",
    "openai_model": "endpoint.model",
    "openai_proxy": "endpoint.proxy",
    "sae_name": "name",
    "sae_series": "series",
    "scorer_type": "scorers (each has a kind)",
    "steps": "budget.rows (a step takes activations.batch_rows of them)",
    "sparsity_include_decoder_norm": "dictionary.gate_on_decoder_norm",
    "top_k": "dictionary.activation.k",
    "total_generating_tokens": "tokens",
    "total_training_tokens": "budget.rows",
    "use_decoder_bias": "dictionary.decoder_bias",
}
"""What other tools call a setting, to what it is called here; only ever suggested."""


class Problem(NamedTuple):
    """One thing that is wrong."""

    path: Path
    problem: str
    found: Any
    expected: str
    hint: str


def dotted(path: Path) -> str:
    """Return a path as people write it.

    >>> dotted(("corpus", "sources", 0, "path"))
    'corpus.sources[0].path'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def config_error(
    model: type[BaseModel],
    data: Mapping[str, Any],
    error: ValidationError,
    *,
    source: Callable[[Path], str | None],
    verb: str | None,
) -> ConfigError:
    """Return the first problem as an error that lists the others.

    Args:
        model: The settings model.
        data: What was validated.
        error: What pydantic found.
        source: Where the setting at a path stands: a file, `--set`, or None.
        verb: The verb whose settings these are, for the hint.
    """
    found = _merged(
        _problem(model, data, each) for each in error.errors() if not _follows_from_another(each)
    )
    # A misspelt key leaves a missing one behind: name the cause first.
    first, *rest = sorted(found, key=lambda each: each.problem != UNKNOWN)
    more = f"`saestore config show {verb}` explains every setting" if verb else ""
    return ConfigError(
        field=dotted(first.path) or "settings",
        found=first.found,
        expected=first.expected,
        hint=first.hint or more,
        file=source(first.path),
        problem=first.problem,
        others=tuple(_line(each) for each in rest),
    )


def without_false(model: Any, data: Any) -> Any:
    """Return settings read from TOML with null for `false`, where null differs from absence.

    A setting that is null by default is left out instead: there `false` stays, and is refused,
    because `loss.aux = false` would not switch off what absence leaves to be decided.

    Args:
        model: The settings model, or the annotation of a field.
        data: What the file says there.
    """
    if isinstance(data, Mapping):
        choices = list(models_in(model, data))
        fields = {name: f for m in choices for name, f in m.model_fields.items()}
        items = _items(model)
        return {
            key: None
            if value is False and key in fields and _takes_false(fields[key])
            else without_false(fields[key].annotation if key in fields else items, value)
            for key, value in data.items()
        }
    if isinstance(data, list):
        return [without_false(_items(model), value) for value in data]
    return data


def _takes_false(field: FieldInfo) -> bool:
    nullable = allows(field.annotation, type(None)) and not allows(field.annotation, bool)
    return nullable and field.default is not None


def _problem(model: type[BaseModel], data: Any, error: ErrorDetails) -> Problem:
    path = _path(data, error["loc"], error["type"])
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(model, data, path, error["input"])
    if kind == "missing":
        if isinstance(path[-1], int):
            return Problem(path, "missing", None, "", _meaning(model, data, path[:-1], error))
        section = dotted(path[:-1])
        place = f"under [{section}]" if section and "[" not in section else "to the file"
        doc = _documentation(model, data, path)
        name = f"{path[-1]}{_first_needed(model, data, path)}"
        return Problem(path, "missing", None, doc, f"add `{name} = ...` {place}, or use --set")
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        tag = str(context["discriminator"]).strip("'")
        known = [each.strip(" '") for each in str(context.get("expected_tags", "")).split(",")]
        found = context.get("tag")
        known = [each for each in known if each] or _tags(model, data, path)
        return Problem(
            (*path, tag),
            "" if found is not None else "missing",
            found,
            f"one of {', '.join(known)}",
            _suggest(str(found), known),
        )
    if kind == "value_error":
        return Problem(path, str(context["error"]), _scalar(error["input"]), "", "")
    return Problem(
        path,
        "" if _scalar(error["input"]) is not None else f"found {_kind_of(error['input'])}",
        _scalar(error["input"]),
        expected(error),
        _meaning(model, data, path, error),
    )


def _unknown(model: type[BaseModel], data: Any, path: Path, value: Any) -> Problem:
    known = sorted({n for m in _at(model, data, path[:-1]) for n in m.model_fields})
    name = str(path[-1])
    close = nearest(name, known, n=1)
    prefix = f"{dotted(path[:-1])}." if path[:-1] else ""
    everywhere = _paths_named(model, name)
    if name in ELSEWHERE:
        hint = f"here it is called {ELSEWHERE[name]}"
    elif path[:-1] and name in model.model_fields:
        hint = f"did you mean {name}, in no section?"
    elif everywhere:  # that very name, in another section
        hint = f"did you mean {everywhere[name]}?"
    elif close:
        hint = f"did you mean {prefix}{close[0]}?"
    else:
        shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
        hint = f"{prefix.rstrip('.') or 'the file'} takes {shown}"
    return Problem(path, UNKNOWN, _scalar(value), "", hint)


def _paths_named(model: type[BaseModel], name: str, prefix: str = "") -> dict[str, str]:
    """Return where a setting of that name is, for people who put it into the wrong section."""
    for field, info in model.model_fields.items():
        path = f"{prefix}{field}"
        if field == name and prefix:
            return {name: path}
        for child in models_in(info.annotation):
            if found := _paths_named(child, name, f"{path}."):
                return found
    return {}


def _path(data: Any, loc: Sequence[int | str], kind: str) -> Path:
    """Drop what pydantic puts between names: union tags, type names, `[key]`."""
    path: list[str | int] = []
    here = data
    for index, part in enumerate(loc):
        inside = (isinstance(here, Mapping) and part in here) or (
            isinstance(here, (list, tuple)) and isinstance(part, int) and part < len(here)
        )
        if inside:
            path.append(part)
            here = here[part]
        elif index == len(loc) - 1 and kind == "missing":
            path.append(part)
    return tuple(path)


def _first_needed(model: Any, data: Any, path: Path) -> str:
    """Return what a missing section needs at least, such as `.model`; empty of what is no section."""
    sections = _at(model, data, path)
    needed = [n for n, f in sections[0].model_fields.items() if f.is_required()] if sections else []
    return f".{needed[0]}" if len(sections) == 1 and needed else ""


def _at(model: Any, data: Any, path: Path) -> list[type[BaseModel]]:
    """Return the models that may stand at a path, narrowed by what stands there."""
    here, value = model, data
    for part in path:
        fields = (m.model_fields.get(str(part)) for m in models_in(here, value))
        field = next((f for f in fields if f is not None), None)
        here = field.annotation if field is not None else _items(here)
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
    return list(models_in(here, value))


def models_in(annotation: Any, value: Any = None) -> Iterator[type[BaseModel]]:
    """Return the models directly in an annotation; of a tagged union only the one that fits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        tag = value.get("kind", value.get("family")) if isinstance(value, Mapping) else None
        own = annotation.model_fields.get("kind") or annotation.model_fields.get("family")
        if tag is None or own is None or own.default == tag:
            yield annotation
    elif get_origin(annotation) in {Union, types.UnionType, Annotated, tuple, list, dict}:
        for part in get_args(annotation):
            yield from models_in(part, value)


def _items(annotation: Any) -> Any:
    """Return what a list's or dictionary's values are."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in {tuple, list}:
        return args[0]
    if origin is dict:
        return args[1]
    if origin in {Union, types.UnionType, Annotated}:
        inner = [_items(arg) for arg in args]
        return next((each for each in inner if each is not Any), Any)
    return Any


def allows(annotation: Any, kind: type) -> bool:
    """Return whether an annotation takes values of a type."""
    if annotation is kind or (annotation is None and kind is type(None)):
        return True
    origin = get_origin(annotation)
    if origin is Literal:
        return any(isinstance(value, kind) for value in get_args(annotation))
    if origin in {Union, types.UnionType, Annotated}:
        return any(allows(arg, kind) for arg in get_args(annotation))
    return False


def _documentation(model: type[BaseModel], data: Any, path: Path) -> str:
    for owner in _at(model, data, path[:-1]):
        field = owner.model_fields.get(str(path[-1])) if path else None
        if field is not None and field.description:
            text = " ".join(field.description.split())
            sentence = text.split(". ")[0].rstrip(".")
            return sentence[:1].lower() + sentence[1:]
    return ""


def _tags(model: type[BaseModel], data: Any, path: Path) -> list[str]:
    found = []
    for each in _at(model, data, path):
        own = each.model_fields.get("kind") or each.model_fields.get("family")
        if own is not None:
            found.append(str(own.default))
    return found


def expected(error: ErrorDetails) -> str:
    """Return what pydantic expected, without its phrases."""
    if error["type"] == "string_pattern_mismatch":
        if "/" in str(error.get("ctx", {}).get("pattern", "")):
            return "SERIES/NAME, each of letters (A to z), digits, '.', '_' and '-'"
        return (
            "letters (A to z), digits, '.', '_' and '-', a letter or digit first, at most 100 "
            "characters"
        )
    if error["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        return "a section"
    if error["type"] in {"too_short", "too_long"}:
        limit = error["ctx"].get("min_length", error["ctx"].get("max_length"))
        return f"at {'least' if error['type'] == 'too_short' else 'most'} {limit}"
    message = error["msg"].split(", unable to parse")[0]
    message = message.replace("Unable to parse input string as an integer, exceeded", "below the")
    for prefix in ("Input should be ", "Value should ", "Input should "):
        if message.startswith(prefix):
            return message.removeprefix(prefix)
    return message[:1].lower() + message[1:]


def _meaning(model: type[BaseModel], data: Any, path: Path, error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        listed = str(error.get("ctx", {}).get("expected", "")).replace(" or ", ", ")
        known = [each.strip(" '") for each in listed.split(",")]
        if close := nearest(str(error["input"]), known, n=1):
            return f"did you mean {close[0]}?"
    meaning = _documentation(model, data, path)
    return f"{path[-1]}: {meaning}" if meaning and path else ""


def _suggest(found: str, known: list[str]) -> str:
    close = nearest(found, known, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) else None


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a section"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__


def _follows_from_another(error: ErrorDetails) -> bool:
    """Return whether a list is called short only because its items are wrong themselves."""
    if error["type"] != "too_short":
        return False
    return len(error["input"]) >= int(error["ctx"]["min_length"])


def _merged(found: Iterator[Problem]) -> list[Problem]:
    """Join what the members of an untagged union each expected at one place."""
    merged: dict[Path, Problem] = {}
    for each in found:
        before = merged.get(each.path)
        if before is None:
            merged[each.path] = each
        elif each.expected and each.expected not in before.expected:
            merged[each.path] = before._replace(expected=f"{before.expected}, or {each.expected}")
    return list(merged.values())


def _line(each: Problem) -> str:
    wanted = f"; expected {each.expected}" if each.expected else ""
    what = each.problem or f"found {each.found!r}"
    hint = f" ({each.hint})" if each.hint and each.problem == UNKNOWN else ""
    return f"{dotted(each.path) or 'settings'}: {what}{wanted}{hint}"
