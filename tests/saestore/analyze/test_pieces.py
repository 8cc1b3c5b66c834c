"""What was encoded is not encoded again: a rerun and several processes end with the bytes of one run."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from saestore import analyze
from saestore.analyze import encode, pieces
from saestore.errors import ArtefactBusyError, ArtefactExistsError
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore.lake.parts import Part
from saestore.progress import Recorder
from saestore.testing.analyses import DICTIONARY, planted_analysis
from saestore_schemas.analyze import AnalyzeSettings


WANTED = AnalyzeSettings(dictionary=DICTIONARY, logits=None, name="other")
REF = Ref("features", f"{DICTIONARY}/other")


@pytest.fixture
def encoded(monkeypatch, encoded_spans):
    """Rows encoded, in pieces of 32; 270 rows make 9 pieces."""
    monkeypatch.setattr(encode, "block_rows", lambda _: 16)
    monkeypatch.setattr(pieces, "BLOCKS", 2)
    return encoded_spans


@pytest.fixture
def lake(tmp_path, encoded):
    lake = Lake.at(tmp_path / "lake")
    planted_analysis(lake, settings=WANTED.model_copy(update={"name": "first", "rows": 1}))
    encoded.clear()
    return lake


def payload(lake, ref):
    artefact = lake.artefact(ref)
    names = [name for name in artefact.files() if name != layout.MANIFEST]
    return {name: artefact.read(name) for name in names}


@pytest.fixture
def whole(lake, encoded, tmp_path):
    """The files of an uninterrupted run in a lake beside."""
    beside = Lake.at(tmp_path / "beside")
    planted_analysis(beside, settings=WANTED)
    encoded.clear()
    return payload(beside, REF)


class Crashing(Recorder):
    """Raises when so many rows are encoded."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    @contextmanager
    def task(self, label, **given):
        with super().task(label, **given) as inner:
            outer, seen = self, [given.get("done", 0)]

            class Task:
                def advance(self, n, **values):
                    inner.advance(n, **values)
                    seen[0] += n
                    if label == "encode" and seen[0] >= outer.rows:
                        raise KeyboardInterrupt

            yield Task()


@pytest.mark.parametrize("rows", [1, 33, 200, 270])
def test_a_rerun_encodes_what_is_missing_and_ends_with_the_same_bytes(lake, encoded, whole, rows):
    with pytest.raises(KeyboardInterrupt):
        analyze.run(WANTED, lake, device="cpu", progress=Crashing(rows))
    done = (rows - 1) // 32  # the piece under way is not there
    encoded.clear()
    recorder = Recorder()
    analyze.run(WANTED, lake, device="cpu", progress=recorder)
    assert encoded == [(n * 32, min(n * 32 + 32, 270)) for n in range(done, 9)]
    assert recorder.tasks[0]["advanced"] == 270 - 32 * done
    assert payload(lake, REF) == whole
    assert lake.artefact(REF).names(layout.PROGRESS) == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_several_processes_and_one_more_end_with_the_same_bytes(lake, encoded, whole, order):
    for index in order:
        states = analyze.run_part(WANTED, lake, Part(index, 3), device="cpu")
    assert [state.rows for state in states] == [96, 96, 78]
    assert sorted(encoded) == [(n * 32, min(n * 32 + 32, 270)) for n in range(9)]
    encoded.clear()
    analyze.run(WANTED, lake, device="cpu")
    assert encoded == []
    assert payload(lake, REF) == whole
    assert analyze.run_part(WANTED, lake, Part(0, 3), device="cpu") == []


