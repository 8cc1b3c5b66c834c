"""Settings of `saestore interpret`: what does each feature stand for, and how well does that hold?"""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from saestore_schemas.base import Model
from saestore_schemas.names import ArtefactName, DictionaryName


class ListSelection(Model):
    """Features by number."""

    kind: Literal["list"] = "list"
    """Discriminator."""
    features: tuple[Annotated[int, Field(ge=0, lt=1 << 32)], ...] = Field(min_length=1)
    """Which."""


class SqlSelection(Model):
    """Features that a question inside the analysis answers with."""

    kind: Literal["sql"] = "sql"
    """Discriminator."""
    where: str = Field(min_length=1)
    """Condition on the view `features`, such as `density < 0.01 AND max >= 3`; or a whole `SELECT` whose
    answer has a column `feature`."""
    n: int | None = Field(default=None, ge=1)
    """At most so many, in the order of the answer, or by number after a condition; null, all."""


class SampleSelection(Model):
    """Features drawn at random, evenly from strata of their density."""

    kind: Literal["sample"] = "sample"
    """Discriminator."""
    n: int = Field(default=100, ge=1)
    """Features drawn, of those that fire."""
    strata: int = Field(default=10, ge=1, le=1000)
    """Strata with equally many features each, by density, ties by number."""


Selection = Annotated[ListSelection | SqlSelection | SampleSelection, Field(discriminator="kind")]
"""Ways of choosing features, one class each."""


class PriceSettings(Model):
    """What a model costs, in money of any one kind, per million tokens."""

    prompt: float = Field(ge=0)
    """Of what is sent."""
    completion: float = Field(default=0.0, ge=0)
    """Of what comes back."""


class EndpointSettings(Model):
    """An OpenAI-compatible endpoint.

    Its key comes from the environment alone: `SAESTORE_LLM_KEY`, else `OPENAI_API_KEY`.
    """

    model: str = Field(min_length=1)
    """Model that explains and judges."""
    embedding_model: str | None = Field(default=None, min_length=1)
    """Model of embeddings; the scorer `embedding` needs it."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How an answer's form is asked for. An endpoint that refuses it is asked without; what it answers is
    read tolerantly either way."""
    temperature: float | None = Field(default=0.0, ge=0)
    """Temperature; null leaves it to the endpoint, as some models demand."""
    seed: bool = True
    """Send a seed, drawn from the run's for each request; endpoints that do not know it may refuse it."""
    max_tokens: int = Field(default=1000, ge=1)
    """Most tokens of one answer."""
    limit_as: Literal["max_tokens", "max_completion_tokens"] = "max_completion_tokens"
    """By which name the endpoint knows that limit."""
    base_url: str = Field(default="https://api.openai.com/v1", exclude=True)
    """Where it answers. Like all below it is not part of the fingerprint."""
    proxy: str | None = Field(default=None, exclude=True)
    """Proxy through which it is reached; absent, what the environment says (`HTTPS_PROXY`)."""
    timeout_s: float = Field(default=120.0, gt=0, exclude=True)
    """Seconds until a request that is not answered is sent again."""
    attempts: int = Field(default=8, ge=1, exclude=True)
    """How often one request is sent at most: what is refused for now (429, 5xx, no connection) is sent
    again, after what the endpoint says (`Retry-After`), else after 1 s, 2 s, 4 s, … up to 60 s."""

    @field_validator("base_url", "proxy")
    @classmethod
    def _a_plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"is no URL: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            msg = "must be a URL that begins with http:// or https:// and names a host"
            raise ValueError(msg)
        if parts.password is not None or parts.username is not None or parts.query:
            msg = "has a name, a password or a query in it: secrets come from the environment"
            raise ValueError(msg)
        return value.rstrip("/")


