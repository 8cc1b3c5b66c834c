"""Hookpoints of several stores read side by side: as those of one store, or refused with what differs."""

import numpy as np
import pytest
from pydantic import ValidationError

from saestore import analyze, dictionaries, evaluate, features, train
from saestore.activations.scatter import scatter
from saestore.errors import ConfigError, HookpointNotFoundError
from saestore.lake import Lake, Ref
from saestore.testing.stores import synthetic_rows, synthetic_store
from saestore_schemas.activations import FLAG_IGNORED
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.scatter import ScatterSettings
from saestore_schemas.train import TrainSettings


ROWS = 700
HOOK = "blocks.1.hook_resid_post"
WIDTHS = {"base": 7, "tuned": 11}
SIDE_BY_SIDE = {"heads": [{"name": name, "store": name, "hookpoint": HOOK} for name in WIDTHS]}
FILES = ("weights.safetensors", "metrics.parquet")


def settings(activations, name="one", **changes):
    plain = {
        "series": "s",
        "name": name,
        "activations": {"batch_rows": 48, "held_out": 0.2, **activations},
        "dictionary": {
            "family": "crosscoder",
            "hookpoints": list(WIDTHS),
            "d_sae": 23,
            "activation": {"kind": "batchtopk", "k": 2},
        },
        "budget": {"epochs": 1.0},
        "checkpoints": {"count": 2},
        "log": {"every": 5},
    }
    return TrainSettings.model_validate(plain | changes)


def filled(lake):
    """Two stores of the same tokens, and one that has the hookpoints of both."""
    values = {name: synthetic_rows(ROWS, width, seed=width) for name, width in WIDTHS.items()}
    synthetic_store(lake, "both", values=values)
    for name, rows in values.items():
        synthetic_store(lake, name, values={HOOK: rows}, lm=f"model-{name}")
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return filled(Lake.at(tmp_path_factory.mktemp("heads") / "lake"))


@pytest.fixture(scope="module")
def trained(lake):
    """The crosscoder of both stores, and the one of the store that has it all."""
    return [
        train.run(settings(SIDE_BY_SIDE), lake, device="cpu"),
        train.run(settings({"name": "both"}, "all"), lake, device="cpu"),
    ]


def payload(lake, name="one"):
    folder = lake.storage.child(f"dictionaries/s/{name}")
    return [folder.read(file) for file in FILES]


def test_it_is_the_crosscoder_of_one_store_with_all_hookpoints(lake, trained):
    assert payload(lake) == payload(lake, "all")
    scores = []
    for name in ("one", "all"):
        given = {"dictionary": f"s/{name}", "splice": None}
        found = evaluate.run(EvaluateSettings(**given), lake, device="cpu")
        scores.append((found.table, found.features))
        analyze.run(AnalyzeSettings(dictionary=f"s/{name}", logits=None), lake, device="cpu")
    assert scores[0] == scores[1]
    found = features.query(lake, "SELECT * EXCLUDE (dictionary) FROM firings ORDER BY dictionary")
    half = len(found) // 2
    assert found.slice(0, half) == found.slice(half)
    assert half > ROWS
    for kind, name in [("dictionary", "s/one"), ("evaluation", "s/one/default"),
                       ("features", "s/one/default")]:  # fmt: skip
        parents = lake.manifest(Ref(kind, name)).parents
        assert [each.name for each in parents if each.kind == "activations"] == list(WIDTHS)


def test_its_config_says_where_each_head_lies(lake, trained):
    config = dictionaries.load(lake, "s/one").config
    assert config.model is None
    found = {name: (head.hookpoint, head.model.name) for name, head in config.heads.items()}
    assert found == {name: (HOOK, f"model-{name}") for name in WIDTHS}
    assert trained[1].config.heads is None
    assert trained[1].config.model.name == "synthetic"


class StoppedError(Exception):
    """What stands for a crash."""


def test_a_run_that_is_resumed_ends_with_the_same_bytes(lake, trained, tmp_path):
    again = filled(Lake.at(tmp_path / "again"))

    def stop(_, step):
        if step > 4:
            raise StoppedError
        return {}

    with pytest.raises(StoppedError):
        train.run(settings(SIDE_BY_SIDE), again, device="cpu", evaluate=stop)
    train.run(settings(SIDE_BY_SIDE), again, device="cpu")
    assert payload(again) == payload(lake)


