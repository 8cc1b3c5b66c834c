"""Reconstruction metrics: the rosetta example, oracles M1 to M3, and independence of the split."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from saestore.evaluate import batched
from saestore.evaluate.batched import Batched
from saestore.evaluate.reconstruction import Reconstruction, pooled
from saestore.evaluate.spread import Spread
from saestore_schemas.metrics import METRICS, RECONSTRUCTION


X = np.array([[-1, 0], [0, 2], [1, 1]], np.float64)
X_HAT = np.array([[0, 0], [0, 2], [0.5, 1]], np.float64)


def measured(y, y_hat, pieces=1):
    sums = Reconstruction()
    for part in np.array_split(np.arange(len(y)), pieces):
        sums.update(y[part], y_hat[part])
    return {name: value for name, (value, _) in sums.values().items()}


def drawn(seed, rows=64, d=7, mean=3.0):
    rng = np.random.default_rng(seed)
    y = rng.normal(mean, rng.uniform(0.1, 4, d), (rows, d))
    return y, y + rng.normal(0.1, 0.3, (rows, d))


def test_one_reconstruction_has_the_numbers_of_the_rosetta():
    found = measured(X, X_HAT)
    assert found["explained_variance"] == 0.6875
    assert found["fvu"] == 0.3125
    assert found["ev_legacy_row"] == 0.75
    assert found["ev_legacy_row_std"] == pytest.approx(0.25, rel=1e-15)
    assert found["fvu_batch"] == 0.3125
    assert found["ev_batch_mean"] == 0.6875
    assert found["nmse_row"] == 0.375
    assert found["ev_residual_centred"] == pytest.approx(0.70833, abs=5e-6)
    assert found["ev_scalar_mean"] == pytest.approx(0.57143, abs=5e-6)
    assert found["l2_ratio"] == pytest.approx(0.59686, abs=5e-6)
    assert found["l2_error_ratio"] == pytest.approx(0.33981, abs=5e-6)
    assert found["reconstruction_bias"] == pytest.approx(0.95455, abs=5e-6)
    assert found["mse"] == pytest.approx(1.25 / 3, rel=1e-15)
    assert found["mse_per_dim"] == pytest.approx(1.25 / 6, rel=1e-15)


def test_hand_value_h8():
    found = measured(np.array([[2.0, 0], [0, 4]]), np.array([[2.0, 1], [0, 3]]))
    assert found["explained_variance"] == 0.8


def test_every_name_is_documented():
    assert list(measured(X, X_HAT)) == [metric.name for metric in RECONSTRUCTION]
    assert all(metric.doc for metric in METRICS.values())


def test_m1_perfect_mean_and_shifted_mean():
    y, _ = drawn(0)
    mean = np.broadcast_to(y.mean(axis=0), y.shape)
    delta = np.arange(7) / 3
    assert measured(y, y)["explained_variance"] == 1
    assert measured(y, mean)["explained_variance"] == pytest.approx(0, abs=1e-14)
    expected = -(delta @ delta) / y.var(axis=0).sum()
    assert measured(y, mean + delta)["explained_variance"] == pytest.approx(expected, rel=1e-12)


def test_the_rosetta_of_other_libraries_on_64_dimensions():
    rng = np.random.default_rng(1)
    y = rng.normal(3, 0.5, (20_000, 64))
    good = y + rng.normal(0, 0.2, y.shape)
    mean = np.broadcast_to(y.mean(axis=0), y.shape)
    names = ("explained_variance", "ev_scalar_mean", "ev_legacy_row", "ev_residual_centred")
    table = {
        "mean": (mean, (0, 0.968, 0, 0)),
        "good": (good, (0.840, 0.995, 0.835, 0.840)),
        "biased": (good + 1, (-3.16, 0.868, -3.28, 0.840)),
    }
    # scale changes nothing but ev_scalar_mean, which is no share of anything
    for factor, scalar in ((10, 1.000), (0.1, 0.996)):
        found = measured(factor * y, factor * good)
        assert found["explained_variance"] == pytest.approx(0.840, abs=0.003)
        assert found["ev_legacy_row"] == pytest.approx(0.835, abs=0.003)
        assert found["ev_scalar_mean"] == pytest.approx(scalar, abs=0.001)
    for what, (prediction, expected) in table.items():
        found = measured(y, prediction)
        assert [found[name] for name in names] == pytest.approx(expected, rel=0.01, abs=0.003), what


@given(st.floats(0.01, 100), st.integers(0, 9))
def test_m2_explained_variance_ignores_scale_and_shift(scale, seed):
    y, y_hat = drawn(seed)
    shift = np.random.default_rng(seed).normal(0, 5, 7)
    moved = measured(scale * y + shift, scale * y_hat + shift)["explained_variance"]
    assert moved == pytest.approx(measured(y, y_hat)["explained_variance"], rel=1e-10)


@given(
    st.integers(0, 50),
    st.lists(st.integers(0, 97), max_size=9).map(sorted),
    st.sampled_from([0.0, 3.0, 1e4]),
)
def test_m3_any_split_gives_what_one_pass_gives(seed, cuts, mean):
    y, y_hat = drawn(seed, rows=97, mean=mean)
    parts = Reconstruction()
    for start, stop in zip([0, *cuts], [*cuts, 97], strict=True):
        parts.update(y[start:stop], y_hat[start:stop])
    whole = measured(y, y_hat)
    for name, (value, _) in parts.values().items():
        assert value == pytest.approx(whole[name], rel=1e-12, abs=1e-12), name


def test_m3_the_mean_of_batch_values_is_another_number():
    y, y_hat = drawn(3)
    halves = [measured(y[:32], y_hat[:32]), measured(y[32:], y_hat[32:])]
    averaged = np.mean([half["explained_variance"] for half in halves])
    assert abs(averaged - measured(y, y_hat)["explained_variance"]) > 1e-6


def test_large_means_do_not_cost_digits():
    y, y_hat = drawn(5, mean=0.0)
    far = np.full(7, 2.0**20)  # exact in both sums
    assert measured(y + far, y_hat + far, pieces=5)["fvu"] == pytest.approx(
        measured(y, y_hat)["fvu"], rel=1e-9
    )


def test_what_is_undefined_is_none():
    constant = np.full((5, 3), 0.1)
    found = measured(constant, constant + 1, pieces=2)
    assert found["explained_variance"] is None
    assert found["fvu"] is None
    assert found["ev_legacy_row"] is None
    assert found["ev_residual_centred"] is None
    zeros = measured(np.zeros((4, 3)), np.zeros((4, 3)))
    assert all(zeros[name] is None for name in zeros if name not in {"mse", "mse_per_dim"})
    assert set(Reconstruction().values().values()) == {(None, 0)}


def test_zero_rows_are_left_out_and_counted():
    sums = Reconstruction()
    sums.update(np.array([[0.0, 0], [3, 4]]), np.array([[1.0, 0], [6, 8]]))
    assert sums.values()["cosine"] == (1.0, 1)
    assert sums.values()["l2_ratio"] == (2.0, 1)
    assert sums.zero_rows == 1


def test_spreads_merge_to_the_whole():
    y, _ = drawn(8)
    merged = Spread.of(y[:9]).merge(Spread.of(y[9:10])).merge(Spread.of(y[10:]))
    np.testing.assert_allclose(merged.centre, y.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(merged.m2, ((y - y.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-13)


def by_batches(y, error, size, pieces=1):
    found = Batched(size)
    for part in np.array_split(np.arange(len(y)), pieces):
        found.update(y[part], error[part])
    return found.values()


def test_forms_of_batches_are_averages_of_whole_batches_however_rows_arrive():
    y, y_hat = drawn(11, rows=50)
    error = y - y_hat
    whole = by_batches(y, error, 16)
    alone = [
        by_batches(y[at : at + 16], error[at : at + 16], 16) for at in (0, 16, 32)
    ]  # two rows are left out
    for name in ("ev_legacy_row", "ev_residual_centred", "fvu_batch", "ev_batch_mean"):
        assert whole[name][0] == pytest.approx(
            np.mean([each[name][0] for each in alone]), rel=1e-12
        )
        assert whole[name][1] == 48
    assert by_batches(y, error, 16, pieces=7) == whole
    batch = slice(0, 16)
    residual = 1 - error[batch].var(0, ddof=1).sum() / y[batch].var(0, ddof=1).sum()
    assert alone[0]["ev_residual_centred"][0] == pytest.approx(residual, rel=1e-12)
    rows = 1 - (error**2)[:48].sum(1) / np.square(
        y[:48] - y[:48].reshape(3, 16, 7).mean(1).repeat(16, axis=0)
    ).sum(1)
    assert whole["ev_legacy_row"][0] == pytest.approx(rows.mean(), rel=1e-12)
    assert whole["ev_legacy_row_std"][0] == pytest.approx(rows.std(ddof=1), rel=1e-12)


def test_a_short_batch_counts_only_when_it_is_the_only_one():
    y, y_hat = drawn(12, rows=9)
    assert by_batches(y, y - y_hat, 16)["fvu_batch"] == (
        pytest.approx(measured(y, y_hat)["fvu"], rel=1e-12),
        9,
    )
    assert batched.BATCH_ROWS == 4096


def test_pooled_scores_are_those_of_the_normalised_rows_side_by_side():
    (y, y_hat), (z, z_hat) = drawn(1, d=3), drawn(2, d=5)
    a, b = 0.7, 3.1
    parts = [Reconstruction(), Reconstruction()]
    parts[0].update(y, y_hat)
    parts[1].update(z, z_hat)
    both = measured(np.hstack([a * y, b * z]), np.hstack([a * y_hat, b * z_hat]))
    found = {score.metric: score.value for score in pooled(parts, [a, b])}
    assert found["explained_variance_pooled"] == pytest.approx(
        both["explained_variance"], rel=1e-12
    )
    assert found["mse_pooled"] == pytest.approx(both["mse"], rel=1e-12)
    assert all(score.value is None for score in pooled([Reconstruction()], [1.0]))
