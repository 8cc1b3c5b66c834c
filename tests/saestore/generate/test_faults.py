"""Disks that fill up or cannot be written, and Ctrl-C: what was finished stays, nothing else does."""

import functools
import os
import signal
import subprocess
import threading

import pytest

from saestore import generate
from saestore.activations import commits
from saestore.activations.merge import merge
from saestore.activations.scatter import scatter
from saestore.activations.writer import StoreWriter
from saestore.errors import StorageError
from saestore.lake import Lake, Ref, layout, parts
from saestore.lake.parts import Part
from saestore.lm import LanguageModel
from saestore.progress import Recorder
from saestore.testing.stores import payload_bytes, scratch_lake
from saestore_schemas.scatter import ScatterSettings


REF = Ref("activations", "a")
load_once = functools.cache(LanguageModel.load)


@pytest.fixture(autouse=True)
def one_model(monkeypatch):
    """Load the model once: what is tested here begins behind it."""
    monkeypatch.setattr(LanguageModel, "load", load_once)


@pytest.fixture
def disk(tmp_path):
    """A function that mounts or remounts a small file system with some options; gives its folder."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(options):
        again = "remount," if mounted else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")
        mounted.append(options)
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # stores are open still


def whole(settings):
    with scratch_lake() as lake:
        generate.run(settings, lake, device="cpu")
        return payload_bytes(lake, REF)


def made(settings, lake, how):
    if how == "one process":
        generate.run(settings, lake, device="cpu")
        return
    for index in range(2):
        generate.run_part(settings, lake, Part(index, 2), device="cpu")
    merge(lake, "a")


@pytest.mark.parametrize("how", ["one process", "parts"])
def test_a_full_disk_is_named_and_a_larger_one_continues(disk, plan, how):
    settings = plan()
    lake = Lake.at(disk("size=160k" if how == "one process" else "size=330k"))
    with pytest.raises(StorageError, match="No space left") as error:
        made(settings, lake, how)
    assert "free space and run the same command again" in error.value.hint
    artefact = lake.artefact(REF)
    assert not list(artefact.path().rglob(".tmp-*"))
    states = parts.states(artefact)
    assert any(state.finished or state.shards for state in states) or commits.last(artefact)
    disk("size=8m")
    made(settings, lake, how)
    assert payload_bytes(lake, REF) == whole(settings)


def test_a_finished_store_is_used_from_a_read_only_disk(disk, plan):
    place = disk("size=8m")
    lake = Lake.at(place)
    generate.run(plan(tokens=100), lake, device="cpu")
    disk("size=8m,ro")
    heard = Recorder()
    store = generate.run(plan(tokens=100), lake, device="cpu", progress=heard)
    assert heard.notes == ["activations a: finished already"]
    assert store.read("blocks.1.hook_resid_post", 0, 100).shape == (100, 24)
    assert merge(lake, "a").n_rows == 100
    for write in (
        lambda: generate.run(plan(name="b"), lake, device="cpu"),
        lambda: generate.run_part(plan(name="b"), lake, Part(0, 2), device="cpu"),
        lambda: scatter(ScatterSettings(name="b", store="a"), lake),
    ):
        with pytest.raises(StorageError, match="Read-only") as error:
            write()
        assert "choose another --lake" in error.value.hint
    assert not lake.artefact(Ref("activations", "b")).exists()


@pytest.mark.parametrize("what", ["generate", "merge"])
def test_ctrl_c_leaves_no_thread_lock_or_temporary_file(plan, monkeypatch, what):
    settings = plan()
    settle = StoreWriter._settle
    settled = []

    def interrupted(self):
        settle(self)
        settled.append(self)
        if len(settled) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with scratch_lake() as lake:
        if what == "merge":
            for index in range(2):
                generate.run_part(settings, lake, Part(index, 2), device="cpu")

        def run():
            if what == "merge":
                return merge(lake, "a")
            return generate.run(settings, lake, device="cpu")

        before = set(threading.enumerate())
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "_settle", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run()
        artefact = lake.artefact(REF)
        # The process keeps the threads that read remote lakes, once a test has read one.
        left = [
            t.name for t in threading.enumerate() if t not in before and "-ranges-" not in t.name
        ]
        assert not [name for name in left if name.startswith("saestore-")]
        assert not list(artefact.path().rglob(".tmp-*"))
        assert not artefact.exists(layout.LOCK)
        run()
        assert payload_bytes(lake, REF) == whole(settings)
