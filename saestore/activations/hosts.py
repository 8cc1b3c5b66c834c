"""Which language models a dictionary's hookpoints lie in: one, or of heads in several stores several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saestore.activations.store import ActivationStore
from saestore.errors import ConfigError, HookpointNotFoundError
from saestore_schemas.lm import LmSettings


@dataclass(frozen=True)
class Host:
    """One language model.

    Attributes:
        label: What tells its numbers from another model's; empty where there is one.
        lm: How it is loaded.
        store: A store of its activations.
        names: What each hookpoint that lies in it is called there.
        writes: Which of them the dictionary reconstructs.
        field: The setting that names the model, or could.
    """

    label: str
    lm: LmSettings
    store: ActivationStore
    names: Mapping[str, str]
    writes: tuple[str, ...]
    field: str


def hosts_of(
    store: ActivationStore,
    reads: Sequence[str],
    writes: Sequence[str],
    *,
    lm: str | Mapping[str, str] | None,
    field: str,
    chosen: Sequence[str] | None = None,
) -> list[Host]:
    """Return the language models that a dictionary writes to.

    Args:
        store: Where the rows lie.
        reads: What the dictionary reads.
        writes: What it reconstructs.
        lm: A model to take instead; of several, by the name of a hookpoint.
        field: The setting that names them, for errors.
        chosen: Which of what it reconstructs matters; absent, all.

    Raises:
        ConfigError: A store does not say which model it is of and no other is named; or one is named
            for hookpoints in several.
        HookpointNotFoundError: Something is chosen, or has a model named for it, that is no hookpoint
            of the dictionary.
    """
    _refuse_unknown(chosen or (), writes)
    wanted = tuple(writes) if chosen is None else chosen
    groups = _by_model(store, dict.fromkeys((*reads, *writes)))
    if isinstance(lm, Mapping):
        _refuse_unknown(tuple(lm), (*reads, *writes))
    elif lm is not None and len(groups) > 1:
        each = [next(iter(group)) for _, group in groups]
        raise ConfigError(
            field=field,
            found=lm,
            expected=f"a language model for each of {' and '.join(each)}: they lie in different ones",
            hint=f"set {field}." + f" and {field}.".join(each),
        )
    found = []
    for home, names in groups:
        mine = tuple(hook for hook in writes if hook in names and hook in wanted)
        if mine:
            label = "+".join(mine) if len(groups) > 1 else ""
            own = field if len(groups) == 1 else f"{field}.{next(iter(names))}"
            known = _language_model(home, names, lm, own)
            found.append(Host(label, known, home, names, mine, own))
    return found


def _by_model(
    store: ActivationStore, hookpoints: Mapping[str, None]
) -> list[tuple[ActivationStore, dict[str, str]]]:
    """Return the hookpoints of each model, with a store of it; stores that name none stand alone."""
    groups: list[tuple[ActivationStore, dict[str, str]]] = []
    for hook in hookpoints:
        home, there = store.home(hook)
        for first, names in groups:
            known = home.record.lm is not None and first.record.lm is not None
            alike = home is first or (known and home.fits_model_of(first))
            if alike and there not in names.values():
                names[hook] = there
                break
        else:
            groups.append((home, {hook: there}))
    return groups


def _language_model(
    home: ActivationStore,
    names: Mapping[str, str],
    lm: str | Mapping[str, str] | None,
    field: str,
) -> LmSettings:
    """Return how to load the model of some hookpoints."""
    if not isinstance(lm, Mapping):
        return home.language_model(lm, field=field)
    given = {name: lm[name] for name in names if name in lm}
    if len(set(given.values())) > 1:
        raise ConfigError(
            field=field, found=given, expected="one language model: they are in stores of one"
        )
    return home.language_model(next(iter(given.values()), None), field=field)


def _refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise HookpointNotFoundError(
                pattern=name, where="the dictionary", known=tuple(dict.fromkeys(known))
            )
