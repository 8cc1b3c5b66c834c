"""Folders of files: counting what is numbered."""

from hypothesis import given, strategies as st

from saestore.lake import layout
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