def test_one_process_does_what_the_others_did_not(lake, encoded, whole):
    states = analyze.run_part(WANTED, lake, Part(1, 2), device="cpu")
    assert [str(state) for state in states] == ["0/2 not begun", "1/2 finished (142 rows)"]
    encoded.clear()
    analyze.run(WANTED, lake, device="cpu")
    assert encoded == [(n * 32, n * 32 + 32) for n in range(4)]
    assert payload(lake, REF) == whole


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "record"])
def test_a_damaged_piece_is_encoded_again(lake, encoded, whole, how):
    for index in range(2):
        analyze.run_part(WANTED, lake, Part(index, 2), device="cpu")
    encoded.clear()
    folder = lake.artefact(REF).child(pieces.FOLDER)
    name = "000003.json" if how == "record" else "000003-000.arrow"
    data = folder.read(name)
    if how == "gone":
        folder.remove(name)
    elif how == "flipped":
        folder.write(name, data[:200] + bytes([data[200] ^ 1]) + data[201:])
    else:
        folder.write(name, data[: len(data) // 2])
    analyze.run(WANTED, lake, device="cpu")
    assert encoded == [(96, 128)]
    assert payload(lake, REF) == whole


def test_a_living_process_is_not_overtaken(lake):
    analyze.run_part(WANTED, lake, Part(0, 2), device="cpu")
    artefact = lake.artefact(REF)
    with ExitStack() as locks:
        locks.enter_context(writing(artefact.child(f"{layout.PARTS}/encoding-0-of-2"), name="it"))
        with pytest.raises(ArtefactBusyError, match="part 0-of-2"):
            analyze.run(WANTED, lake, device="cpu")
        with pytest.raises(ArtefactBusyError, match="part 0/2"):
            analyze.run_part(WANTED, lake, Part(0, 2), device="cpu")
        analyze.run_part(WANTED, lake, Part(1, 2), device="cpu")
    with pytest.raises(ArtefactExistsError, match="seed: 0 → 1"):
        analyze.run_part(WANTED.model_copy(update={"seed": 1}), lake, Part(0, 2), device="cpu")
    analyze.run(WANTED, lake, device="cpu")
    assert manifests.damage(artefact, lake.manifest(REF)) == []


GROWN = [
    ({"rows": 130}, {}, 4),  # 130 rows are whole contexts, of which pieces of 32 fit 4 times
    ({}, {"rows": 130}, 5),
    ({}, {"seed": 3, "subsamples": {}}, 9),
    ({"firings": "feature"}, {}, 0),
    ({"ignore_tokens": (3,)}, {}, 0),
    ({}, {"ignore_tokens": (3,)}, 9),
    ({}, {"value_dtype": "float16"}, 9),
    ({"value_dtype": "float16"}, {}, 0),
]


@pytest.mark.parametrize(("first", "then", "taken"), GROWN, ids=str)
def test_what_an_earlier_analysis_has_is_taken_over(tmp_path, encoded, first, then, taken):
    wanted = AnalyzeSettings.model_validate({**WANTED.model_dump(), **then})
    alone = Lake.at(tmp_path / "alone")
    planted_analysis(alone, settings=wanted)
    encoded.clear()
    lake = Lake.at(tmp_path / "lake")
    earlier = AnalyzeSettings.model_validate({**WANTED.model_dump(), **first, "name": "first"})
    planted_analysis(lake, settings=earlier)
    encoded.clear()
    recorder = Recorder()
    analyze.run(wanted, lake, device="cpu", progress=recorder)
    every = -(-recorder.tasks[0]["total"] // 32)
    assert len(encoded) == every - taken
    assert any("planted/relu/first has the firings" in note for note in recorder.notes) == bool(
        taken
    )
    assert payload(lake, REF) == payload(alone, REF)


def test_a_damaged_analysis_is_not_taken_over(tmp_path, encoded, whole):
    lake = Lake.at(tmp_path / "damaged")
    planted_analysis(lake)
    encoded.clear()
    default = lake.artefact(Ref("features", f"{DICTIONARY}/default"))
    name = "firings_by_context/part-00000.parquet"
    data = default.read(name)
    default.write(name, data[:50] + bytes([data[50] ^ 1]) + data[51:])
    analyze.run(WANTED, lake, device="cpu")
    assert len(encoded) == 9
    assert payload(lake, REF) == whole


def test_many_firings_make_several_files_of_a_piece_and_none_make_one(
    lake, encoded, whole, monkeypatch
):
    monkeypatch.setattr(pieces, "_FIRINGS", 7)
    analyze.run_part(WANTED, lake, Part(0, 1), device="cpu")
    folder = lake.artefact(REF).child(pieces.FOLDER)
    assert folder.exists("000000-001.arrow")
    analyze.run(WANTED, lake, device="cpu")
    assert payload(lake, REF) == whole
    store = pieces.Pieces(lake.artefact(REF), rows=5, block_rows=16)
    nothing = pieces.Firings(
        np.zeros(0, np.uint32),
        np.zeros(0, np.uint32),
        np.zeros(0, np.uint16),
        np.zeros(0, np.float32),
    )
    store.write(0, [pieces.Encoded(5, nothing, nothing)], lambda: {"sum": np.arange(3.0)})
    (found,) = store.read(0)
    assert (found.rows, len(found.firings), len(found.at_gates)) == (5, 0, 0)
    assert store.sums(0)["sum"].tolist() == [0, 1, 2]
