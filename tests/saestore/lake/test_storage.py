"""Folders of files: counting what is numbered."""

import errno

import pytest
from hypothesis import given, strategies as st

from saestore.errors import StorageError
from saestore.lake import Lake, Ref, layout
from saestore.lake.lock import writing
from saestore.lake.storage import Storage
from saestore.testing.stores import scratch_lake


@given(st.integers(0, 70))
def test_numbered_files_are_counted_by_asking_for_few(files):
    with scratch_lake() as lake:
        folder = lake.storage
        for number in range(files):
            folder.path(layout.commit_file(number)).parent.mkdir(parents=True, exist_ok=True)
            folder.path(layout.commit_file(number)).touch()
        asked = []
        found = folder.count(lambda number: asked.append(number) or layout.commit_file(number))
        assert found == files
        assert len(asked) <= 2 * max(files, 1).bit_length() + 1


def test_a_place_that_takes_no_folder_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    places = {
        "/proc/saestore": errno.ENOENT,
        str(tmp_path / "file" / "below"): errno.ENOTDIR,
        str(tmp_path / ("x" * 300)): errno.ENAMETOOLONG,
    }
    for place, code in places.items():
        lake = Lake.at(place)
        artefact = lake.artefact(Ref("activations", "a"))
        for write in (
            lambda place=place: Storage.at(place).write("x", b""),
            lambda place=place: Storage.at(place).create("x", b""),
            lambda artefact=artefact: writing(artefact, name="a").__enter__(),
        ):
            with pytest.raises(StorageError, match="making the folder") as caught:
                write()
            assert caught.value.found == code
            assert "choose" in caught.value.hint
