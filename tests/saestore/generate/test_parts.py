"""Several processes, a part each, merged: the bytes of one process."""

import functools

import numpy as np
import pytest

from saestore import generate
from saestore.activations import ActivationStore, arrays, commits, verify
from saestore.activations.merge import merge
from saestore.errors import (
    ArtefactBusyError,
    ArtefactExistsError,
    ConfigError,
    DamagedArtefactError,
    HookpointNotFoundError,
    IncompleteArtefactError,
    UnsupportedError,
)
from saestore.lake import Ref, layout, manifest as manifests, parts
from saestore.lake.lock import writing
from saestore.lake.parts import Part
from saestore.lm import LanguageModel
from saestore.progress import Recorder
from saestore.testing.stores import payload_bytes, scratch_lake


REF = Ref("activations", "a")


class Killed(BaseException):
    """Stands for the end of the process: nobody catches it."""


load_once = functools.cache(LanguageModel.load)


@pytest.fixture(autouse=True)
def one_model(monkeypatch):
    """Load the model once: what is tested here begins behind it."""
    monkeypatch.setattr(LanguageModel, "load", load_once)


@pytest.fixture(scope="module")
def whole():
    """Payloads of one process, by settings."""
    made = {}

    def of(settings):
        key = settings.model_dump_json()
        if key not in made:
            with scratch_lake() as lake:
                generate.run(settings, lake, device="cpu")
                made[key] = payload_bytes(lake, REF)
        return made[key]

    return of


def in_parts(settings, lake, count, order=None):
    for index in order or range(count):
        generate.run_part(settings, lake, Part(index, count), device="cpu")


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (1, {}),
        (2, {"dtype": "float16"}),
        (3, {"dtype": "bfloat16", "tokens": None, "capture": ("final_norm_scale",)}),
        (2, {"tokens": 411, "corpus": {"packing": "truncate"}}),  # ends inside a block
        (3, {"tokens": 331, "corpus": {"packing": "split", "shuffle_seed": 3, "store_text": True}}),
        (3, {"tokens": None, "corpus": {"block_documents": 1}}),  # blocks without rows
        (13, {"tokens": 300}),  # more parts than blocks
        (3, {"dtype": "int8", "tokens": 500}),
    ],
)
def test_merged_parts_are_the_bytes_of_one_process(lake, plan, whole, count, changes):
    settings = plan(**changes)
    in_parts(settings, lake, count, order=reversed(range(count)))
    store = merge(lake, "a")
    assert payload_bytes(lake, REF) == whole(settings)
    assert verify.damage(lake, "a") == []
    assert store.n_rows == sum(store.contexts()[:, 1])
    assert not lake.artefact(REF).names(layout.PROGRESS)


