"""Which rows train: one store or a weighted mix, ranges, flags; what is refused, and that it resumes."""

import numpy as np
import pytest
from pydantic import ValidationError

from saestore import analyze, dictionaries, evaluate, train
from saestore.activations import (
    ActivationStore,
    MixedMoments,
    Moments,
    held_out,
    trained_on,
)
from saestore.activations.scatter import scatter
from saestore.errors import ArtefactNotFoundError, ConfigError, HookpointNotFoundError
from saestore.evaluate.subject import open_subject
from saestore.lake import Lake, Ref
from saestore.progress import Recorder
from saestore.testing.stores import HOOKPOINT, synthetic_rows, synthetic_store
from saestore.train.rows import TrainingRows, _one_model
from saestore_schemas.activations import FLAG_IGNORED, FLAG_SPECIAL
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.scatter import ScatterSettings
from saestore_schemas.train import ActivationsSettings, TrainSettings


WIDTH = 7
MIX = {"sources": [{"name": "web", "weight": 3.0}, {"name": "code", "rows": [40, 300]}]}
FILES = ("weights.safetensors", "metrics.parquet", "config.json")


def settings(activations, **changes):
    plain = {
        "series": "s",
        "name": "one",
        "activations": {"batch_rows": 48, "held_out": 0.1, **activations},
        "dictionary": {
            "family": "sae",
            "hookpoint": HOOKPOINT,
            "d_sae": 23,
            "activation": {"kind": "topk", "k": 2},
        },
        "budget": {"epochs": 3.0},
        "loss": {"aux": {"dead_after_rows": 200}},
        "checkpoints": {"count": 5},
        "log": {"every": 7},
    }
    return TrainSettings.model_validate(plain | changes)


def filled(lake):
    synthetic_store(lake, "web", rows=500, width=WIDTH)
    synthetic_store(lake, "code", rows=330, width=WIDTH, seed=1, dtype="float16")
    return lake


@pytest.fixture
def lake(tmp_path):
    return filled(Lake.at(tmp_path / "lake"))


def payload(lake):
    folder = lake.storage.child("dictionaries/s/one")
    return {file: folder.read(file) for file in FILES}


def test_a_mix_trains_and_every_store_is_a_parent(lake):
    progress = Recorder()
    dictionary = train.run(settings(MIX), lake, progress=progress)
    manifest = lake.manifest(Ref("dictionary", "s/one"))
    assert [parent.name for parent in manifest.parents] == ["web", "code"]
    assert [parent.name for parent in dictionary.config.parents] == ["web", "code"]
    assert dictionary.config.model.name == "synthetic"
    assert dictionary.config.model.capture_dtype == "float32, float16"
    rows = TrainingRows.open(settings(MIX).activations, lake, hookpoints=[HOOKPOINT])
    stream = rows.stream([HOOKPOINT], seed=0)
    assert stream.source_rows[1] < 260
    assert manifest.counts["steps"] == 3 * stream.rows_per_epoch // 48
    assert manifest.facts["mixing"] == stream.mixing
    assert manifest.facts["sources"] == [
        {"name": "web", "share": 0.75, "rows": stream.source_rows[0]},
        {"name": "code", "share": 0.25, "rows": stream.source_rows[1]},
    ]
    assert progress.notes[0].endswith("; rows of web 75 %, code 25 %")
    assert manifest.facts["window_rows"] == stream.window_rows == stream.rows_per_epoch


class StoppedError(Exception):
    """What stands for a crash."""


@pytest.mark.parametrize("window", [None, 150], ids=["resident", "ring"])
@pytest.mark.parametrize(
    "chosen", [MIX, {"name": "web", "rows": [10, 470], "flags": ["special"]}], ids=["mix", "range"]
)
def test_a_run_that_is_resumed_ends_with_the_same_bytes(lake, tmp_path, chosen, window):
    chosen = chosen | {"shuffle": {"window_rows": window}}
    steps = []
    run = settings(chosen, budget={"epochs": 2.0}, checkpoints={"count": 3})
    train.run(run, lake, evaluate=lambda _, step: steps.append(step) or {})
    assert len(steps) == 4

    def stop_at(step):
        def stop(_, now):
            if now == step:
                raise StoppedError
            return {}

        return stop

    again = filled(Lake.at(tmp_path / "again"))
    for step in steps:  # before each checkpoint is written, and at the end
        with pytest.raises(StoppedError):
            train.run(run, again, evaluate=stop_at(step))
    train.run(run, again)
    assert payload(again) == payload(lake)


@pytest.mark.parametrize(
    "other",
    [
        {"sources": [{"name": "web", "weight": 2.0}, MIX["sources"][1]]},
        {"sources": [MIX["sources"][0], {"name": "code"}]},
        {"sources": MIX["sources"][::-1]},
        {**MIX, "flags": ["special"]},
        {"name": "web"},
        {"name": "web", "rows": [0, 400]},
    ],
)
def test_other_rows_are_another_run(lake, other):
    train.run(settings(MIX), lake)
    with pytest.raises(Exception, match=r"other settings:\n  activations\."):
        train.run(settings(other), lake)


