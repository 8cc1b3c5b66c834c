"""Evaluate end to end on a tiny random model, held against numbers computed by hand."""

import re

import numpy as np
import pytest
import torch

from saestore import evaluate, features, generate, train
from saestore.activations import ActivationStore, held_out
from saestore.dictionaries import load
from saestore.errors import ArtefactExistsError, ConfigError, HookpointNotFoundError
from saestore.evaluate import Evaluation, selection
from saestore.evaluate.splice import Splice, pad
from saestore.lake import Lake, Ref, checkpoint, layout, table_file
from saestore.lm import LanguageModel
from saestore.progress import Recorder
from saestore_schemas import tables
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.dictionary import TopK
from saestore_schemas.evaluate import EvaluateSettings, SpliceSettings
from saestore_schemas.families import SaeSettings
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings
from saestore_schemas.metrics import JACOBIAN, METRICS, POOLED
from saestore_schemas.optimize import CheckpointSettings
from saestore_schemas.train import (
    ActivationsSettings,
    BudgetSettings,
    EvaluateEverySettings,
    TrainSettings,
)


HOOK = "blocks.1.hook_resid_post"
SHARE = 0.3


@pytest.fixture(scope="module")
def lake(tiny_gpt2, tiny_jsonl, tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("evaluate") / "lake")
    generate.run(
        GenerateSettings(
            name="store",
            lm=LmSettings(model=str(tiny_gpt2)),
            corpus=CorpusSettings(sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=24),
            hookpoints=(HOOK, "blocks.0.hook_resid_post"),
            dtype="float32",
            tokens=1500,
        ),
        made,
        device="cpu",
    )
    train.run(
        TrainSettings(
            series="s",
            name="d",
            activations=ActivationsSettings(name="store", batch_rows=128, held_out=SHARE),
            dictionary=SaeSettings(hookpoint=HOOK, d_sae=53, activation=TopK(k=5)),
            budget=BudgetSettings(epochs=3.0),
        ),
        made,
        device="cpu",
    )
    return made


def settings(**changes):
    splice = SpliceSettings(contexts=7, forward_contexts=3)
    return EvaluateSettings(**{"dictionary": "s/d", "splice": splice, **changes})


@pytest.fixture(scope="module")
def evaluation(lake):
    return evaluate.run(settings(), lake, device="cpu")


@pytest.fixture(scope="module")
def held_out_rows(lake):
    """The kept rows of held-out contexts, found without the code under test."""
    store = ActivationStore.open(lake, "store")
    unseen = held_out(store.n_contexts, SHARE)
    parts = [
        store.read(HOOK, first, first + length)[store.flags(first, first + length) == 0]
        for first, length in store.contexts()[unseen].tolist()
    ]
    return np.concatenate(parts)


