"""The order of rows is a law: every kept row once an epoch, and any position can be returned to."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from saestore.activations import ActivationStream, shuffle, stream as streams, window
from saestore.activations.split import split_contexts
from saestore.errors import ConfigError, DamagedArtefactError, HookpointNotFoundError
from saestore.lake import layout
from saestore.testing.stores import scratch_lake, synthetic_store
from saestore_schemas.activations import StoreSettings


H = "blocks.0.hook_resid_post"
WIDE = "blocks.1.hook_resid_post"
SMALL = StoreSettings(chunk_kib=1, shard_mib=0.02)


def numbered(lake, rows, *, dtype="float32", lengths=None, wide=True):
    """A store whose rows say which they are: exact in every dtype."""
    number = np.arange(rows)
    digits = np.stack([number % 256, number // 256], axis=1).astype(np.float32)
    values = {H: digits} | ({WIDE: np.repeat(digits, 65, axis=1)} if wide else {})
    return synthetic_store(
        lake, values=values, dtype=dtype, context_size=10, lengths=lengths, store=SMALL
    )


def ids(batch, hookpoint=H):
    values = batch[hookpoint].numpy().astype(np.int64)
    step = values.shape[1] // 2
    return values[:, 0] + 256 * values[:, step]


def take(stream, n):
    return [ids(batch) for batch in islice(stream, n)]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_each_epoch_has_every_kept_row_of_the_split_once(data):
    rows = data.draw(st.integers(2, 900))
    batch = data.draw(st.integers(1, 200))
    window = data.draw(st.sampled_from([None, 1, 200, 450]))
    split = data.draw(st.sampled_from(["all", "train", "held_out"]))
    share = data.draw(st.sampled_from([0.3, 0.7]))
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16"]))
    seed = data.draw(st.integers(0, 5))
    with scratch_lake() as lake:
        store = numbered(lake, rows, dtype=dtype)
        kept = np.flatnonzero(store.kept(split, share))
        make = {"batch_rows": batch, "seed": seed, "window_rows": window}
        make |= {"split": split, "held_out": share}
        if not len(kept):
            with pytest.raises(ConfigError, match="no kept row"):
                ActivationStream(store, [H], **make)
            return
        stream = ActivationStream(store, [H, WIDE], **make)
        assert stream.rows_per_epoch == len(kept)
        seen = []
        for given_batch in islice(stream, -(-2 * len(kept) // batch)):
            assert given_batch[H].dtype == torch.float32
            assert given_batch[H].shape == (batch, 2)
            assert np.array_equal(ids(given_batch), ids(given_batch, WIDE))
            seen.append(ids(given_batch))
        sequence = np.concatenate(seen)
        assert sorted(sequence[: len(kept)]) == kept.tolist()
        assert sorted(sequence[len(kept) : 2 * len(kept)]) == kept.tolist()


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(50, 900),
    batch=st.integers(1, 90),
    window=st.sampled_from([None, 150, 400]),
    at=st.integers(0, 25),
)
def test_a_resumed_stream_yields_the_rest(rows, batch, window, at):
    with scratch_lake() as lake:
        store = numbered(lake, rows, wide=False)
        stream = ActivationStream(store, [H], batch_rows=batch, seed=3, window_rows=window)
        everything = take(stream, at + 12)
        first = ActivationStream(store, [H], batch_rows=batch, seed=3, window_rows=window)
        assert np.array_equal(take(first, at), everything[:at])
        state = first.state_dict()
        # The default of another machine: the saved window wins.
        second = ActivationStream(store, [H], batch_rows=batch, seed=3, window_rows=77)
        second.load_state_dict(state)
        assert np.array_equal(take(second, 12), everything[at:])
        second.load_state_dict(state)  # back again
        assert np.array_equal(take(second, 12), everything[at:])


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(50, 900),
    batch=st.integers(1, 90),
    window=st.sampled_from([150, 2000]),
    lanes=st.sampled_from([1, 2, 4]),
    last=st.sampled_from(["carry", "short", "drop"]),
)
def test_one_two_and_four_ranks_are_one_stream(rows, batch, window, lanes, last):
    with scratch_lake() as lake:
        store = numbered(lake, rows, wide=False)
        make = {"batch_rows": min(batch, rows // 2), "seed": 3, "window_rows": window}
        make |= {"lanes": lanes, "last": last, "epochs": 2}
        one = [ids(batch) for batch in ActivationStream(store, [H], **make)]
        if last != "drop":
            kept = np.repeat(np.flatnonzero(store.kept()), 2)
            assert np.array_equal(np.sort(np.concatenate(one)), kept)
        for world in (2, 4):
            for rank in range(world):
                stream = ActivationStream(store, [H], rank=rank, world=world, **make)
                mine = [ids(batch) for batch in stream]
                assert len(mine) == len(one[rank::world])
                assert all(map(np.array_equal, mine, one[rank::world]))


def test_a_position_moves_to_another_number_of_ranks(lake):
    store = numbered(lake, 900, wide=False)
    make = {"batch_rows": 20, "seed": 3, "window_rows": 200}
    one = take(ActivationStream(store, [H], lanes=2, **make), 60)
    pair = [ActivationStream(store, [H], rank=rank, world=2, **make) for rank in (0, 1)]
    for rank, stream in enumerate(pair):
        assert all(map(np.array_equal, take(stream, 9), one[rank:18:2]))
    assert pair[0].state_dict() == pair[1].state_dict()
    for world in (1, 4):
        for rank in range(world):
            alone = ActivationStream(store, [H], rank=rank, world=world, **make)
            alone.load_state_dict(pair[0].state_dict())
            rest = one[18:][(rank - 18) % world :: world][:9]
            assert all(map(np.array_equal, take(alone, 9), rest))


def test_a_rank_reads_only_the_units_of_its_lane(lake, monkeypatch):
    store = numbered(lake, 6000, wide=False)
    read = []
    original = window.units_of

    def counted(*arguments):
        reader = original(*arguments)
        put = reader.put
        reader.put = lambda starts, *rest: (read.extend(starts), put(starts, *rest))
        return reader

    monkeypatch.setattr(window, "units_of", counted)
    make = {"batch_rows": 50, "seed": 3, "window_rows": 600, "epochs": 1}
    amounts = []
    for world in (1, 2):
        read.clear()
        list(ActivationStream(store, [H], rank=0, world=world, **make))
        amounts.append(len(read))
    assert amounts[1] < 0.65 * amounts[0]


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_ranges_and_flags_choose_rows(data):
    rows = data.draw(st.integers(60, 700))
    start = data.draw(st.integers(0, rows - 50))
    stop = data.draw(st.integers(start + 20, rows))
    allowed = data.draw(st.sampled_from([0, 1, 2, 3]))
    window = data.draw(st.sampled_from([None, 150]))
    with scratch_lake() as lake:
        flags = np.random.default_rng(rows).integers(0, 4, rows).astype(np.uint8)
        number = np.arange(rows)
        values = {H: np.stack([number % 256, number // 256], axis=1).astype(np.float32)}
        store = synthetic_store(lake, values=values, flags=flags, context_size=10, store=SMALL)
        make = {"batch_rows": 9, "seed": 1, "window_rows": window, "epochs": 1}
        stream = ActivationStream(store, [H], rows=(start, stop), flags=allowed, **make)
        wanted = np.flatnonzero((flags & ~np.uint8(allowed)) == 0)
        wanted = wanted[(wanted >= start) & (wanted < stop)]
        found = np.concatenate([ids(batch) for batch in stream])
        assert np.array_equal(np.sort(found), wanted)


def test_ranges_outside_the_store_and_ranks_outside_the_world_are_refused(lake):
    store = numbered(lake, 30, wide=False)
    for rows in ((0, 31), (5, 5), (-1, 4)):
        with pytest.raises(ConfigError, match="range within the 30 rows"):
            ActivationStream(store, [H], batch_rows=1, seed=0, rows=rows)
    with pytest.raises(ConfigError, match="rank: found 2; expected 0 to 1"):
        ActivationStream(store, [H], batch_rows=1, seed=0, rank=2, world=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("window", [None, 150])
def test_rows_come_in_the_stored_type_if_asked(lake, dtype, window):
    store = numbered(lake, 700, dtype=dtype, wide=False)
    make = {"batch_rows": 40, "seed": 1, "window_rows": window}
    stored = ActivationStream(store, [H], dtype="stored", **make)
    for batch, exact in zip(islice(stored, 30), ActivationStream(store, [H], **make), strict=False):
        assert batch[H].dtype == getattr(torch, dtype)
        assert torch.equal(batch[H].float(), exact[H])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("window", [None, 150])
def test_columns_come_beside_the_same_rows_in_the_same_order(lake, dtype, window):
    store = synthetic_store(lake, rows=700, width=30, dtype=dtype)
    make = {"batch_rows": 40, "seed": 1, "window_rows": window, "flags": 1, "last": "short"}
    stream = ActivationStream(store, [WIDE], columns=("tokens", "rows", "flags"), **make)
    plain = ActivationStream(store, [WIDE], **make)
    stored = store.read(WIDE, 0, 700)
    for number, (batch, same) in enumerate(zip(islice(stream, 40), plain, strict=False)):
        assert list(batch) == [WIDE, "tokens", "rows", "flags"]
        assert torch.equal(batch[WIDE], same[WIDE])
        rows = batch["rows"].numpy()
        assert np.array_equal(batch[WIDE].numpy(), stored[rows])
        assert np.array_equal(batch["tokens"].numpy(), store.tokens()[rows])
        assert np.array_equal(batch["flags"].numpy(), store.flags()[rows])
        if number == 20:
            plain.load_state_dict(stream.state_dict())
            stream.load_state_dict(stream.state_dict())
    named = synthetic_store(lake, "named", hookpoints=("tokens",))
    with pytest.raises(ConfigError, match=r"columns: found \['tokens'\]"):
        ActivationStream(named, ["tokens"], columns=("tokens",), batch_rows=4, seed=0)


def test_seeds_and_epochs_have_orders_of_their_own(lake):
    store = numbered(lake, 640, lengths=np.array([640]))
    orders = []
    for seed in (0, 1):
        stream = ActivationStream(store, [H], batch_rows=639, seed=seed, window_rows=300)
        orders += take(stream, 2)
    assert len({tuple(order) for order in orders}) == 4
    assert all(not np.array_equal(order, np.sort(order)) for order in orders)


def test_the_batch_before_the_newest_stays_valid(lake):
    stream = iter(ActivationStream(numbered(lake, 300), [H], batch_rows=20, seed=0))
    first = next(stream)
    kept = first[H].clone()
    second = next(stream)
    assert torch.equal(first[H], kept)
    assert not torch.equal(second[H], kept)


def test_rows_that_fit_are_read_once(lake, monkeypatch):
    store = numbered(lake, 600)
    stream = ActivationStream(store, [H], batch_rows=50, seed=0)
    take(stream, 1)
    monkeypatch.setattr(store, "read_many", None)
    assert len(take(stream, 40)) == 40


def test_damage_met_by_the_thread_that_reads_ahead_is_raised(lake):
    store = numbered(lake, 900)
    path = lake.artefact(store.ref).path(layout.shard_file(layout.hook_array(WIDE), 1, ndim=2))
    data = bytearray(path.read_bytes())
    data[17] ^= 4
    path.write_bytes(data)
    stream = ActivationStream(store, [WIDE], batch_rows=50, seed=0, window_rows=200)
    with pytest.raises(DamagedArtefactError, match="chunk 0 does not match"):
        list(islice(stream, 40))
    with pytest.raises(DamagedArtefactError):  # it does not go on as if nothing were
        list(islice(stream, 40))


def test_a_state_of_another_sequence_is_refused(lake):
    store = numbered(lake, 300)
    state = ActivationStream(store, [H], batch_rows=20, seed=0).state_dict()
    for change in ({"batch_rows": 21}, {"seed": 1}, {"split": "train", "held_out": 0.5}):
        stream = ActivationStream(store, [H], **({"batch_rows": 20, "seed": 0} | change))
        with pytest.raises(ConfigError, match="as when the position was saved"):
            stream.load_state_dict(state)


def test_sizes_below_one_and_unknown_hookpoints_are_refused(lake):
    store = numbered(lake, 30)
    with pytest.raises(ConfigError, match="batch_rows: found 0"):
        ActivationStream(store, [H], batch_rows=0, seed=0)
    with pytest.raises(ConfigError, match="window_rows: found 0"):
        ActivationStream(store, [H], batch_rows=1, seed=0, window_rows=0)
    with pytest.raises(HookpointNotFoundError, match="hook_resid_pots"):
        ActivationStream(store, ["blocks.0.hook_resid_pots"], batch_rows=1, seed=0)


def test_the_default_window_is_a_mebi_row_or_a_quarter_of_memory():
    assert streams.default_window(1) == 1 << 20
    few = streams.default_window(1 << 30)
    assert 1 <= few < 1 << 20


@pytest.mark.parametrize(("length", "window"), [(10, 1400), (97, 1400), (300, 2600), (300, None)])
def test_mixing_foretells_how_many_rows_of_a_context_meet(lake, length, window):
    rows = 9000
    store = numbered(lake, rows, lengths=np.diff([*range(0, rows, length), rows]), wide=False)
    stream = ActivationStream(store, [H], batch_rows=128, seed=1, window_rows=window)
    owner = np.repeat(np.arange(store.n_contexts), store.contexts()[:, 1])
    met = []
    for batch in islice(stream, 300):
        owners = owner[ids(batch)]
        met.append(np.bincount(owners)[owners].mean() - 1)
    assert stream.mixing == pytest.approx(np.mean(met), rel=0.1, abs=0.02)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    chunk=st.sampled_from([1, 4, 16]),
)
def test_meetings_are_counted_as_by_hand(lengths, chunk):
    lengths = np.array(lengths)
    contexts = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    chunks = np.arange(len(owner)) // chunk
    same = owner[:, None] == owner[None]
    near = same & (chunks[:, None] == chunks[None])
    own, total = shuffle.meetings(contexts, unit_rows=chunk)
    assert own == pytest.approx(near.sum(1).mean() - 1)
    assert total == pytest.approx(same.sum(1).mean() - 1)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_the_same_contexts_and_more(contexts, one, other):
    low, high = sorted((one, other))
    small = split_contexts(contexts, "held_out", low)
    large = split_contexts(contexts, "held_out", high)
    assert not (small & ~large).any()
    assert np.array_equal(split_contexts(contexts, "train", low), ~small)
    assert np.array_equal(split_contexts(contexts + 7, "held_out", low)[:contexts], small)


def test_shares_are_met_and_their_ends_exact():
    assert not split_contexts(1000, "held_out", 0.0).any()
    assert split_contexts(1000, "held_out", 1.0).all()
    assert split_contexts(100_000, "held_out", 0.1).mean() == pytest.approx(0.1, abs=0.005)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window_rows", [200, None])
def test_batches_lie_in_pinned_memory(lake, window_rows):
    store = numbered(lake, 900, dtype="float16")
    stream = ActivationStream(store, [H], batch_rows=100, seed=0, window_rows=window_rows)
    for batch in islice(stream, 12):
        assert batch[H].is_pinned()
        assert torch.equal(batch[H].to("cuda").cpu(), batch[H])