def test_other_stores_are_compared_before_they_are_read(lake, trained):
    given = {"dictionary": "s/one", "splice": None, "split": "all", "cosines": False}
    heads = [{"name": "base", "store": "base", "hookpoint": HOOK},
             {"name": "tuned", "store": "moved", "hookpoint": HOOK}]  # fmt: skip
    values = {HOOK: synthetic_rows(ROWS, WIDTHS["tuned"], seed=3)}
    synthetic_store(lake, "moved", values=values, seed=5)
    with pytest.raises(ConfigError, match=r"base and moved, whose tokens differ .*: row 1 "):
        evaluate.run(EvaluateSettings(**given, name="moved", heads=heads), lake, device="cpu")
    with pytest.raises(ValidationError, match="give activations or heads"):
        EvaluateSettings(**given, activations="base", heads=heads)


def differing(lake, what):
    """A store that differs from `base` in one respect."""
    tokens, flags, lengths = None, None, None
    values = {HOOK: synthetic_rows(ROWS, 11, seed=4)}
    base = np.random.default_rng((0, 1)).integers(1, 61, ROWS)
    base[::32] = 0
    if what == "tokens":
        tokens = base.copy()
        tokens[100] = 1 + tokens[100] % 59
    if what == "flags":
        flags = (base == 0).astype(np.uint8)
        flags[40] = FLAG_IGNORED
    if what == "contexts":
        tokens, lengths = base, np.array([*[32] * 3, 33, 31, *[32] * 16, 28])
    synthetic_store(lake, what, values=values, tokens=tokens, flags=flags, lengths=lengths)


@pytest.mark.parametrize(
    ("what", "first"),
    [
        ("tokens", r"tokens differ \(1 of 700\): row 100 \(context 3, position 4\), after"),
        ("flags", r"flags differ \(1 of 700\): row 40 \(context 1, position 8\)"),
        ("contexts", r"contexts differ \(2 of 22\): context 3, which begins with row 96, has 32"),
    ],
)
def test_stores_that_differ_are_refused_with_the_first_row(lake, what, first):
    differing(lake, what)
    heads = [*SIDE_BY_SIDE["heads"], {"name": "x", "store": what, "hookpoint": HOOK}]
    with pytest.raises(ConfigError, match=first) as caught:
        train.run(settings({"heads": heads}, "refused"), lake, device="cpu")
    assert f"saestore verify --same-tokens base {what}" in caught.value.hint
    assert not lake.artefact(Ref("dictionary", "s/refused")).names()


def test_heads_that_are_not_there_are_refused(lake):
    scatter(ScatterSettings(store="base", name="scattered"), lake)
    heads = SIDE_BY_SIDE["heads"]
    copy = [heads[0], {**heads[1], "store": "scattered"}]
    with pytest.raises(ConfigError, match="scattered, a scattered copy") as caught:
        train.run(settings({"heads": copy}, "refused"), lake, device="cpu")
    assert "base" in caught.value.hint
    elsewhere = [heads[0], {**heads[1], "hookpoint": "blocks.2.hook_resid_post"}]
    with pytest.raises(HookpointNotFoundError):
        train.run(settings({"heads": elsewhere}, "refused"), lake, device="cpu")


@pytest.mark.parametrize(
    ("activations", "changes", "message"),
    [
        ({"heads": [], "name": None}, {}, "exactly one of name, sources and heads"),
        ({**SIDE_BY_SIDE, "name": "base"}, {}, "exactly one of name, sources and heads"),
        ({"heads": SIDE_BY_SIDE["heads"][:1]}, {}, "'tuned', which is none of activations.heads"),
        ({"heads": [*SIDE_BY_SIDE["heads"], {"name": "base", "store": "x", "hookpoint": "h"}]}, {},
         "two heads are called 'base'"),
        ({"heads": [*SIDE_BY_SIDE["heads"], {"name": "b", "store": "base", "hookpoint": HOOK}]}, {},
         "'base' and 'b' are both"),
        (SIDE_BY_SIDE, {"evaluate_every": {"activations": "base"}}, "heads are read together"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(activations, changes, message):
    with pytest.raises(ValidationError, match=message):
        settings(activations, **changes)


def test_a_sweep_reads_the_stores_in_one_pass(lake, trained):
    grid = {"dictionary.activation.k": [1, 2]}
    train.sweep(settings(SIDE_BY_SIDE, "k", sweep={"name": "ks", "grid": grid}), lake, device="cpu")
    names = [ref.name for ref in lake.refs("dictionary") if ref.name.startswith("s/k")]
    assert len(names) == 2
    found = [dictionaries.load(lake, name) for name in names]
    same = [bool((each.W_dec == trained[0].W_dec).all()) for each in found]  # trained alone
    assert sorted(same) == [False, True]