def test_scores_equal_a_direct_computation(lake, evaluation, held_out_rows):
    y = held_out_rows.astype(np.float64)
    sae = load(lake, "s/d")
    y_hat = sae.reconstruct(torch.from_numpy(held_out_rows))[HOOK].numpy().astype(np.float64)
    dense = sae.encode(torch.from_numpy(held_out_rows)).to_dense().double().numpy()
    error = y - y_hat
    fvu = (error**2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    norms = sae.folded().decoder_norms().detach().double().numpy()
    expected = {
        "explained_variance": 1 - fvu,
        "fvu": fvu,
        "mse": (error**2).sum() / len(y),
        "l0": (dense > 0).sum() / len(y),
        "l1": (dense * norms).sum() / len(y),
        "l1_raw": dense.sum() / len(y),
        "dead[all]": (dense > 0).any(axis=0).mean() * -1 + 1,
        "density[max]": (dense > 0).mean(axis=0).max(),
        "mean_activation": dense.sum() / (dense > 0).sum(),
    }
    for name, value in expected.items():
        assert evaluation.values[name] == pytest.approx(value, rel=1e-6), name
    assert evaluation.values["dead[1e5]"] is None
    assert 0 < evaluation.values["l0"] <= 5
    assert evaluation.manifest.facts["rows"] == len(y)


def test_the_table_is_scores_and_every_metric_is_known(evaluation):
    assert evaluation.table.schema.equals(tables.SCORES.schema())
    names = evaluation.table["metric"].to_pylist()
    assert names == sorted(METRICS.keys() - {metric.name for metric in (*POOLED, *JACOBIAN)})
    units = dict(zip(names, evaluation.table["unit"].to_pylist(), strict=True))
    assert units["delta_ce"] == "nats"
    assert units["explained_variance"] == ""


def test_features_have_a_line_each(lake, evaluation, held_out_rows):
    table = evaluation.features
    assert table.schema.equals(tables.FEATURE_SCORES.schema())
    sae = load(lake, "s/d")
    dense = sae.encode(torch.from_numpy(held_out_rows)).to_dense().double().numpy()
    columns = table.to_pydict()
    firings = (dense > 0).sum(axis=0)
    assert columns["feature"] == list(range(sae.d_sae))
    assert columns["n_firings"] == firings.tolist()
    assert columns["density"] == (firings / len(dense)).tolist()
    for feature, count in enumerate(firings):
        silent = count == 0
        assert (columns["mean"][feature] is None) == silent
        assert (columns["first_row"][feature] is None) == silent
        assert (columns["rate_bound"][feature] is not None) == silent
        if not silent:
            assert columns["first_row"][feature] == np.flatnonzero(dense[:, feature])[0]
    nearest = columns["decoder_nearest"][0]
    assert columns["decoder_cosine_max"][0] == pytest.approx(
        abs(torch.cosine_similarity(sae.W_dec[0], sae.W_dec[nearest], dim=0).item()), rel=1e-5
    )
    found = features.query(lake, "SELECT count(*) AS n FROM feature_scores WHERE dictionary = 'd'")
    assert found["n"][0].as_py() == sae.d_sae


def test_cross_entropies_are_the_models_own(lake, evaluation, tiny_gpt2):
    scores = evaluation.values
    assert scores["delta_ce"] == scores["ce[dict]"] - scores["ce[clean]"]
    assert scores["ce_recovered[zero]"] == pytest.approx(
        (scores["ce[zero]"] - scores["ce[dict]"]) / (scores["ce[zero]"] - scores["ce[clean]"])
    )
    store = ActivationStore.open(lake, "store")
    contexts = store.contexts()
    members = np.flatnonzero(held_out(store.n_contexts, SHARE) & (contexts[:, 1] > 1))
    chosen = members[selection.spread(len(members), 7)]
    model = LanguageModel.load(LmSettings(model=str(tiny_gpt2)), device="cpu")
    nats = []
    for first, length in contexts[chosen].tolist():  # one at a time: no padding
        tokens = torch.from_numpy(store.tokens(first, first + length).astype(np.int64))[None]
        flags = store.flags(first, first + length)[:-1]
        nats.append(model.token_losses(tokens)[0, :-1][torch.from_numpy(flags == 0)])
    assert torch.cat(nats).double().mean().item() == pytest.approx(scores["ce[clean]"], rel=1e-5)
    facts = evaluation.manifest.facts["splice"]
    assert facts["predictions"] == len(torch.cat(nats))
    assert facts["contexts"] == 7
    assert facts["forward_dtype"] == "float32"
    assert facts["model_is_the_stores"] is True


def test_m12_the_identity_spliced_into_a_real_model_changes_nothing(lake, tiny_gpt2):
    store = ActivationStore.open(lake, "store")
    model = LanguageModel.load(LmSettings(model=str(tiny_gpt2)), device="cpu")
    means = {HOOK: torch.from_numpy(store.moments(HOOK).mean).float()}
    splice = Splice(model, reads=(HOOK,), reconstruct=dict, means=means)
    stretches = [(int(a), int(a + n)) for a, n in store.contexts()[:5]]
    splice.update(
        pad([store.tokens(*each) for each in stretches], [store.flags(*each) for each in stretches])
    )
    scores = {score.metric: score.value for score in splice.scores()}
    assert scores["delta_ce"] == 0
    assert scores["kl[dict]"] == 0
    assert scores["kl_recovered[zero]"] == scores["kl_recovered[mean]"] == 1
    assert scores["ce_recovered[zero]"] == 1
    assert scores["ce_recovered[mean]"] == 1
    assert abs(scores["ce[zero]"] - scores["ce[clean]"]) > 1e-3


def test_a_rerun_does_nothing_and_other_settings_are_refused(lake, evaluation):
    progress = Recorder()
    again = evaluate.run(settings(), lake, device="cpu", progress=progress)
    assert progress.tasks == []
    assert again.manifest == evaluation.manifest
    with pytest.raises(ArtefactExistsError, match="rows: 1000000 → 17"):
        evaluate.run(settings(rows=17), lake, device="cpu")
    assert Evaluation.open(lake, "s/d").ref == evaluation.ref


def test_two_evaluations_give_the_same_bytes(lake, evaluation):
    other = evaluate.run(settings(name="again"), lake, device="cpu")
    assert other.table.equals(evaluation.table)


def test_rows_bound_and_splits_are_kept(lake, monkeypatch):
    progress = Recorder()
    small = evaluate.run(
        settings(name="small", rows=60, split="train", splice=None), lake, device="cpu",
        progress=progress,
    )  # fmt: skip
    assert 0 < small.manifest.facts["rows"] <= 60
    assert small.manifest.facts["splice"] is None
    assert "ce[clean]" not in small.values
    assert [task["label"] for task in progress.tasks] == ["reconstruct rows", "compare features"]
    everything = evaluate.run(
        settings(name="all", rows=None, split="all", splice=None), lake, device="cpu"
    )
    store = ActivationStore.open(lake, "store")
    assert everything.manifest.facts["rows"] == store.moments(HOOK).count
    # blocks are an implementation's choice of arithmetic, not of rows
    monkeypatch.setattr(selection, "BLOCK_ROWS", 64)
    blocks = evaluate.run(
        settings(name="blocks", rows=None, split="all", splice=None), lake, device="cpu"
    )
    for name, value in everything.values.items():
        assert blocks.values[name] == (None if value is None else pytest.approx(value, rel=1e-6))


def test_another_model_is_noted(lake, tiny_llama):
    progress = Recorder()
    other = evaluate.run(
        settings(name="llama", rows=50, splice=SpliceSettings(contexts=2, lm=str(tiny_llama))),
        lake, device="cpu", progress=progress,
    )  # fmt: skip
    assert other.manifest.facts["splice"]["model_is_the_stores"] is False
    assert any("not those the store was made with" in note for note in progress.notes)


def test_a_missing_model_is_told_before_a_row_is_read(lake, tmp_path):
    progress = Recorder()
    wanted = settings(name="lost", splice=SpliceSettings(lm=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        evaluate.run(wanted, lake, device="cpu", progress=progress)
    assert progress.tasks == []
    assert not lake.storage.exists("evaluations/s/d/lost")


def spliced_run(name, model=None):
    return TrainSettings(
        series="s",
        name=name,
        activations=ActivationsSettings(name="store", batch_rows=128, held_out=SHARE),
        dictionary=SaeSettings(hookpoint=HOOK, d_sae=53, activation=TopK(k=5)),
        budget=BudgetSettings(epochs=2.0),
        checkpoints=CheckpointSettings(count=2, keep="all"),
        evaluate_every=EvaluateEverySettings(
            steps=5, rows=100, splice=SpliceSettings(contexts=5, forward_contexts=2, lm=model)
        ),
    )


def trained(wanted, lake):
    measure = evaluate.Periodic.of(wanted, lake, device="cpu")
    train.run(wanted, lake, device="cpu", evaluate=measure)
    artefact = lake.artefact(Ref("dictionary", f"{wanted.series}/{wanted.name}"))
    found = {}
    for row in table_file.from_bytes(artefact.read(layout.METRICS)).to_pylist():
        if row["name"].startswith("evaluate/"):
            scores = found.setdefault(row["step"], {})
            scores[row["name"].removeprefix("evaluate/")] = row["value"]
    return artefact, found


def test_the_model_is_asked_while_training_as_evaluate_asks_it(lake):
    artefact, found = trained(spliced_run("spliced"), lake)
    step = min(set(found) & set(checkpoint.steps(artefact)))
    splice = SpliceSettings(contexts=5, forward_contexts=2)
    for at, name in ((step, f"s/spliced@{step}"), (max(found), "s/spliced")):
        wanted = EvaluateSettings(dictionary=name, rows=100, splice=splice, cosines=False)
        scores = evaluate.run(wanted, lake, device="cpu").values
        assert found[at] == {metric: scores[metric] for metric in found[at]}
        assert {"delta_ce", "kl[dict]", "ce_recovered[zero]", "ce_recovered[mean]"} <= set(
            found[at]
        )
    assert found[step]["delta_ce"] != found[max(found)]["delta_ce"]
    assert found[step]["ce[clean]"] == found[max(found)]["ce[clean]"]
    plain = spliced_run("plain").model_copy(update={"evaluate_every": None})
    train.run(plain, lake, device="cpu")
    without = lake.artefact(Ref("dictionary", "s/plain"))
    assert artefact.read(layout.WEIGHTS) == without.read(layout.WEIGHTS)


def test_a_model_that_goes_missing_stops_training_before_it_begins_and_nothing_after(
    lake, tiny_gpt2, tmp_path
):
    here = tmp_path / "model"
    wanted = spliced_run("moved", str(here))
    with pytest.raises(ConfigError, match=re.escape(str(here))):
        trained(wanted, lake)
    assert not lake.storage.exists("dictionaries/s/moved")
    here.symlink_to(tiny_gpt2)
    _, found = trained(wanted, lake)
    here.unlink()
    assert trained(wanted, lake)[1] == found  # finished: nothing is asked


def test_bars_end_where_they_say(lake):
    progress = Recorder()
    evaluate.run(settings(name="bars"), lake, device="cpu", progress=progress)
    for task in progress.tasks:
        assert task["advanced"] == task["total"]


def test_features_need_not_be_compared(lake):
    found = evaluate.run(
        settings(name="apart", rows=50, splice=None, cosines=False), lake, device="cpu"
    )
    assert not any("cosine_max" in name for name in found.values)
    assert found.features["decoder_nearest"].null_count == found.features.num_rows


def test_mistakes_are_answered(lake, tiny_gpt2, tiny_jsonl):
    generate.run(
        GenerateSettings(
            name="other",
            lm=LmSettings(model=str(tiny_gpt2)),
            corpus=CorpusSettings(sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=24),
            hookpoints=("blocks.0.hook_resid_post",),
            tokens=100,
        ),
        lake,
        device="cpu",
    )
    with pytest.raises(HookpointNotFoundError, match="other"):
        evaluate.run(settings(name="x", activations="other"), lake, device="cpu")
    generate.run(
        GenerateSettings(
            name="second",
            lm=LmSettings(model=str(tiny_gpt2)),
            corpus=CorpusSettings(sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=24),
            hookpoints=(HOOK,),
            tokens=100,
        ),
        lake,
        device="cpu",
    )
    with pytest.raises(ConfigError, match="split: found 'held_out'") as caught:
        evaluate.run(settings(name="x", activations="second"), lake, device="cpu")
    assert "split = 'all'" in caught.value.hint
    fine = evaluate.run(
        settings(name="second", activations="second", split="all", splice=None), lake, device="cpu"
    )
    assert [parent.name for parent in fine.manifest.parents] == ["s/d", "second"]