class _Explainer(Model):
    """What every explainer has."""

    reasoning: bool = False
    """Let the model think aloud before it says what a feature stands for."""
    window: int = Field(default=32, ge=1)
    """Tokens shown of each example."""
    highlight_above: float = Field(default=0.0, ge=0, le=1)
    """Mark tokens whose strength is above this share of the feature's maximum."""


class TopExplainer(_Explainer):
    """The contexts in which a feature is strongest, its tokens marked."""

    kind: Literal["top"] = "top"
    """Discriminator."""
    examples: int = Field(default=20, ge=1)
    """Contexts shown."""


class QuantileExplainer(_Explainer):
    """Contexts from all quantiles of a feature's strength: strongest alone make explanations too narrow."""

    kind: Literal["quantile"] = "quantile"
    """Discriminator."""
    examples: int = Field(default=40, ge=1)
    """Contexts shown, as evenly over the quantiles as they divide."""
    quantiles: int = Field(default=10, ge=1)
    """Parts with equally many contexts each."""


class LogitsExplainer(_Explainer):
    """Strongest contexts, the tokens that come next there, and those whose logits a feature moves."""

    kind: Literal["logits"] = "logits"
    """Discriminator."""
    examples: int = Field(default=20, ge=1)
    """Contexts shown."""
    tokens: int = Field(default=10, ge=1)
    """Tokens named of each list: promoted, suppressed, after its firings."""


class ContrastiveExplainer(_Explainer):
    """Strongest contexts beside hard negatives: contexts where features like it fire and it does not."""

    kind: Literal["contrastive"] = "contrastive"
    """Discriminator."""
    examples: int = Field(default=20, ge=1)
    """Contexts shown in which it fires."""
    negatives: int = Field(default=10, ge=1)
    """Contexts shown in which it does not."""


class ZPatternExplainer(_Explainer):
    """Of features that attend (Lorsa): where they fire and which tokens they read there."""

    kind: Literal["zpattern"] = "zpattern"
    """Discriminator."""
    examples: int = Field(default=20, ge=1)
    """Contexts shown, of the analysis's examples."""
    reads: int = Field(default=4, ge=1)
    """Tokens named of each, the most read first."""


Explainer = Annotated[
    TopExplainer | QuantileExplainer | LogitsExplainer | ContrastiveExplainer | ZPatternExplainer,
    Field(discriminator="kind"),
]
"""Ways of asking what a feature stands for, one class each."""


class _Scorer(Model):
    """What every scorer has."""

    positives: int = Field(default=20, ge=1)
    """Contexts in which the feature fires, as evenly over the deciles of its strength as they divide."""
    window: int = Field(default=32, ge=1)
    """Tokens shown of each example."""


class _AgainstSilent(_Scorer):
    """What scorers have that show contexts in which the feature does not fire."""

    hard: tuple[Literal["near", "same_token"], ...] = ("near", "same_token")
    """Kinds of hard negatives that make up half of the negatives, as evenly as they divide; where there
    are too few of one, contexts at random stand instead."""


class DetectionScorer(_AgainstSilent):
    """The model is told the explanation and asks itself in which of some texts the feature fires."""

    kind: Literal["detection"] = "detection"
    """Discriminator."""
    negatives: int = Field(default=20, ge=1)
    """Contexts in which the feature does not fire."""
    per_request: int = Field(default=5, ge=1)
    """Texts in one request."""
    answer: Literal["binary", "probability"] = "probability"
    """Whether the model says yes or no of each text, or how likely it is."""


class FuzzingScorer(_Scorer):
    """The model is told the explanation and asks itself in which texts the right tokens are marked."""

    kind: Literal["fuzzing"] = "fuzzing"
    """Discriminator."""
    negatives: int = Field(default=20, ge=1)
    """Contexts in which the feature fires and as many other tokens are marked."""
    per_request: int = Field(default=5, ge=1)
    """Texts in one request."""
    answer: Literal["binary", "probability"] = "probability"
    """Whether the model says yes or no of each text, or how likely it is."""
    highlight_above: float = Field(default=0.0, ge=0, le=1)
    """Mark tokens whose strength is above this share of the feature's maximum."""


