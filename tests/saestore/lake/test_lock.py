import json
import os
import subprocess
import sys
import time

import pytest

from saestore.errors import ArtefactBusyError
from saestore.lake import Storage, layout, owners
from saestore.lake.lock import writing


HOLD = """
import sys, time
from saestore.lake import Storage
from saestore.lake.lock import writing
with writing(Storage.at(sys.argv[1]), name="a"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def artefact(tmp_path):
    return Storage.at(tmp_path)


def test_the_second_writer_is_refused_and_the_lock_goes_with_its_block(artefact):
    with writing(artefact, name="a"):
        with (
            pytest.raises(ArtefactBusyError, match=f"process {os.getpid()}"),
            writing(artefact, name="a"),
        ):
            pass
        assert artefact.exists(layout.LOCK)
    assert not artefact.exists(layout.LOCK)
    with writing(artefact, name="a"):
        pass


def test_a_living_process_keeps_its_lock_and_a_killed_one_loses_it(artefact):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, artefact.url], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(ArtefactBusyError, match=f"process {holder.pid}"),
        writing(artefact, name="a"),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with writing(artefact, name="a"):
        assert json.loads(artefact.read(layout.LOCK))["pid"] == os.getpid()


def test_a_recycled_process_id_is_not_mistaken_for_the_owner(artefact):
    with writing(artefact, name="a"):
        owner = json.loads(artefact.read(layout.LOCK))
    artefact.write(layout.LOCK, json.dumps(owner | {"started": "1"}).encode())
    with writing(artefact, name="a"):
        assert json.loads(artefact.read(layout.LOCK))["started"] == owner["started"]


def test_another_machines_lock_is_respected(artefact):
    with writing(artefact, name="a"):
        owner = json.loads(artefact.read(layout.LOCK))
    artefact.write(layout.LOCK, json.dumps(owner | {"host": "elsewhere"}).encode())
    with pytest.raises(ArtefactBusyError, match="elsewhere"), writing(artefact, name="a"):
        pass


def test_what_killed_processes_left_while_locking_goes_with_the_next_lock(artefact):
    path = artefact.path(layout.LOCK)
    path.parent.mkdir(parents=True)
    dead = {**owners.me(), "pid": 2**22 + 1}
    drafts = {
        "4194305": json.dumps(dead),  # between writing its name and linking it into place
        "dead.4194305": json.dumps(dead),  # between taking over and removing the old lock
        "4194306": '{"host"',  # while writing its name
        "4194307": '{"host"',
        "1": json.dumps(owners.me()),  # alive: about to find the lock taken
    }
    for name, content in drafts.items():
        path.with_name(f"{path.name}.{name}").write_text(content)
    old = time.time() - 3600
    os.utime(path.with_name(f"{path.name}.4194306"), (old, old))
    with writing(artefact, name="a"):
        left = {each.name.removeprefix(f"{path.name}.") for each in path.parent.iterdir()}
        assert left == {path.name, "4194307", "1"}
