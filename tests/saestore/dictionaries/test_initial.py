"""Starting weights are what their options say, measured on rows that the options did not choose."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from saestore import dictionaries
from saestore.dictionaries import initial
from saestore.errors import ConfigError
from saestore.testing.dictionaries import HOOK, ExactMoments, raw_rows
from saestore_schemas.families import SaeSettings
from saestore_schemas.train import InitSettings, TrainSettings


D, FEATURES = 7, 23
ROWS = raw_rows(400, D, seed=5)
SAMPLE = {HOOK: torch.from_numpy(ROWS)}


def start(init, rows=ROWS, **dictionary):
    plain = {"hookpoint": HOOK, "d_sae": FEATURES, "activation": {"kind": "topk", "k": 3}}
    plain |= {"decoder_norm": "free", **dictionary}
    return dictionaries.build(
        SaeSettings.model_validate(plain),
        widths={HOOK: rows.shape[1]},
        moments={HOOK: ExactMoments(rows)},
        init=InitSettings.model_validate(init),
        seed=3,
        sample={HOOK: torch.from_numpy(rows)},
    )


def normalised(sae, rows=ROWS):
    return sae.normalise({HOOK: torch.from_numpy(rows)})[HOOK].numpy()


def scores(sae):
    """Return gate scores of all rows; each block is memory that the next writes again."""
    blocks = [each.numpy().astype(np.float64) for each in sae.gate_scores(SAMPLE)]
    return np.concatenate(blocks)


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
def test_no_step_from_the_geometric_median_comes_nearer_to_the_rows(count, width, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-3, 4, (count, width)) * np.linspace(1, 30, width)  # some of them equal
    found = initial.geometric_median(rows)

    def apart(point):
        return np.linalg.norm(rows - point, axis=1).sum()

    for _ in range(20):
        step = rng.standard_normal(width)
        assert apart(found) <= apart(found + 0.02 * step) + 1e-4 * (1 + apart(found))


def test_the_geometric_median_is_not_the_mean():
    rows = np.array([[0.0], [1.0], [2.0], [3.0], [1000.0]])
    assert initial.geometric_median(rows) == pytest.approx([2.0], abs=1e-3)
    sae = start({"decoder_bias": "geometric_median"}, scale="none")
    assert sae.b_dec.detach().numpy() == pytest.approx(initial.geometric_median(ROWS), rel=1e-5)
    mean = start({"decoder_bias": "mean"}, scale="none").b_dec.detach().numpy()
    assert mean == pytest.approx(ROWS.mean(axis=0), rel=1e-5)


@pytest.mark.parametrize("data_points", [False, True])
def test_decoder_vectors_lie_in_the_active_subspace(data_points):
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((3, D))
    rows = rng.standard_normal((400, 3)) @ directions + 1e-3 * rng.standard_normal((400, D)) + 5
    init = {"active_subspace": 3, "data_points": data_points}
    sae = start(init, rows, scale="dataset_centred_rms")
    decoder = sae.W_dec.detach().double().numpy()
    within = np.linalg.lstsq(directions.T, decoder.T, rcond=None)[1]
    assert within == pytest.approx(0, abs=1e-4)
    assert np.linalg.norm(decoder, axis=1) == pytest.approx(1)
    assert np.allclose(sae.W_enc.detach().numpy().T, decoder)
    with pytest.raises(ConfigError, match=r"active_subspace.*at most 3"):
        start({"active_subspace": 5}, rng.standard_normal((400, 3)) @ directions)


def test_data_points_are_centred_rows_each_another_one():
    sae = start({"data_points": True, "decoder_vector_norm": 0.5})
    rows = normalised(sae)
    centred = initial.unit(rows - rows.mean(axis=0))
    cosine = sae.W_dec.detach().double().numpy() @ centred.T / 0.5
    nearest = cosine.argmax(axis=1)
    assert cosine.max(axis=1) == pytest.approx(1, abs=1e-6)
    assert len(set(nearest.tolist())) == FEATURES
    noisy = start({"data_points": True, "data_noise": 0.1}).W_dec.detach().double().numpy()
    away = (noisy @ centred.T).max(axis=1)
    assert (away > 0.98).all()
    assert (away < 0.999_999).all()
    with pytest.raises(ConfigError, match="rows that differ from their mean"):
        start({"data_points": True}, ROWS[:10])


@pytest.mark.parametrize("tie_factor", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_the_norm_search_finds_the_length_of_the_closed_form(kind, tie_factor):
    activation = {"kind": "relu"} if kind == "relu" else {"kind": "topk", "k": 3}
    init = {"search_decoder_norm": True, "tie_factor": tie_factor}
    sae = start(init, activation=activation)
    found = torch.linalg.vector_norm(sae.W_dec.detach(), dim=1)
    assert torch.allclose(found, found[0])
    rows = torch.from_numpy(normalised(sae)).float()
    one = start({"tie_factor": tie_factor}, activation=activation)
    with torch.no_grad():
        z = one({HOOK: rows}).reconstruction[HOOK].double()
    # A tied encoder of length r gives r² z: codes grow with it, and so do decoder vectors.
    best = float((rows.double() * z).sum() / z.square().sum()) ** 0.5
    assert float(found[0]) == pytest.approx(best, abs=0.006)


@pytest.mark.parametrize("kind", ["topk", "gated", "jumprelu"])
@pytest.mark.parametrize("subtract", [True, False])
def test_the_encoder_bias_is_centred_or_set_by_rate(kind, subtract):
    activation = {"kind": kind} | ({"k": 3} if kind == "topk" else {})
    make = {"activation": activation, "subtract_b_dec": subtract, "scale": "dataset_rms"}
    bias = {"decoder_bias": "mean"}
    sae = start({**bias, "center_encoder_bias": True}, **make)
    assert scores(sae).mean(axis=0) == pytest.approx(0, abs=1e-5)
    rated = start({**bias, "firing_rate": 0.1}, **make)
    assert (scores(rated) > 0).mean(axis=0) == pytest.approx(0.1, abs=2 / len(ROWS))


def test_an_encoder_need_not_be_tied():
    sae = start({"tie": False, "encoder_bound": 0.25, "decoder_bound": 2.0})
    encoder, decoder = sae.W_enc.detach(), sae.W_dec.detach()
    assert 0.2 < float(encoder.abs().max()) <= 0.25
    assert 1.5 < float(decoder.abs().max()) <= 2.0
    lengths = torch.linalg.vector_norm(start({"tie": False}).W_enc, dim=0)
    assert torch.allclose(lengths, torch.ones(FEATURES))


def test_options_that_measure_something_say_so_without_a_sample():
    with pytest.raises(ConfigError, match="no sample of rows"):
        dictionaries.build(
            SaeSettings.model_validate(
                {"hookpoint": HOOK, "d_sae": 5, "activation": {"kind": "relu"}}
            ),
            widths={HOOK: D}, moments={HOOK: ExactMoments(ROWS)},
            init=InitSettings(data_points=True), seed=0,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("init", "norm", "said"),
    [
        ({"search_decoder_norm": True}, "unit", "holds it at 1"),
        ({"decoder_bound": 1.0}, "unit", "holds it at 1"),
        ({"decoder_bound": 1.0, "data_points": True}, "free", "excludes"),
        ({"encoder_bound": 1.0}, "free", "tie = false"),
        ({"tie": False, "tie_factor": 2.0}, "free", "tie is false"),
        ({"data_noise": 0.1}, "free", "data_points = true"),
        ({"center_encoder_bias": True, "firing_rate": 0.1}, "free", "give one"),
        ({"dictionary": "s/a", "data_points": True}, "free", "remove data_points"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(init, norm, said):
    make = {
        "series": "s", "name": "n", "activations": {"name": "a"}, "budget": {"rows": 10_000},
        "dictionary": {"hookpoint": HOOK, "d_sae": 9, "activation": {"kind": "topk", "k": 2},
                       "decoder_norm": norm},
    }  # fmt: skip
    TrainSettings.model_validate(make)
    with pytest.raises(ValidationError, match=said):
        TrainSettings.model_validate({**make, "init": init})
