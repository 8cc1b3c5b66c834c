"""The readers of the stream benchmark deliver what was written; so do those of the peers."""

from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers, reader as reading
from benchmarks.activations import CONTEXT, HOOK, Activations, partners
from benchmarks.reader import Reader, Served, page_cache
from benchmarks.stream import STORE, write_store
from benchmarks.stream_peers import ALL, LLAMASCOPIUM, SAE_LENS
from saestore.activations import ActivationStore
from saestore.lake import Lake


DATA = Activations(12, width=8)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lake")
    write_store(DATA, Lake.at(folder))
    return {"path": str(folder), "name": STORE}


def test_a_vector_says_which_row_it_is():
    rows = DATA.block(0, 12).reshape(-1, 8)
    order = np.random.default_rng(0).permutation(DATA.rows)
    assert np.array_equal(DATA.check(rows[order]), order)
    rows[5, 7] += 1
    with pytest.raises(ValueError, match="other values"):
        DATA.check(rows)


def test_a_data_set_of_many_contexts_is_numbered_exactly():
    data = Activations(5000, width=4)
    assert np.array_equal(
        data.check(data.block(4999, 5000)[0]), 4999 * CONTEXT + np.arange(CONTEXT)
    )


def test_two_plain_readers_share_the_bytes(written, monkeypatch):
    monkeypatch.setattr(reading, "_PIECE", 1 << 14)
    size = sum(path.stat().st_size for path in Path(written["path"]).glob("**/hooks/**/c.*"))
    pieces = -(-size // (1 << 14))

    def firsts(part, parts, number):
        batches = page_cache(DATA, {**written, "part": part, "parts": parts})
        return [batch[:1].tobytes() for batch in islice(batches, number)]

    one = firsts(0, 1, pieces)
    half = pieces // 2
    assert [firsts(part, 2, half) for part in range(2)] == [one[::2][:half], one[1::2]]


def test_partners_are_the_others_of_a_context():
    assert partners(np.arange(4) * CONTEXT) == 0
    assert partners(np.array([0, 1, CONTEXT, 2])) == (3 * 2 + 0) / 4


@pytest.mark.parametrize(
    ("kind", "mixed"),
    [("page_cache", None), ("saestore_shuffled", 1000.0), ("saestore_contexts", 1023.0)],
)
def test_our_readers_deliver_what_was_written(written, kind, mixed):
    served = Served(kind)
    given = {**written, "part": 0, "parts": 1} if kind == "page_cache" else written
    served.open(contexts=DATA.contexts, width=DATA.width, settings=given)
    found = served.round(rows=8192)
    assert found["rows"] == 8192 or mixed is None
    assert found["seconds"] > 0
    if mixed is not None:
        assert served.mixing(batches=3, skip=0)["partners"] <= mixed
        assert served.memory()["peak"] >= 0


def test_the_store_is_the_data_set(written):
    store = ActivationStore.open(Lake.at(written["path"]), STORE)
    rows = store.read(HOOK, 0, store.n_rows)
    assert np.array_equal(DATA.check(rows.astype(np.float16)), np.arange(DATA.rows))
    assert store.kept().all()


def test_a_reader_lives_through_rounds_and_says_what_went_wrong(written):
    reader = Reader("page_cache").open(DATA, {**written, "part": 0, "parts": 1})
    try:
        assert reader.ask("round", rows=4096)["rows"] >= 4096
        with pytest.raises(RuntimeError, match="TypeError"):
            reader.ask("round", lines=4096)
        assert reader.ask("round", rows=4096)["seconds"] > 0
    finally:
        reader.close()


def test_a_reader_that_cannot_start_says_why():
    with pytest.raises(RuntimeError, match="its process ended with 1: KeyError: 'nothing'"):
        Reader("nothing")


@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.name)
def test_the_best_settings_are_among_the_candidates(peer):
    candidates = list(peer.candidates())
    assert peer.best in candidates
    assert len({str(candidate) for candidate in candidates}) == len(candidates)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.name)
def test_a_peer_reads_back_what_its_writer_wrote(peer, tmp_path):
    own = peer is SAE_LENS and find_spec("sae_lens") is not None
    if not own and not (peers.HOME / peer.name / "ready").exists():
        pytest.skip(f"{peer.name} is not installed: python -m benchmarks stream installs it")
    data = Activations(48, width=8)
    reader = Reader(peer.kind) if own else peer.start()
    try:
        settings = {**peer.best, **({"chunk_contexts": 8} if peer is LLAMASCOPIUM else {})}
        reader.open(data, peer.write(reader, data, tmp_path, settings))
        assert reader.ask("mixing", batches=16, skip=0)["partners"] <= CONTEXT - 1
        assert reader.ask("round", rows=2 * data.rows)["rows"] == 2 * data.rows
    finally:
        reader.close()
