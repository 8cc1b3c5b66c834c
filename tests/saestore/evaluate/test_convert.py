"""Conversions to a JumpReLU: the same codes where that is possible, measured ones where it is not."""

import numpy as np
import pytest
import torch

from saestore import open_lake
from saestore.activations import ActivationStore, RowChoice
from saestore.errors import ArtefactExistsError, ConfigError, UnsupportedError
from saestore.lake import Lake
from saestore.progress import Recorder
from saestore.testing.analyses import synthetic_dictionary, write_dictionary
from saestore.testing.dictionaries import random_dictionary
from saestore.testing.stores import synthetic_store
from saestore_schemas.dictionary import AbsTopK, BatchTopK, Gated, LayerTopK, Relu, TopK
from saestore_schemas.families import CltSettings, CrossCoderSettings, SaeSettings
from saestore_schemas.train import ActivationsSettings, BudgetSettings, TrainSettings


IN, OUT = (tuple(f"blocks.{n}.hook_{kind}" for n in (0, 1)) for kind in ("mlp_in", "mlp_out"))
WIDTH, F = 6, 11
SHARE = 0.3


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("convert") / "lake")
    synthetic_store(made, name="store", rows=700, width=WIDTH, hookpoints=(*IN, *OUT))
    for name, activation in {
        "topk": TopK(k=3), "batchtopk": BatchTopK(k=2.5), "gated": Gated(), "abstopk": AbsTopK(k=3),
    }.items():  # fmt: skip
        sae = SaeSettings(
            hookpoint=IN[0], d_sae=F, activation=activation, decoder_norm="free", dtype="float64"
        )
        write_dictionary(made, f"s/{name}", random_dictionary(sae, {IN[0]: WIDTH}), sae)
    for name, activation in {"clt-topk": TopK(k=3), "layertopk": LayerTopK(k=5)}.items():
        clt = CltSettings(
            family="clt", hookpoints_in=IN, hookpoints_out=OUT, d_sae=F, activation=activation,
            dtype="float64",
        )  # fmt: skip
        widths = dict.fromkeys((*IN, *OUT), WIDTH)
        write_dictionary(made, f"s/{name}", random_dictionary(clt, widths), clt)
    return open_lake(made.storage.url, device="cpu")


def converted(lake, name, *, store=True, progress=None, **more):
    settings = {"series": "s", "name": f"{name}-jump", "dictionary": f"s/{name}", **more}
    if store:
        settings["activations"] = {"name": "store", "held_out": SHARE}
    made = lake.convert(settings, progress=progress)
    return lake.dictionary(f"s/{name}-jump"), made


def rows_of(lake, split, hookpoints):
    store = ActivationStore.open(lake.lake, "store")
    marks = np.concatenate([m for _, m in RowChoice(split, SHARE, None, 0).wanted(store)])
    return {h: torch.from_numpy(store.read(h, 0, store.n_rows)[marks]) for h in hookpoints}


@pytest.mark.parametrize(("name", "k"), [("topk", 3), ("clt-topk", 6), ("layertopk", 5)])
def test_a_top_k_gets_thresholds_with_its_l0_and_says_how_much_is_the_same(lake, name, k):
    given, progress = lake.dictionary(f"s/{name}"), Recorder()
    jump, made = converted(lake, name, progress=progress)
    facts = made.facts
    assert jump.config.semantics.activation.kind == "jumprelu"
    assert [p.name for p in jump.config.parents] == [f"s/{name}", "store"]
    seen = jump.encode(rows_of(lake, "train", given.hookpoints_in))
    assert facts["rows"] == seen.n_rows
    assert int(seen.l0().sum()) == k * seen.n_rows
    assert facts["l0"] == k
    for features, own in given.ranked:  # k of each layer, where it counts in each
        fired = seen.to_dense()[:, features] != 0
        assert int(fired.sum()) == own * seen.n_rows
    assert sum(own for _, own in given.ranked) == k
    unseen = rows_of(lake, "held_out", given.hookpoints_in)
    one, other = (each.encode(unseen).to_dense() for each in (given, jump))
    assert facts["measured_on"] == "held_out"
    assert facts["measured_rows"] == len(one)
    assert facts["l0_measured"] == pytest.approx(int((other != 0).sum()) / len(one), rel=1e-12)
    assert facts["l0_before"] == pytest.approx(int((one != 0).sum()) / len(one), rel=1e-12)
    both, either = ((one != 0) & (other != 0)).sum(), ((one != 0) | (other != 0)).sum()
    shared = int(both) / int(either)
    assert facts["firings_shared"] == pytest.approx(shared, rel=1e-12)
    assert 0.5 < shared < 1
    low, high = facts["l0_interval"]
    assert low < facts["l0_measured"] < high
    assert "not the same on each row" in progress.notes[-1]


