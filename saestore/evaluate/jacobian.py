"""How a dictionary's output changes with its input, beside what the language model does there.

    jacobian_cosine = mean over rows of ⟨J, J_host⟩ / (‖J‖ ‖J_host‖)

J_host is of what the model computes from the hookpoints that the dictionary reads to those that it
reconstructs, such as an MLP: it runs with the rows put in place of what it reads. That is a matrix of each
row only where tokens do not meet in between, which is looked at.

Squared error does not see whether a dictionary computes as the model does between its inputs. A transcoder
without a skip is constant but for the few features that fire, and its cosine is low however good it is.

Source: Anthropic 2025, "Sparse mixtures of linear transforms".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from pydantic import JsonValue
from torch import Tensor

from saestore.dictionaries import SparseDictionary, jacobian_cosine
from saestore.errors import ConfigError
from saestore.evaluate.cross_entropy import contexts_of, is_the_stores
from saestore.evaluate.metrics import Score
from saestore.evaluate.splice import Batch, pad
from saestore.evaluate.subject import Subject
from saestore.lm import LanguageModel, reached
from saestore.progress import Progress
from saestore_schemas.evaluate import JacobianSettings
from saestore_schemas.lm import LmSettings


FIELD = "jacobian.lm"
"""The setting that names the language model, or could."""


@dataclass(frozen=True)
class JacobianScores:
    """Scores over rows and the facts they rest on."""

    scores: list[Score]
    facts: dict[str, JsonValue]


def measure(
    subject: Subject,
    settings: JacobianSettings,
    *,
    load_model: Callable[[LmSettings], LanguageModel],
    progress: Progress,
) -> JacobianScores:
    """Compare Jacobians on the kept rows of some contexts.

    Args:
        subject: Dictionary, store and split.
        settings: How many contexts and directions, which model.
        load_model: Returns the language model of some settings.
        progress: Where to report.

    Raises:
        ConfigError: The dictionary reads what it reconstructs, or tokens meet in between.
    """
    refuse(subject.dictionary)
    model = load_model(model_of(subject, settings))
    same = is_the_stores(model, subject.store, progress)
    dictionary = subject.dictionary.to(model.device)
    contexts, chosen = subject.store.contexts(), contexts_of(subject, settings.contexts)
    hooks = (*dictionary.hookpoints_in, *dictionary.hookpoints_out)
    names = {hook: subject.store.home(hook)[1] for hook in hooks}  # in the model
    found = []
    with progress.task("jacobian", total=len(chosen), unit="context") as task:
        for first, length in contexts[chosen].tolist():
            stretch = (first, first + length)
            batch = pad([subject.store.tokens(*stretch)], [subject.store.flags(*stretch)])
            found.append(_of_context(dictionary, model, batch, settings, names))
            task.advance(1)
    cosines = np.concatenate(found) if found else np.zeros(0)
    cosines = cosines[np.isfinite(cosines)]  # a Jacobian of zero has no direction
    facts: dict[str, JsonValue] = {
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "model_is_the_stores": same,
        "forward_dtype": str(model.dtype).removeprefix("torch."),
        "contexts": len(chosen),
        "projections": min(settings.projections, sum(dictionary.config.d_out)),
    }
    return JacobianScores(_scores(cosines), facts)


def refuse(dictionary: SparseDictionary) -> None:
    """Refuse a dictionary for which there is nothing to compare with.

    Raises:
        ConfigError: It reads a hookpoint that it reconstructs.
    """
    both = sorted({*dictionary.hookpoints_in} & {*dictionary.hookpoints_out})
    if both:
        raise ConfigError(
            field="jacobian",
            found=f"a dictionary that reads and reconstructs {both[0]}",
            expected="one that reconstructs what the model computes from other hookpoints",
            hint="remove jacobian: between a hookpoint and itself the model computes nothing",
        )


def model_of(subject: Subject, settings: JacobianSettings) -> LmSettings:
    """Return how to load the language model that is asked.

    Raises:
        ConfigError: The store does not say which one it is of, and no other is named.
    """
    return subject.store.language_model(settings.lm, field=FIELD)


def _of_context(
    dictionary: SparseDictionary,
    model: LanguageModel,
    batch: Batch,
    settings: JacobianSettings,
    names: Mapping[str, str],
) -> np.ndarray:
    """Return the cosine of each kept row of one context."""
    tokens = batch.tokens.to(model.device)
    captured = model.capture(tokens, [names[hook] for hook in dictionary.hookpoints_in])
    reads = {hook: captured[names[hook]][0].float() for hook in dictionary.hookpoints_in}

    def host(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = {names[hook]: each.unsqueeze(0) for hook, each in rows.items()}
        found = model.between(tokens, given, [names[hook] for hook in dictionary.hookpoints_out])
        dtype = next(iter(rows.values())).dtype
        return {hook: found[names[hook]][0].to(dtype) for hook in dictionary.hookpoints_out}

    kept = batch.replaced[0].nonzero()[:, 0].to(model.device)
    _check_rows(host, dictionary.as_inputs(reads), kept)
    cosines = jacobian_cosine(
        dictionary, host, reads, projections=settings.projections, seed=settings.seed
    )
    return cosines[kept].cpu().numpy()


def _check_rows(
    host: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    rows: Mapping[str, Tensor],
    kept: Int64[Tensor, " row"],
) -> None:
    """Refuse hookpoints between which the model computes nothing, or where tokens meet.

    Raises:
        ConfigError: They are such.
    """
    if not len(kept):
        return
    at = int(kept[-1])
    for hook, changes in reached(host, rows, at).items():
        if not changes[at]:
            raise ConfigError(
                field="jacobian",
                found=f"{hook}, which does not change with {', '.join(rows)}",
                expected="hookpoints that the model computes from those that the dictionary reads",
                hint="remove jacobian",
            )
        if int(changes.sum()) > 1:
            raise ConfigError(
                field="jacobian",
                found=f"{hook}, at which tokens before it meet",
                expected="hookpoints with an MLP or a norm in between, but no attention",
                hint="remove jacobian: there is no matrix from one row to one row",
            )


def _scores(cosines: np.ndarray) -> list[Score]:
    """Return mean and percentiles, or None of no row."""
    n = len(cosines)
    low, high = np.quantile(cosines, [0.1, 0.9]) if n else (np.nan, np.nan)
    values = {
        "jacobian_cosine": np.mean(cosines) if n else np.nan,
        "jacobian_cosine[p10]": low,
        "jacobian_cosine[p90]": high,
    }
    return [Score(name, float(value) if n else None, n) for name, value in values.items()]
