"""Several dictionaries on the same rows and contexts, their scores side by side.

Each dictionary's evaluation is an artefact like any other, made or found made; the comparison only
joins them. Where the dictionaries were not trained on the same contexts, those are used that are in
the split of all of them, under a name of their own.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
from pydantic import JsonValue

from saestore.activations import Place
from saestore.errors import ConfigError
from saestore.evaluate.evaluation import Evaluation
from saestore.evaluate.run import run
from saestore.evaluate.subject import place_of, same_split
from saestore.fingerprint import fingerprint
from saestore.lake import Lake, checkpoint
from saestore.lake.checkpoint import Made
from saestore.lm import LanguageModel
from saestore.progress import Progress, Silent
from saestore_schemas import tables
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.metrics import METRICS


_SILENT = Silent()

LEAST = 2
"""One dictionary cannot be compared."""


@dataclass(frozen=True)
class Comparison:
    """Evaluations on the same rows and contexts.

    Attributes:
        evaluations: One for each dictionary, in the order asked for.
        table: All scores, as `saestore_schemas.tables.COMPARISON`.
    """

    evaluations: tuple[Evaluation, ...]
    table: pa.Table

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """What was compared."""
        return tuple(map(_dictionary, self.evaluations))

    @property
    def facts(self) -> dict[str, JsonValue]:
        """Which rows and contexts all of them were measured on."""
        facts = self.evaluations[0].manifest.facts
        return {name: facts[name] for name in ("store", "split", "rows", "contexts")}

    @property
    def values(self) -> dict[str, dict[str, float | None]]:
        """Metric name to the value of each dictionary, in the order of the reference."""
        order = {name: place for place, name in enumerate(METRICS)}
        names = dict.fromkeys(name for each in self.evaluations for name in each.values)
        return {
            name: {
                d: e.values.get(name)
                for d, e in zip(self.dictionaries, self.evaluations, strict=True)
            }
            for name in sorted(names, key=lambda name: (order[name.partition("@")[0]], name))
        }


def compare(
    names: Sequence[str],
    settings: EvaluateSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress = _SILENT,
) -> Comparison:
    """Evaluate several dictionaries on the same rows and contexts; finished evaluations are read.

    Args:
        names: The dictionaries, `series/name` each.
        settings: What to measure; which dictionary it names does not matter.
        lake: Where everything lies.
        device: Torch device; `auto` takes the best there is.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: One of them is not there; the nearest names are given.
        ArtefactExistsError: An evaluation of that name has other settings.
        ConfigError: Fewer than two, one of them twice, or of different stores.
    """
    names = [checkpoint.numbered(lake, name) for name in names]
    _check(names, lake)
    wanted = [settings.model_copy(update={"dictionary": name}) for name in names]
    wanted = _on_one_store(wanted, lake)
    if not same_split(wanted, lake):
        tail = fingerprint(sorted(names))[:8]
        wanted = [
            each.model_copy(
                update={
                    "name": f"{each.name}-beside-{tail}",
                    "beside": tuple(sorted(set(names) - {each.dictionary})),
                }
            )
            for each in wanted
        ]
    load = lru_cache(maxsize=1)(LanguageModel.load)
    found = tuple(
        run(each, lake, device=device, progress=progress, load_model=load) for each in wanted
    )
    return Comparison(found, _table(found))


def _check(names: Sequence[str], lake: Lake) -> None:
    """Refuse names that cannot be compared before anything is computed."""
    if len(names) < LEAST:
        raise ConfigError(
            field="--compare",
            found=list(names),
            expected="two dictionaries or more",
            hint="`saestore ls --kind dictionary` lists them",
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(
            field="--compare",
            found=f"{twice[0]} twice",
            expected="each dictionary once",
            hint="checkpoints of one are several: series/name@step",
        )
    for name in names:
        Made.of(name, lake)


def _on_one_store(wanted: Sequence[EvaluateSettings], lake: Lake) -> list[EvaluateSettings]:
    """Return the settings so that all of them mean one store; those that do already stay."""
    known: dict[str, Place] = {}
    for each in wanted:
        with suppress(ConfigError):  # trained on a mix, or on nothing here
            known[each.dictionary] = place_of(each, lake)
    stores = set(known.values())
    if len(stores) != 1:
        raise ConfigError(
            field="activations",
            found="; ".join(f"{store} of {name}" for name, store in known.items()) or "no store",
            expected="one store that has the hookpoints of all of them",
            hint="say which: --set activations=NAME, and --set split=all if it trained none of them",
        )
    (store,) = stores
    read = {"activations": store.store, "heads": store.heads}
    return [each if each.dictionary in known else each.model_copy(update=read) for each in wanted]


def _dictionary(evaluation: Evaluation) -> str:
    """Return the dictionary that was evaluated, with the step of a checkpoint."""
    return str(evaluation.manifest.settings["dictionary"])


def _table(evaluations: Sequence[Evaluation]) -> pa.Table:
    """Return all scores, sorted by metric and dictionary."""
    lines = [
        {"dictionary": _dictionary(each), "evaluation": each.ref.name.rpartition("/")[2], **line}
        for each in evaluations
        for line in each.table.to_pylist()
    ]
    lines.sort(key=lambda line: (line["metric"], line["dictionary"]))
    return pa.Table.from_pylist(lines, schema=tables.COMPARISON.schema())