@pytest.mark.parametrize("name", ["gated", "batchtopk"])
def test_what_compares_with_numbers_keeps_its_codes(lake, name):
    given = lake.dictionary(f"s/{name}")
    jump, made = converted(lake, name)
    rows = rows_of(lake, "held_out", IN[:1])
    one, other = (each.encode(rows).to_dense() for each in (given, jump))
    torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    assert made.facts["exact"]
    assert made.facts["l0"] is None
    assert made.facts["firings_shared"] == 1
    assert made.facts["l0_measured"] == made.facts["l0_before"]


def test_a_store_is_needed_only_where_thresholds_are_found(lake):
    jump, made = converted(lake, "gated", store=False, series="alone")
    assert "l0_measured" not in made.facts
    with pytest.raises(ConfigError, match="a top-k's thresholds are found on its rows") as caught:
        converted(lake, "topk", store=False, series="alone")
    assert "--activations STORE" in caught.value.hint
    del jump


def test_signs_are_refused_before_rows_are_read(lake):
    with pytest.raises(UnsupportedError, match="negative pre-activations too"):
        converted(lake, "abstopk")


def test_the_same_conversion_is_found_and_another_is_refused(lake):
    converted(lake, "topk")
    progress = Recorder()
    converted(lake, "topk", progress=progress)
    assert progress.notes == ["dictionary s/topk-jump: converted already"]
    with pytest.raises(ArtefactExistsError):
        converted(lake, "topk", rows=100)


def test_it_is_evaluated_on_the_rows_that_its_thresholds_never_saw(lake):
    _, made = converted(lake, "topk")
    found = lake.evaluate({"dictionary": "s/topk-jump", "splice": None, "rows": None})
    assert found.values["l0"] == pytest.approx(made.facts["l0_measured"], rel=1e-12)


def test_what_was_trained_here_needs_no_store_named(lake):
    store = ActivationStore.open(lake.lake, "store")
    synthetic_dictionary(lake.lake, "s/trained", store, activation=TopK(k=2), d_sae=F)
    _, made = converted(lake, "trained", store=False)
    assert made.manifest.settings["activations"]["name"] == "store"
    assert made.facts["l0"] == 2
    assert made.facts["measured_on"] == "held_out"


def test_of_a_store_that_trained_it_what_training_held_out_is_left_out(lake):
    settings = TrainSettings(
        series="s",
        name="few",
        activations=ActivationsSettings(name="store", batch_rows=64, held_out=0.5),
        dictionary=SaeSettings(hookpoint=IN[0], d_sae=F, activation=TopK(k=2)),
        budget=BudgetSettings(epochs=1.0),
    )
    lake.train(settings)
    for number, (given, share) in enumerate(
        [({"name": "store"}, 0.5), ({"name": "store", "held_out": SHARE}, SHARE)]
    ):
        made = lake.convert(
            {"series": "s", "name": f"of-few-{number}", "dictionary": "s/few", "activations": given}
        )
        assert made.manifest.settings["activations"]["held_out"] == share


def test_heads_gate_by_themselves_where_codes_stay_the_same(lake):
    widths = dict.fromkeys(IN, WIDTH)
    for name, activation in {"cross-relu": Relu(), "cross-topk": TopK(k=3)}.items():
        settings = CrossCoderSettings(
            family="crosscoder", hookpoints=IN, d_sae=F, activation=activation, dtype="float64"
        )
        write_dictionary(lake.lake, f"s/{name}", random_dictionary(settings, widths), settings)
    found, made = converted(lake, "cross-relu", gating="per_head")
    assert (made.facts["gating"], made.facts["exact"]) == ("per_head", True)
    before, rows = lake.dictionary("s/cross-relu"), rows_of(lake, "train", IN)
    code = before.encode(rows).to_dense()
    torch.testing.assert_close(found.encode(rows).to_dense(), code.repeat(1, len(IN)))
    with pytest.raises(UnsupportedError, match="not as long at one head"):
        converted(lake, "cross-topk", gating="per_head")
    with pytest.raises(UnsupportedError, match="no heads that could gate"):
        lake.convert({"series": "s", "name": "n", "dictionary": "s/gated", "gating": "shared"})