def test_a_range_and_flags_choose_the_rows_of_one_store(lake):
    flags = np.random.default_rng(0).integers(0, 4, 300).astype(np.uint8)
    values = synthetic_rows(300, WIDTH, seed=3)
    values[:, 0] = np.arange(300)
    synthetic_store(lake, "flagged", values={HOOKPOINT: values}, flags=flags, context_size=10)

    def found(**chosen):
        chosen = ActivationsSettings(name="flagged", batch_rows=1, held_out=0.0, **chosen)
        stream = TrainingRows.open(chosen, lake, hookpoints=[HOOKPOINT]).stream([HOOKPOINT], seed=0)
        rows = [int(next(stream)[HOOKPOINT][0, 0]) for _ in range(stream.rows_per_epoch)]
        return sorted(rows)

    number = np.arange(300)
    assert found() == number[flags == 0].tolist()
    assert found(flags=("special",)) == number[flags & ~np.uint8(FLAG_SPECIAL) == 0].tolist()
    assert found(flags=("ignored",)) == number[flags & ~np.uint8(FLAG_IGNORED) == 0].tolist()
    both = found(flags=("ignored", "special"), rows=(30, 151))
    assert both == list(range(30, 151))


def test_the_scale_of_a_mix_is_that_of_its_rows_by_share(lake):
    one, two = synthetic_rows(40, WIDTH, seed=0), 3 * synthetic_rows(90, WIDTH, seed=1) + 5
    drawn = np.concatenate(
        [np.tile(one, (27, 1)), np.tile(two, (4, 1))]
    )  # 1080 to 360 rows: 3 to 1
    expected = Moments.of(drawn)
    found = MixedMoments.of([Moments.of(one), Moments.of(two)], [3.0, 1.0])
    assert found.count == 130
    for ours, theirs in (
        (found.mean, expected.mean),
        (found.m2 / found.count, expected.variance),
        (found.norm_sum / found.count, expected.mean_norm),
        (found.norm_sq_sum / found.count, expected.mean_sq_norm),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    by_rows = MixedMoments.of([Moments.of(one), Moments.of(two)], [40.0, 90.0])
    merged = Moments.of(one).merge(Moments.of(two))
    np.testing.assert_allclose(by_rows.m2, merged.m2, rtol=1e-12)
    np.testing.assert_allclose(by_rows.norm_sum, merged.norm_sum, rtol=1e-12)

    train.run(settings(MIX), lake)
    record = dictionaries.load(lake, "s/one").config.scale[HOOKPOINT]
    rows = TrainingRows.open(settings(MIX).activations, lake, hookpoints=[HOOKPOINT])
    moments = MixedMoments.of([s.moments(HOOKPOINT) for s in rows.stores.values()], [3.0, 1.0])
    assert record.a == pytest.approx((WIDTH / (moments.m2.sum() / moments.count)) ** 0.5)
    assert record.rows == moments.count
    with pytest.raises(ConfigError, match=r"found \[40, 0\]"):
        MixedMoments.of([Moments.of(one), Moments.none(WIDTH)], [1.0, 1.0])


def test_stores_that_cannot_be_mixed_are_refused(lake):
    synthetic_store(lake, "wide", rows=90, width=WIDTH + 1)
    synthetic_store(lake, "elsewhere", values={"blocks.0.hook_resid_post": np.ones((9, 7), "f4")})
    synthetic_store(lake, "other-model", rows=90, width=WIDTH, lm="other")
    synthetic_store(lake, "imported", rows=90, width=WIDTH, imported=True)

    def mix(*names, **each):
        sources = [{"name": name} | each for name in names]
        return train.run(settings({"sources": sources}), lake)

    with pytest.raises(ArtefactNotFoundError, match="no activations named 'cod'") as caught:
        mix("web", "cod")
    assert "code" in caught.value.hint
    with pytest.raises(ConfigError, match=r"activations\.sources: .*'wide': 8.*one width"):
        mix("web", "wide")
    with pytest.raises(HookpointNotFoundError, match="activations 'elsewhere'"):
        mix("web", "elsewhere")
    with pytest.raises(ConfigError, match=r"'other-model': 'other \(raw\)'.*one language model"):
        mix("web", "other-model")
    with pytest.raises(ConfigError, match=r"activations\.rows: found \[0, 400\].*'code'"):
        mix("web", "code", rows=[0, 400])
    uneven = {"sources": [{"name": "web", "weight": 0.1234567}, {"name": "code"}]}
    with pytest.raises(ConfigError, match="repeat within 100000 rows"):
        train.run(settings(uneven), lake)
    assert not lake.storage.exists("dictionaries")
    mix("web", "imported")
    assert dictionaries.load(lake, "s/one").config.model is None


def test_a_name_that_stands_for_other_weights_is_another_model(lake):
    one = synthetic_store(lake, "one", rows=90, width=WIDTH, lm="a")
    two = synthetic_store(lake, "two", rows=90, width=WIDTH, lm="b")
    chosen = ActivationsSettings(sources=[{"name": "one"}, {"name": "two"}])
    with pytest.raises(ConfigError, match="one language model"):
        TrainingRows.open(chosen, lake, hookpoints=[HOOKPOINT])
    two.manifest.facts["lm"] = one.manifest.facts["lm"]  # same weights under two names
    _one_model([one, two])


def test_evaluate_and_analyze_want_to_know_which_store_of_a_mix(lake):
    train.run(settings(MIX), lake)
    plain = EvaluateSettings(dictionary="s/one", splice=None)
    with pytest.raises(ConfigError) as caught:
        evaluate.run(plain, lake)
    assert caught.value.hint == "s/one was trained on a mix of web, code: say which to use"
    evaluate.run(plain.model_copy(update={"activations": "code"}), lake)
    with pytest.raises(ConfigError) as caught:
        analyze.run(AnalyzeSettings(dictionary="s/one"), lake)
    assert "web, code" in caught.value.hint


def test_what_a_scattered_copy_trained_is_evaluated_on_the_original(lake):
    scatter(ScatterSettings(name="copy", store="web"), lake)
    train.run(settings({"name": "copy"}), lake)
    assert trained_on(lake, lake.manifest(Ref("dictionary", "s/one"))) == {"web": [None]}
    subject = open_subject(EvaluateSettings(dictionary="s/one", splice=None), lake)
    assert subject.store.ref.name == "web"
    assert np.array_equal(subject.split, held_out(subject.store.n_contexts, 0.1))
    evaluate.run(EvaluateSettings(dictionary="s/one", splice=None), lake)
    analyze.run(AnalyzeSettings(dictionary="s/one", logits=None), lake)
    assert lake.manifest(Ref("features", "s/one/default")).facts["activations"] == "web"


def test_a_scattered_copy_is_not_mixed_with_what_it_copies(lake):
    for copy in ("copy", "second"):
        scatter(ScatterSettings(name=copy, store="web", seed=len(copy)), lake)
    for pair in (["copy", "web"], ["copy", "second"]):
        with pytest.raises(
            ConfigError, match=f"{pair[0]} and {pair[1]}, which have the rows of web"
        ):
            train.run(settings({"sources": [{"name": name} for name in pair]}), lake)
    train.run(settings({"sources": [{"name": "copy"}, {"name": "code"}]}), lake)


def test_what_training_saw_lies_in_its_ranges(lake):
    train.run(settings(MIX), lake)
    wanted = {"dictionary": "s/one", "splice": None, "activations": "code"}
    seen = open_subject(EvaluateSettings(split="train", **wanted), lake).split
    kept = open_subject(EvaluateSettings(split="held_out", **wanted), lake).split
    inside = np.arange(len(seen)) * 32
    inside = (inside + 32 > 40) & (inside < 300)  # contexts of 32 rows, rows 40 to 300
    assert np.array_equal(seen, inside & ~kept)
    scatter(ScatterSettings(name="copy", store="code"), lake)
    copied = settings({"name": "copy", "rows": [1, 2]}, name="two", budget={"rows": 48})
    train.run(copied, lake)
    copy = ActivationStore.open(lake, "copy")
    whole = (0, copy.spec.shard_rows)
    assert trained_on(lake, lake.manifest(Ref("dictionary", "s/two"))) == {"code": [whole]}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, "exactly one of name, sources and heads"),
        ({"name": "web", **MIX}, "exactly one of name, sources and heads"),
        ({**MIX, "rows": [0, 5]}, "each of sources has rows of its own"),
        ({"name": "web", "rows": [5, 5]}, "there is no row from 5"),
        ({"name": "web", "rows": [-1, 5]}, "greater than or equal to 0"),
        ({"sources": [{"name": "web", "weight": 0}]}, "greater than 0"),
        ({"sources": [{"name": "web", "weight": "inf"}]}, "finite"),
        ({"sources": [{"name": "web"}, {"name": "web", "rows": [0, 9]}]}, "source twice"),
        ({"name": "web", "flags": ["bos"]}, "'special' or 'ignored'"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(chosen, message):
    with pytest.raises(ValidationError, match=message):
        ActivationsSettings.model_validate(chosen)
    two = [{"name": "web", "rows": [0, 9]}, {"name": "web", "rows": [9, 12], "weight": 2.0}]
    assert len(ActivationsSettings(sources=two).mixed) == 2