def test_a_budget_ends_where_any_boundary_lies(lake, plan, whole):
    """One row before, on and after the ends of contexts, batches, blocks, chunks and shards."""
    store = generate.run(plan(name="probe", tokens=None), lake, device="cpu")
    contexts = store.contexts()
    blocks = np.unique(store.segments()[:, 3] // 5)
    owner = store.segments()[np.searchsorted(store.segments()[:, 0], np.arange(len(contexts))), 3]
    second = int(contexts[owner // 5 == blocks[2], 0][0])  # where a block begins
    grid = store.spec.arrays()["hooks/blocks.1.hook_resid_post"].grid
    ends = {int(contexts[4].sum()), second, 3 * grid.chunk_rows, 2 * grid.shard_rows}
    tokens, flags = store.tokens(), store.flags()
    for number, budget in enumerate(sorted({end + by for end in ends for by in (-1, 0, 1)})):
        settings = plan(name=f"b{number}", tokens=budget)
        one = generate.run(settings, lake, device="cpu")
        assert one.n_rows == budget
        assert np.array_equal(one.tokens(), tokens[:budget])
        assert np.array_equal(one.flags(), flags[:budget])
        assert one.contexts()[:, 1].sum() == budget


@pytest.mark.parametrize("after", [0, 2])
def test_a_killed_part_continues_with_the_same_bytes(lake, plan, whole, after):
    settings = plan()
    stop_after(after, lambda: in_parts(settings, lake, 2, order=[1]))
    heard = Recorder()
    generate.run_part(settings, lake, Part(1, 2), device="cpu", progress=heard)
    assert any("resuming" in note for note in heard.notes) == (after > 0)
    in_parts(settings, lake, 2, order=[0])
    merge(lake, "a")
    assert payload_bytes(lake, REF) == whole(settings)


@pytest.mark.parametrize("after", [0, 1, 4, 10])
@pytest.mark.parametrize("cleanup", [True, False], ids=["error", "kill"])
def test_a_killed_merge_continues_with_the_same_bytes(
    lake, plan, whole, monkeypatch, after, cleanup
):
    settings = plan()
    in_parts(settings, lake, 2)
    with monkeypatch.context() as patch:
        if not cleanup:  # a killed process removes nothing
            patch.setattr(arrays.ArrayWriter, "abandon", lambda self: self._stack.pop_all())
        stop_after(after, lambda: merge(lake, "a"))
    with pytest.raises(IncompleteArtefactError, match=r"0/2 finished.*1/2 finished"):
        ActivationStore.open(lake, "a")
    heard = Recorder()
    merge(lake, "a", progress=heard)
    assert any("resuming" in note for note in heard.notes) == (after > 0)
    assert payload_bytes(lake, REF) == whole(settings)


def test_killed_between_manifest_and_tidying_the_parts_go_at_the_next_run(lake, plan, monkeypatch):
    in_parts(plan(), lake, 2)
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "drop_progress", die)
        with pytest.raises(Killed):
            merge(lake, "a")
    assert parts.begun(lake.artefact(REF))
    assert generate.run_part(plan(), lake, Part(0, 2), device="cpu") == []
    assert not parts.begun(lake.artefact(REF))
    heard = Recorder()
    merge(lake, "a", progress=heard)
    assert heard.notes == ["activations a: finished already"]


def test_missing_parts_are_named_with_their_commands(lake, plan):
    settings = plan()
    in_parts(settings, lake, 3, order=[1])
    stop_after(1, lambda: in_parts(settings, lake, 3, order=[0]))
    with pytest.raises(IncompleteArtefactError, match=r"0/3 unfinished \(1 whole.*2/3 not") as e:
        merge(lake, "a")
    assert (
        "--shard 0/3, then saestore generate CONFIG.toml --shard 2/3, then saestore" in e.value.hint
    )
    heard = Recorder()
    states = generate.run_part(settings, lake, Part(1, 3), device="cpu", progress=heard)
    assert heard.notes == ["activations a, part 1/3: finished already"]
    assert [state.finished for state in states] == [False, True, False]


def test_a_flipped_byte_of_a_part_is_found_and_not_copied(lake, plan):
    in_parts(plan(), lake, 2)
    folder = lake.artefact(REF).path(Part(1, 2).folder)
    for name in ("hooks/blocks.1.hook_resid_post/c.1.0", "tokens/c.0", "documents/part-00000.parquet",
                 "segments/c.0.0", "vocabulary.parquet"):  # fmt: skip
        if name.startswith("vocabulary"):
            folder = lake.artefact(REF).path(Part(0, 2).folder)
        data = bytearray((folder / name).read_bytes())
        data[100] ^= 4
        (folder / name).write_bytes(data)
        with pytest.raises(DamagedArtefactError, match=name) as error:
            merge(lake, "a")
        assert "saestore generate CONFIG.toml --shard" in error.value.hint
        data[100] ^= 4
        (folder / name).write_bytes(data)
    merge(lake, "a")


def test_a_whole_run_and_parts_exclude_each_other(lake, plan):
    settings = plan()
    stop_after(1, lambda: generate.run(settings, lake, device="cpu"))
    with pytest.raises(IncompleteArtefactError, match="one process began"):
        generate.run_part(settings, lake, Part(0, 2), device="cpu")
    with pytest.raises(IncompleteArtefactError, match="one process makes all of it"):
        merge(lake, "a")
    lake.artefact(REF).remove()
    in_parts(settings, lake, 2, order=[0])
    with pytest.raises(IncompleteArtefactError, match=r"0/2 finished.* 1/2 not begun") as error:
        generate.run(settings, lake, device="cpu")
    assert "saestore remove a" in error.value.hint
    with pytest.raises(ConfigError, match="found '1/3'; expected I/2, because 'a' is made in 2"):
        generate.run_part(settings, lake, Part(1, 3), device="cpu")
    with pytest.raises(ArtefactExistsError, match="tokens: 700 → 701"):
        generate.run_part(plan(tokens=701), lake, Part(1, 2), device="cpu")


def test_a_part_that_failed_at_once_does_not_occupy_the_name(lake, plan):
    with pytest.raises(HookpointNotFoundError):
        generate.run_part(plan(hookpoints=("blocks.1.pots",)), lake, Part(0, 3), device="cpu")
    in_parts(plan(tokens=50), lake, 2)
    assert merge(lake, "a").n_rows == 50


def test_a_living_part_is_left_alone(lake, plan, monkeypatch):
    settings = plan()
    artefact = lake.artefact(REF)
    task = manifests.Run.of(REF, settings)
    from saestore.activations import parts as claims

    with claims.claimed(artefact, task, Part(0, 2)) as folder:
        draft = folder.path("hooks/.tmp-living")
        draft.parent.mkdir()
        draft.touch()
        with pytest.raises(ArtefactBusyError, match="part 0/2"):
            generate.run_part(settings, lake, Part(0, 2), device="cpu")
        generate.run_part(settings, lake, Part(1, 2), device="cpu")
        assert draft.exists()
        with pytest.raises(IncompleteArtefactError):
            generate.run(settings, lake, device="cpu")
    monkeypatch.setattr(claims, "_PATIENCE_S", 0.1)
    with writing(artefact, name="a"), pytest.raises(ArtefactBusyError, match="'a' is being"):
        generate.run_part(settings, lake, Part(0, 2), device="cpu")


def test_parts_without_a_single_row_are_no_store(lake, plan, tmp_path):
    from saestore_schemas.corpus import JsonlSource

    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": ""}\n')
    settings = plan(tokens=None, corpus={"sources": (JsonlSource(path=str(empty)),)})
    in_parts(settings, lake, 2)
    with pytest.raises(UnsupportedError, match="no rows"):
        merge(lake, "a")


@pytest.mark.parametrize("text", ["2/2", "0/0", "1", "a/2", "-1/2", "1/2/3"])
def test_a_part_that_cannot_be_is_refused(text):
    with pytest.raises(ConfigError, match="--shard") as error:
        Part.parse(text)
    assert error.value.hint


def test_torchrun_s_environment_says_which_part():
    assert Part.of_environment({}) is None
    assert Part.of_environment({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert Part.of_environment({"RANK": "3", "WORLD_SIZE": "4"}) == Part(3, 4)


def die(*_):
    raise Killed


def stop_after(shards, run):
    """Run until so many shards have a commit, then end as if killed."""
    write = commits.write

    def interrupted(artefact, commit):
        if commit.shard == shards:
            raise Killed
        write(artefact, commit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commits, "write", interrupted)
        with pytest.raises(Killed):
            run()
