"""Settings of exports that other tools draw feature dashboards from."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from saestore_schemas.base import Model
from saestore_schemas.names import NAME_PATTERN, HookpointName


Identifier = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""An id there: it is part of addresses and of folder names."""


class DashboardSettings(Model):
    """What a dashboard is called there, and what stands in its files."""

    model_id: Identifier | None = None
    """The language model's id there; absent, the last part of the name that the lake knows it by."""
    layer: int | None = Field(default=None, ge=0)
    """Layer of the source; absent, the one in the hookpoint's name. Features of a cross-layer transcoder are
    a source for each layer: this chooses one of them."""
    hookpoint: HookpointName | None = None
    """Of features that write to several hookpoints, each by itself, as those of a crosscoder: the one whose
    decoder vectors and logits are shown. For no others."""
    set_name: Identifier | None = None
    """The set of sources that this one is part of, without the layer; absent, `SERIES-NAME`."""
    suffix: Identifier | None = None
    """What tells sources of one layer and set apart; absent, nothing does."""
    dataset: str | None = None
    """The text that was analysed; absent, the corpus's sources as the lake names them."""
    file_features: int = Field(default=128, ge=1)
    """Features in one file."""
    tokens: int = Field(default=10, ge=1)
    """Tokens listed that a feature promotes, and that it suppresses, if so many were kept."""
    top: str | None = None
    """Subsample of the contexts that excite a feature most; absent, the first of kind `top`."""
    interval: str | None = None
    """Subsample of contexts by equal parts of the range; absent, the first of kind `interval`, and
    none if there is none."""
    vectors: bool = False
    """Write each feature's decoder vector: thousands of numbers a feature."""


class SaeDashboardSettings(DashboardSettings):
    """SAEDashboard's files."""

    fill: int = Field(default=0, ge=0)
    """Token that fills up shorter contexts in `tokens_N.pt`."""


class NeuronpediaSettings(DashboardSettings):
    """Neuronpedia's import files. Whose they are nobody can guess, so that must be said."""

    creator_id: Identifier | None = None
    """Your id there. It must be given."""
    creator_name: str | None = None
    """Name of the person or group that made the dictionary. It must be given."""
    release: Identifier | None = None
    """Id of the release that the set belongs to. It must be given."""
    release_title: str = ""
    """What the release is called; absent, its id."""
    urls: tuple[str, ...] = ()
    """Where more is to be read, such as the paper."""
    set_description: str = ""
    """What the set of sources is called, such as `Residual stream, 16k`."""
    visibility: Literal["PUBLIC", "UNLISTED", "PRIVATE"] = "PUBLIC"
    """Who may see it there."""
    model_name: str = ""
    """What the model is called; absent, its id."""
    instruct: bool = False
    """The model is an instruct model."""
    layers: int = Field(default=0, ge=0)
    """Layers of the whole model."""
    hf_repo: str | None = None
    """Repository of the weights on the hub, `user/name`."""
    hf_folder: str | None = None
    """Their folder in it."""
    notes: str | None = None
    """Anything else about the source."""
    explanation_type: Identifier = "unknown"
    """What explanations are said to be of, one of the types that Neuronpedia has."""