class SimulationScorer(_AgainstSilent):
    """The model is told the explanation and says how strongly the feature fires on each token.

    That is correlated with how strongly it does (Bills et al. 2023, Language models can explain
    neurons in language models).
    """

    kind: Literal["simulation"] = "simulation"
    """Discriminator."""
    negatives: int = Field(default=5, ge=0)
    """Contexts in which the feature does not fire."""
    positives: int = Field(default=10, ge=1)
    """Contexts in which it fires."""
    values: Literal["expected", "numeric"] = "numeric"
    """`numeric` takes the number that the model says, `expected` its mean over the probabilities of the
    numbers it could have said, which the endpoint must tell (`logprobs`)."""


class EmbeddingScorer(_AgainstSilent):
    """Texts in which the feature fires should be nearer to the explanation than others, as vectors."""

    kind: Literal["embedding"] = "embedding"
    """Discriminator."""
    negatives: int = Field(default=20, ge=1)
    """Contexts in which the feature does not fire."""


Scorer = Annotated[
    DetectionScorer | FuzzingScorer | SimulationScorer | EmbeddingScorer,
    Field(discriminator="kind"),
]
"""Ways of asking how well an explanation holds, one class each."""


class SpendingSettings(Model):
    """What a run may use at most. It stops before it would use more; with more, it goes on."""

    tokens: int | None = Field(default=None, ge=1)
    """Tokens sent and received; null, any number."""
    money: float | None = Field(default=None, gt=0)
    """Their price by `prices`; null, any."""


class InterpretSettings(Model):
    """One run: explanations of features of one analysis, and their scores."""

    name: ArtefactName = "default"
    """Name of the run beside the analysis's tables."""
    features: DictionaryName
    """The dictionary whose features are explained, `series/name`."""
    analysis: ArtefactName | None = None
    """Which analysis of it; absent, the only one."""
    select: Selection = SampleSelection()
    """Which features."""
    endpoint: EndpointSettings
    """Who is asked."""
    explainers: dict[ArtefactName, Explainer] = Field(
        default={"quantile": QuantileExplainer()}, min_length=1
    )
    """Explainers by name, each asked about each feature."""
    scorers: dict[ArtefactName, Scorer] = {
        "detection": DetectionScorer(),
        "fuzzing": FuzzingScorer(),
    }
    """Scorers by name, each applied to each explanation; `{}` scores none."""
    bootstrap: int = Field(default=1000, ge=0)
    """Resamplings for the interval of each score; 0, none is computed."""
    seed: int = Field(default=0, ge=0)
    """Of every draw of examples and features, and of the requests."""
    prices: dict[str, PriceSettings] = Field(default={}, exclude=True)
    """Price of each model by name. Like all below it is not part of the fingerprint."""
    budget: SpendingSettings = Field(default=SpendingSettings(), exclude=True)
    """What the run may use."""
    concurrency: int = Field(default=16, ge=1, le=1024, exclude=True)
    """Requests under way at once; it changes no result."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        """Refuse what no endpoint could be asked.

        Raises:
            ValueError: A model is not named, or has no price where money is counted.
        """
        embeds = [name for name, each in self.scorers.items() if each.kind == "embedding"]
        if embeds and self.endpoint.embedding_model is None:
            raise ValueError(
                f"scorers.{embeds[0]} needs endpoint.embedding_model: name a model of embeddings"
            )
        if self.budget.money is not None:
            asked = [self.endpoint.model, *([self.endpoint.embedding_model] if embeds else [])]
            for model in asked:
                if model not in self.prices:
                    raise ValueError(
                        f"budget.money needs the price of {model}: set prices.{model!r} to "
                        "{prompt = …, completion = …} per million tokens"
                    )
        return self
