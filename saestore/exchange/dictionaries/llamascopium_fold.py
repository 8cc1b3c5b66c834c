"""Whether llamascopium's weights contain the normalisation of rows: its files do not say.

`norm_activation` is 'dataset-wise' beside weights that read rows times √d over their mean length, and beside
those that contain the factor: its trainer folds at the end, by default, and leaves the word. `inference` is
of weights that contain it. So the user says it; a reader may know other means to find out.
"""

from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.foreign import Asked
from saestore.exchange.dictionaries.llamascopium_parts import factor
from saestore_schemas.exchange import FoldState


def stated(config: Config, asked: Asked) -> FoldState | None:
    """Return what the config or the user says; None where nobody does.

    Raises:
        UnsupportedError: Rows are normalised one by one, or batch by batch.
    """
    norm = _norm(config)
    if norm == "inference":
        return "folded"
    if norm == "dataset-wise":
        return asked.fold_state
    why = (
        "a row's code depends on the other rows of its batch"
        if norm == "batch-wise"
        else "rows that are normalised so have no counterpart in this family"
    )
    raise UnsupportedError(
        f"{config.path} says norm_activation = {norm!r}: {why}",
        found=norm,
        expected="dataset-wise or inference",
        hint="train with norm_activation = 'dataset-wise'",
    )


def required(config: Config, asked: Asked) -> FoldState:
    """Return what the config or the user says.

    Raises:
        ConfigError: Nobody does.
        UnsupportedError: Rows are normalised one by one, or batch by batch.
    """
    found = stated(config, asked)
    if found is None:
        raise unstated(config)
    return found


def unstated(config: Config, *, measurable: bool = False) -> ConfigError:
    """Return the error of a reader whom nobody tells.

    Args:
        config: What it read.
        measurable: Whether rows of a store would tell it.
    """
    also = (
        "; or --store NAME, and the reading that explains its rows is taken" if measurable else ""
    )
    return ConfigError(
        file=str(config.path),
        field="norm_activation",
        found=_norm(config),
        problem="is 'dataset-wise', and nothing in the files says whether the weights contain the "
        "normalisation already",
        expected="to be told, or rows to measure on" if measurable else "to be told",
        hint=f"say --fold-state folded or external{also}. What its trainer saves at the end is folded by "
        "default",
    )


def said_folded(config: Config) -> str:
    """Return who says that the weights contain the normalisation, for people."""
    told = "the config" if _norm(config) == "inference" else "--fold-state"
    return f"the weights contain the normalisation (said by {told})"


def pair(
    config: Config, weights: Weights, asked: Asked, hooks: tuple[str, str], width: int
) -> tuple[float, float, str]:
    """Return by what rows of input and output are multiplied outside of the weights, and who says so.

    Raises:
        ConfigError: Nobody says it, or a factor is missing.
        UnsupportedError: Rows are normalised one by one, or batch by batch.
    """
    if required(config, asked) == "folded":
        return 1.0, 1.0, said_folded(config)
    a, c = (factor(weights, hook, width) for hook in hooks)
    said = (
        f"rows are multiplied by {a:g}, outputs divided by {c:g} (said by --fold-state), and folded"
    )
    return a, c, said


def _norm(config: Config) -> str:
    return str(config.get("norm_activation", str, default="dataset-wise"))
