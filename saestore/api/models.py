"""Facts about language models that need no lake."""

from typing import TYPE_CHECKING

from saestore.api.extras import missing_extra
from saestore_schemas.lm import LmSettings


if TYPE_CHECKING:
    from saestore.lm import HookpointInfo


def hookpoints(model: str, pattern: str | None = None) -> "list[HookpointInfo]":
    """Return a model's hookpoints in its own order.

    Args:
        model: Hub name or local directory.
        pattern: An exact name or a glob; absent, all.

    Raises:
        ConfigError: There is no such model.
        HookpointNotFoundError: Nothing matches; the nearest names are given.
        MissingExtraError: torch or TransformerLens is not installed.
    """
    try:
        from saestore.lm import LanguageModel
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error, purpose="listing hookpoints")) is not None:
            raise missing from error
        raise
    loaded = LanguageModel.load(LmSettings(model=model), device="cpu", field="model")
    found = loaded.hookpoints()
    names = list(found) if pattern is None else loaded.match([pattern])
    return [found[name] for name in names]
