"""A store's page says what is in it: exactly where it was counted, by a named rule elsewhere."""

import numpy as np
import pytest

from saestore.activations.scatter import scatter
from saestore.api import store_page
from saestore.api.store_page import Imported, activations_page
from saestore.exchange import import_activations
from saestore.testing.stores import HOOKPOINT, scratch_lake, synthetic_rows, synthetic_store
from saestore_schemas.exchange import ImportSettings
from saestore_schemas.scatter import ScatterSettings


@pytest.fixture
def lake():
    with scratch_lake() as lake:
        yield lake


def page_of(lake, **given):
    return activations_page(synthetic_store(lake, **given), ())


def test_norms_are_those_of_all_kept_rows(lake):
    rows = synthetic_rows(600, 7, seed=3)
    (hook,) = page_of(lake, values={HOOKPOINT: rows}).hookpoints
    kept = np.ones(600, np.bool_)
    kept[::32] = False  # BOS
    norms = np.linalg.norm(rows[kept].astype(np.float64), axis=1)
    assert sum(hook.norms.counts) == kept.sum()
    assert list(hook.norms.counts) == np.histogram(norms, hook.norms.edges)[0].tolist()
    assert hook.norms.counts[0] > 0
    assert hook.norms.counts[-1] > 0
    assert hook.median_norm == pytest.approx(np.median(norms), rel=0.1)
    assert hook.mean_norm == pytest.approx(norms.mean())


def test_outlier_dimensions_are_named_by_the_rule(lake):
    rows = np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32)
    rows[:, 3] *= 30  # by its deviation
    rows[:, 11] -= 50  # by its mean
    rows[:, 5] *= 5  # not far enough
    (hook,) = page_of(lake, values={HOOKPOINT: rows}).hookpoints
    assert [each.dimension for each in hook.outliers] == [11, 3]
    first = hook.outliers[0]
    assert first.mean == pytest.approx(-50, abs=0.2)
    assert first.times == pytest.approx(50, rel=0.15)
    assert hook.outliers[1].std == pytest.approx(30, rel=0.1)
    assert all(each.times >= store_page.OUTLIER for each in hook.outliers)


def test_sizes_sources_and_mixing_are_the_store_s(lake):
    page = page_of(lake, rows=600, dtype="float16", context_size=30)
    store = page.manifest
    assert page.row_bytes == 7 * 2 + 4 + 1
    assert page.shards == store.counts["shards"]
    assert (page.context_size, page.kept_rows) == (30, 580)
    assert {each.source: (each.documents, each.tokens) for each in page.sources} == {
        "other": (7, 210), "synthetic": (13, 390),
    }  # fmt: skip
    assert page.sources[0].source == "synthetic"
    mixing = page.mixing
    assert (mixing.batch_rows, mixing.window_rows) == (600, 600)
    # All rows are one window and one batch: everyone meets the 29 others of its context.
    assert mixing.partners == pytest.approx(29)
    assert mixing.ideal_partners == pytest.approx(29)


def test_the_sample_is_a_whole_context_of_the_middle_with_its_special_tokens(lake):
    page = page_of(lake, rows=600, lengths=np.array([2, 198, 40, 160, 198, 2]))
    sample = page.sample
    assert sample.context in {1, 3, 4}
    assert sample.document == f"document-{sample.context}"
    assert len(sample.tokens) == min(sample.length, store_page.SAMPLE_TOKENS)
    assert (sample.tokens[0].text, sample.tokens[0].special, sample.tokens[0].kept) == (
        "<bos>", True, False,
    )  # fmt: skip
    assert not any(token.special for token in sample.tokens[1:])


def test_a_store_that_keeps_no_row_has_a_page(lake):
    page = page_of(lake, rows=40, flags=np.ones(40, np.uint8))
    (hook,) = page.hookpoints
    assert page.kept_rows == 0
    assert hook.norms.counts == ()
    assert hook.outliers == ()
    assert np.isnan(hook.mean_norm)
    assert np.isnan(hook.median_norm)


def test_many_documents_are_not_read_for_a_page(lake, monkeypatch):
    monkeypatch.setattr(store_page, "_READABLE", 10)
    page = page_of(lake)
    assert page.sources == ()
    assert page.sample.document == ""
    assert page.sample.tokens


def test_what_was_captured_beside_activations_is_told(lake):
    scale = np.ones(64, np.float32)
    assert page_of(lake, rows=64, norm_scale=scale).captured == ("final_norm_scale",)


def test_what_an_imported_store_was_made_from_is_told_and_its_copy_s_is_not(lake, tmp_path):
    np.save(tmp_path / f"{HOOKPOINT}.npy", np.ones((9, 4), np.float16))
    given = {"name": "x", "source": {"kind": "npy", "path": str(tmp_path)}, "dtype": "float32"}
    page = activations_page(import_activations(ImportSettings.model_validate(given), lake), ())
    size = (tmp_path / f"{HOOKPOINT}.npy").stat().st_size
    assert page.imported == Imported(str(tmp_path), "npy", "float16", 1, size, 9, 0.0)
    assert (page.model, page.tokens_per_second, page.scattered) == (None, None, False)
    copy = activations_page(scatter(ScatterSettings(name="y", store="x"), lake), ())
    assert (copy.imported, copy.scattered) == (None, True)
