"""Which sources an analysis is there: a source has one layer, and features counted from 0.

Features of an SAE, a transcoder, a Lorsa or a MOLT are one source. Those of a cross-layer transcoder read
one layer each: a source for each layer, as the sets of cross-layer transcoders that are there. Those of a
crosscoder read several at once: one of them must be named, and the source shows what they write to it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from saestore.errors import ConfigError, HookpointNotFoundError
from saestore.exchange.features.format import language_model
from saestore.features import Analysis
from saestore_schemas.dashboards import DashboardSettings


@dataclass(frozen=True)
class Identity:
    """What a source is called there.

    Attributes:
        model: The language model.
        layer: The layer.
        set_name: The set of sources, without the layer.
        suffix: What tells it from others of its layer and set, or None.
        dataset: The text that was analysed.
        hookpoint: What its features read.
    """

    model: str
    layer: int
    set_name: str
    suffix: str | None
    dataset: str
    hookpoint: str

    @classmethod
    def of(
        cls, analysis: Analysis, settings: DashboardSettings, *, hookpoint: str, layer: int
    ) -> "Identity":
        """Return what the settings say, and what the lake knows where they do not.

        Args:
            analysis: The analysis.
            settings: What was said.
            hookpoint: What the features of the source read.
            layer: Its layer.

        Raises:
            ConfigError: Nobody knows the language model's id.
        """
        model = settings.model_id or language_model(analysis).rstrip("/").rsplit("/", 1)[-1]
        if not model:
            raise ConfigError(
                field="model_id",
                expected="the language model's id",
                hint="say it: --model-id ID",
                problem=f"the lake does not know the language model behind {analysis.ref.name}",
            )
        sources = analysis.lazy("contexts").select("source").unique().collect()["source"]
        return cls(
            model=model,
            layer=layer,
            set_name=settings.set_name or analysis.settings.dictionary.replace("/", "-"),
            suffix=settings.suffix,
            dataset=settings.dataset or ", ".join(sorted(sources)),
            hookpoint=hookpoint,
        )

    @property
    def source(self) -> str:
        """The source's id, such as `8-res-jb`."""
        return f"{self.layer}-{self.set_name}" + (f"__{self.suffix}" if self.suffix else "")


@dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        identity: What it is called.
        features: Which features of the analysis it has.
        head: Under which head their logits are.
        output: The hookpoint whose decoder vectors are shown; empty, the only one there is; None, features
            write to several together.
    """

    identity: Identity
    features: range
    head: int = 0
    output: str | None = ""


def sources(analysis: Analysis, settings: DashboardSettings) -> list[Source]:
    """Return the sources that an analysis is there.

    Raises:
        ConfigError: Nobody says the layer, the language model, or which of several hookpoints.
        HookpointNotFoundError: The hookpoint that is named is none that the features write to.
    """
    known = analysis.manifest.facts["hookpoints"]
    reads = [str(each) for each in known] if isinstance(known, list) else []
    every = range(analysis.n_features)
    if len(reads) == 1:
        _refuse_hookpoint(settings, reads)
        identity = Identity.of(
            analysis, settings, hookpoint=reads[0], layer=_layer(reads[0], settings.layer)
        )
        return [Source(identity, every)]
    layers = analysis.columns("features", ["layer"])["layer"].to_numpy()
    if layers.max(initial=0) == 0:
        return [_of_crosscoder(analysis, settings, every)]
    _refuse_hookpoint(settings, reads)
    size = len(every) // len(reads)
    named = {hook: _layer(hook, None) for hook in reads}
    if settings.layer is not None and settings.layer not in named.values():
        raise ConfigError(
            field="layer",
            found=settings.layer,
            expected=f"one of {', '.join(map(str, named.values()))}: a source for each",
            hint="leave it out to export all layers",
        )
    return [
        Source(
            Identity.of(analysis, settings, hookpoint=hook, layer=layer),
            range(at * size, (at + 1) * size),
            output=None,
        )
        for at, (hook, layer) in enumerate(named.items())
        if settings.layer in {None, layer}
    ]


def _of_crosscoder(analysis: Analysis, settings: DashboardSettings, every: range) -> Source:
    heads = _heads(analysis)
    if settings.hookpoint is None:
        raise ConfigError(
            field="hookpoint",
            found=f"{analysis.ref.name}, whose features write to {', '.join(heads)}",
            expected="one of them: a source there has one layer, and shows what they write to it",
            hint=f"say it: --set hookpoint={list(heads)[-1] if heads else 'NAME'}",
        )
    if settings.hookpoint not in heads:
        raise HookpointNotFoundError(
            pattern=settings.hookpoint, where=analysis.ref.name, known=tuple(heads)
        )
    hook, head = settings.hookpoint, heads[settings.hookpoint]
    layer = _layer(hook, settings.layer)
    identity = Identity.of(analysis, settings, hookpoint=hook, layer=layer)
    return Source(identity, every, head, hook)


def _heads(analysis: Analysis) -> Mapping[str, int]:
    """Return the number of each hookpoint that features write to."""
    if "decoders" not in analysis.tables:
        return {}
    lines = analysis.lazy("decoders").select("head", "hookpoint").unique().sort("head").collect()
    return dict(zip(lines["hookpoint"], lines["head"], strict=True))


def _layer(hookpoint: str, said: int | None) -> int:
    """Return the layer of a hookpoint.

    Raises:
        ConfigError: Neither its name nor the settings say it.
    """
    found = re.match(r"blocks\.(\d+)\.", hookpoint)
    if said is None and found is None:
        raise ConfigError(
            field="layer",
            found=hookpoint,
            expected="a layer: the hookpoint's name does not say it",
            hint="say it: --layer N",
        )
    return said if said is not None else int(found[1] if found else 0)


def _refuse_hookpoint(settings: DashboardSettings, reads: list[str]) -> None:
    if settings.hookpoint is not None:
        raise ConfigError(
            field="hookpoint",
            found=settings.hookpoint,
            expected="nothing: it is for features that write to several hookpoints, each by itself",
            hint=f"leave it out; these read {', '.join(reads)}",
        )
