"""What a reader found, as a dictionary of ours."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from saestore.dictionaries import Scale, SparseDictionary
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS
from saestore.dictionaries.families import FAMILIES
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange import spelling
from saestore.exchange.dictionaries.foreign import Foreign
from saestore.lake import manifest as manifests
from saestore_schemas.dictionary import DictionaryConfig, ModelRecord, ScaleRecord
from saestore_schemas.exchange import ImportDictionarySettings


UNIT = 1e-5
"""Decoder lengths this close to 1 are 1."""
_DOES = {"hookpoint": "reads", "hookpoint_out": "reconstructs"}
_SUCH_AS = {"hookpoint": "blocks.8.hook_resid_post", "hookpoint_out": "blocks.8.hook_mlp_out"}


def assemble(
    foreign: Foreign, settings: ImportDictionarySettings, *, tool: str, version: str
) -> SparseDictionary:
    """Return the dictionary; what was measured stands in its record later.

    Args:
        foreign: What the files hold.
        settings: What the user said.
        tool: Whose files they are, for people.
        version: The release whose format this is.

    Raises:
        ConfigError: Nobody says what it reads, or k is more than its features.
        UnsupportedError: It has something that no dictionary here has.
    """
    reads, writes = foreign.reads, foreign.writes
    if not reads:
        reads = writes = (_hookpoint("hookpoint", settings.hookpoint, foreign.hookpoint),)
    if foreign.transcodes:
        given, theirs = settings.hookpoint_out, foreign.hookpoint_out
        writes = (_hookpoint("hookpoint_out", given, theirs),)
    d_in, d_out, d_sae = _widths(foreign)
    meaning = foreign.meaning
    k = meaning.activation.get("k", 0)
    if k > d_sae:
        raise ConfigError(
            file=str(foreign.files[0]), field="k", found=k, expected=f"at most {d_sae} features"
        )
    records = {hook: _scale(foreign, hook) for hook in (*reads, *writes)}
    versions = manifests.library_versions()
    values: Mapping[str, Any] = {
        "family": foreign.family,
        "d_in": d_in,
        "d_out": d_out,
        "d_sae": d_sae,
        "dtype": "float32",
        "hookpoints_in": reads,
        "hookpoints_out": writes,
        "options": {
            "glu": meaning.glu,
            "skip": meaning.skip,
            "gating": meaning.gating,
            "ranks": meaning.ranks,
            "layers": meaning.layers,
            "attention": meaning.attention,
        },
        "semantics": _semantics(foreign),
        "scale": records,
        "model": _model(settings.model or foreign.model),
        "train": None,
        "parents": (),
        "imported": {
            "from": settings.path,
            "library": f"{tool}, {foreign.architecture}",
            "version": foreign.version or version,
            "max_error": 0.0,
            "inexact": foreign.inexact,
        },
        "versions": {name: versions[name] for name in ("saestore", "torch")},
    }
    scales = {hook: Scale(record, None) for hook, record in records.items()}
    found = FAMILIES[foreign.family].restore(_validated(values), scales, foreign.tensors)
    if (found.decoder_norms() - 1).abs().max() > UNIT:
        return found
    semantics = found.config.semantics.model_copy(update={"decoder_norm": "unit"})
    return found.with_config(found.config.model_copy(update={"semantics": semantics}))


def _scale(foreign: Foreign, hook: str) -> ScaleRecord:
    meaning = foreign.meaning
    return ScaleRecord(
        kind=meaning.scale,
        a=meaning.each.get(hook, meaning.a),
        mean=None,
        rows=0,
        excluded=(),
        state="external",
    )


def _widths(foreign: Foreign) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return widths of input and output hookpoints, and the number of features."""
    if foreign.widths is not None:
        d_in, d_out, d_sae = foreign.widths
        return (d_in,), (d_out,), d_sae
    several = "W_enc" not in foreign.tensors
    names = [f".{place}" for place in range(len(foreign.reads))] if several else [""]
    encoders = [foreign.tensors[f"W_enc{name}"].shape for name in names]
    outputs = [len(foreign.tensors[f"b_dec{name}"]) for name in names]
    return tuple(d_in for d_in, _ in encoders), tuple(outputs), int(encoders[0][1])


def _semantics(foreign: Foreign) -> Mapping[str, Any]:
    """Return what the weights mean."""
    meaning = foreign.meaning
    kind = meaning.activation["kind"]
    inference = {"kind": "same_as_training"}
    if kind == "batchtopk":
        inference = {"kind": "threshold", "source": "imported"}
    return {
        "subtract_b_dec": meaning.subtract_b_dec,
        "gate_on_decoder_norm": meaning.gate_on_decoder_norm,
        "decoder_norm": "free",
        "activation": dict(meaning.activation),
        "inference": inference,
        "head_norm": None if meaning.gating is None else "l1",
        "l0_scope": meaning.l0_scope,
        "firing": ACTIVATION_FUNCTIONS[kind].firing,
    }


def _validated(values: Mapping[str, Any]) -> DictionaryConfig:
    """Return the record.

    Raises:
        UnsupportedError: It says something that no dictionary here has.
    """
    try:
        return DictionaryConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UnsupportedError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {first['input']!r}",
            found=str(first["input"]),
            expected="something that a dictionary here can have",
            hint="the files say it; if they are right, this release cannot import them",
        ) from error


def _hookpoint(field: str, given: str | None, theirs: str | None) -> str:
    """Return what a dictionary reads, or reconstructs, as TransformerLens spells it.

    Args:
        field: The setting that says it.
        given: What the user says.
        theirs: What the files say.

    Raises:
        ConfigError: Nobody says it.
    """
    if given is not None:
        return spelling.translated(given) or given
    ours = spelling.translated(theirs) if theirs else None
    if ours is None:
        raise ConfigError(
            field=field,
            found=theirs,
            problem=f"its files call it {theirs!r}, which is no hookpoint of TransformerLens"
            if theirs
            else f"its files do not say what it {_DOES[field]}",
            expected=f"a name such as {_SUCH_AS[field]}",
            hint=f"say it: --{field.replace('_', '-')} {_SUCH_AS[field]}",
        )
    return ours


def _model(name: str | None) -> ModelRecord | None:
    if name is None:
        return None
    return ModelRecord(
        name=name,
        revision=None,
        weights_fingerprint=None,
        processing="unknown",
        capture_dtype=None,
    )
