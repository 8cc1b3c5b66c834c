"""Booting a language model: Hugging Face weights under TransformerLens hookpoints."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from saestore import devices
from saestore.errors import MissingExtraError, UnsupportedError
from saestore.lm import weights
from saestore.lm.place import FIELD, Place, loading
from saestore.lm.plain import PlainModel, plain_model, twin_of
from saestore.lm.tokenizer import LmTokenizer
from saestore_schemas.lm import LmSettings


@dataclass(frozen=True)
class Loaded:
    """A model ready to run.

    Attributes:
        bridge: TransformerLens's bridge over the model.
        plain: Hugging Face's own model over the same weights; None if the weights are processed.
        tokenizer: Its tokenizer.
        fingerprint: Digest of its weights as loaded.
        revision: The commit on the hub; None for a local directory.
    """

    bridge: Any
    plain: PlainModel | None
    tokenizer: LmTokenizer
    fingerprint: str
    revision: str | None


def load(settings: LmSettings, *, device: str, field: str = FIELD) -> Loaded:
    """Load a model.

    Args:
        settings: Which, and how its weights are used.
        device: Where it runs.
        field: The setting that names it, for errors.

    Raises:
        ConfigError: There is no such model, it cannot be read, or the device is not there.
        UnsupportedError: TransformerLens does not know its architecture.
        MissingExtraError: TransformerLens is not installed.
    """
    place = Place.of(settings, field=field)
    chosen = str(devices.resolve(device))
    bridge_class = _bridge_class()
    tokenizer = LmTokenizer.load(settings, field=field)
    source = _Source(place)
    try:
        with loading(place, "model"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to authors of models
            bridge = bridge_class.boot_transformers(
                place.name,
                device=chosen,
                dtype=getattr(torch, settings.dtype),
                # TransformerLens changes the tokenizer it is given.
                tokenizer=copy.deepcopy(tokenizer.vendor),
                model_class=source,
                revision=place.revision,
            )
            if settings.processing == "compatibility":
                bridge.enable_compatibility_mode(disable_warnings=True)
    except (NotImplementedError, RuntimeError) as error:
        message = f"TransformerLens cannot run {settings.model!r}: {error}"
        raise UnsupportedError(
            message, hint="use a model that TransformerLens supports, in raw processing"
        ) from error
    bridge.eval()
    bridge.requires_grad_(requires_grad=False)  # it only runs
    plain = None
    if settings.processing == "raw" and source.twin is not None:
        plain = plain_model(bridge, source.twin.to(chosen), source.modules)
    return Loaded(bridge, plain, tokenizer, source.fingerprint, source.revision)


def check(settings: LmSettings, *, field: str = FIELD) -> None:
    """Find a model and what runs it, for work that needs it only later: weights are not read.

    Args:
        settings: Which model.
        field: The setting that names it, for errors.

    Raises:
        ConfigError: There is no such model.
        MissingExtraError: TransformerLens is not installed.
    """
    _bridge_class()
    _configuration(settings, field)


def layer_count(model: str, *, revision: str | None = None) -> int:
    """Return how many blocks a model has, from its configuration alone.

    Raises:
        ConfigError: There is no such model.
    """
    config = _configuration(LmSettings(model=model, revision=revision), FIELD)
    return int(config.get_text_config().num_hidden_layers)


def _configuration(settings: LmSettings, field: str) -> Any:
    from transformers import AutoConfig  # noqa: PLC0415 - seconds

    place = Place.of(settings, field=field)
    with loading(place, "config.json"):
        return AutoConfig.from_pretrained(
            place.name, revision=place.revision, local_files_only=place.here_only
        )


class _Source:
    """Stands where TransformerLens expects a model class, and sees the weights it loads."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.fingerprint = ""
        self.revision: str | None = None
        self.twin: torch.nn.Module | None = None
        self.modules: list[torch.nn.Module] = []

    def from_pretrained(self, name: str, **options: Any) -> Any:
        from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds

        # TransformerLens names the type as older releases of transformers did.
        options["dtype"] = options.pop("torch_dtype", torch.float32)
        model = AutoModelForCausalLM.from_pretrained(
            name, local_files_only=self._place.here_only, **options
        )
        self.fingerprint = weights.digest(model)
        self.revision = None if self._place.local else getattr(model.config, "_commit_hash", None)
        self.twin, self.modules = twin_of(model), list(model.modules())
        return model


def _bridge_class() -> Any:
    try:
        from transformer_lens.model_bridge import TransformerBridge  # noqa: PLC0415 - seconds
    except ImportError as error:
        raise MissingExtraError(
            package="transformer-lens>=3.9", extra="model", purpose="running a language model"
        ) from error
    return TransformerBridge
