"""A whole small lake: the demo's four stages on a tiny random model, in seconds."""

from pathlib import Path

import saestore
from saestore.api import demo
from saestore.api.lake import OpenLake
from saestore_schemas.analyze import AnalyzeSettings, LogitSettings, QuantileSubsample, TopSubsample


def small_plan(model: Path, corpus: Path, *, layers: int = 4, tokens: int = 3000) -> demo.DemoPlan:
    """Return the demo's settings cut down to a tiny model: same names, same stages."""
    plan = demo.plan(model=str(model), layers=layers, corpus=str(corpus), tokens=tokens)
    return demo.DemoPlan(
        generate=plan.generate.model_copy(
            update={"corpus": plan.generate.corpus.model_copy(update={"context_size": 32})}
        ),
        train=plan.train.model_copy(
            update={
                "activations": plan.train.activations.model_copy(
                    update={"batch_rows": 256, "held_out": 0.2}
                ),
                "dictionary": plan.train.dictionary.model_copy(
                    update={
                        "activation": plan.train.dictionary.activation.model_copy(update={"k": 8})
                    }
                ),
            }
        ),
        evaluate=plan.evaluate,
        analyze=AnalyzeSettings(
            dictionary=demo.DICTIONARY,
            logits=LogitSettings(top_k=5),
            subsamples={
                "top": TopSubsample(n=5, window=16),
                "quantile": QuantileSubsample(q=4, n=2, window=16),
            },
        ),
    )


def small_lake(folder: Path, plan: demo.DemoPlan) -> OpenLake:
    """Return a lake in which the four stages of a plan have run."""
    lake = saestore.open_lake(folder, device="cpu")
    demo.write_configs(lake, plan)
    lake.generate(plan.generate)
    lake.train(plan.train)
    lake.evaluate(plan.evaluate)
    lake.analyze(plan.analyze)
    return lake
