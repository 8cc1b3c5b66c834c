"""Laws of streams of rows with their contexts: every kept row once an epoch, the rest of a context along."""

import gc
import threading
from itertools import pairwise

import numpy as np
import pytest

from saestore.activations import ContextRowStream, RowChoice, WholeContexts
from saestore.errors import ConfigError
from saestore.lake import Lake
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.activations import FLAG_SPECIAL


LENGTHS = np.array([5, 1, 17, 9, 2, 30, 4, 8, 8, 3])
OTHER = "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    flags = np.zeros(LENGTHS.sum(), np.uint8)
    flags[[0, 5, 6, 7, 30, 31, 34, 35]] = FLAG_SPECIAL
    return synthetic_store(
        Lake.at(tmp_path_factory.mktemp("contexts")), hookpoints=(HOOKPOINT, OTHER),
        rows=int(LENGTHS.sum()), lengths=LENGTHS, flags=flags,
    )  # fmt: skip


def stream(store, batch_rows=13, *, seed=3, **choice):
    return ContextRowStream(
        store, (HOOKPOINT, OTHER), batch_rows=batch_rows, seed=seed, choice=RowChoice(**choice)
    )


def named(store, batch):
    """The rows of the store that a batch wants, found by their values."""
    everyone = store.read(HOOKPOINT, 0, store.n_rows)
    number = {row.tobytes(): place for place, row in enumerate(everyone)}
    return [number[row.tobytes()] for row in batch.hooks[HOOKPOINT].numpy()[batch.around.wanted]]


@pytest.mark.parametrize("batch_rows", [1, 7, 13, 79, 200])
def test_every_kept_row_is_delivered_once_an_epoch_in_batches_of_one_size(store, batch_rows):
    rows = stream(store, batch_rows)
    kept = np.flatnonzero(store.flags(0, store.n_rows) == 0).tolist()
    assert rows.rows_per_epoch == len(kept) == 79
    epochs = 2 if batch_rows < 200 else 6
    delivered = []
    for _ in range(-(-epochs * len(kept) // batch_rows)):
        found = named(store, next(rows))
        assert len(found) == batch_rows
        delivered += found
    for epoch in range(epochs):
        assert sorted(delivered[epoch * 79 : (epoch + 1) * 79]) == kept
    assert delivered[:79] != delivered[79:158]


def test_around_them_lie_their_whole_contexts(store):
    firsts, everyone = np.cumsum(LENGTHS) - LENGTHS, store.read(OTHER, 0, store.n_rows)
    rows = stream(store)
    for _ in range(9):
        batch = next(rows)
        offsets = batch.around.offsets
        for start, stop in pairwise(offsets):
            found = batch.hooks[OTHER].numpy()[start:stop]
            (context,) = np.flatnonzero((everyone[firsts] == found[0]).all(axis=1))
            first = firsts[context]
            assert np.array_equal(found, everyone[first : first + LENGTHS[context]])
        owners = np.searchsorted(offsets, batch.around.wanted, side="right") - 1
        assert set(owners) == set(range(len(offsets) - 1))
        assert (np.diff(owners) >= 0).all()


def test_resumed_it_yields_the_rest(store):
    whole, again = stream(store), stream(store)
    for _ in range(4):
        next(whole)
    state = whole.state_dict()
    wanted = [named(store, next(whole)) for _ in range(9)]
    next(again)
    again.load_state_dict(state)
    assert [named(store, next(again)) for _ in range(9)] == wanted
    with pytest.raises(ConfigError, match=r"activations\.seed"):
        stream(store, seed=4).load_state_dict(state)


def test_a_range_and_a_split_take_whole_contexts_only(store):
    rows = stream(store, 5, rows=(4, 40))
    delivered = {row for _ in range(20) for row in named(store, next(rows))}
    assert delivered == set(np.flatnonzero(store.flags(0, 34) == 0)) - set(range(5))
    shares = [stream(store, 1, split=split, held_out=0.4) for split in ("train", "held_out")]
    assert sum(each.rows_per_epoch for each in shares) == 79


def test_no_kept_row_is_said(store):
    with pytest.raises(ConfigError, match="no kept row in whole contexts"):
        stream(store, rows=(5, 6))


def test_documents_count_from_the_first_and_rows_before_it_have_none(store):
    whole = WholeContexts(store)
    whole._segments = np.array([
        [0, 1, 2, 0, 0, 0], [0, 4, 1, 1, 0, 0], [2, 0, 3, 2, 0, 0], [2, 3, 14, 3, 0, 0],
    ])  # fmt: skip
    found = whole.around(np.array([4, 7, 22]))
    assert found.runs == ((0, 5), (6, 23))
    assert found.offsets.tolist() == [0, 5, 22]
    assert found.documents.tolist() == [0, 1, 1, 1, 2, *[1] * 3, *[2] * 14]
    assert found.wanted.tolist() == [4, 6, 21]
    nobody = whole.around(np.array([], np.int64))
    assert nobody.runs == ()
    assert nobody.offsets.tolist() == [0]


def test_neighbouring_contexts_are_read_together(store):
    found = WholeContexts(store).around(np.array([3, 5, 6, 40]))
    assert found.runs == ((0, 23), (34, 64))
    assert found.offsets.tolist() == [0, 5, 6, 23, 53]


def test_it_says_how_well_rows_are_mixed(store):
    rows = stream(store)
    kept = store.flags(0, store.n_rows) == 0
    counts = np.add.reduceat(kept.astype(int), np.cumsum(LENGTHS) - LENGTHS)
    assert rows.inflation == pytest.approx((counts**2).sum() / counts.sum())
    assert rows.mixing == pytest.approx(rows.inflation - 1)


def test_its_threads_end_with_the_last_reference_to_it(store):
    before = set(threading.enumerate())
    rows = stream(store)
    next(rows)
    own = [each for each in threading.enumerate() if each not in before]
    assert own
    gc.disable()  # references alone must do
    try:
        del rows
        for each in own:
            each.join(timeout=10)
        assert not any(each.is_alive() for each in own)
    finally:
        gc.enable()
