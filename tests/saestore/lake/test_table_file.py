"""Small tables as the bytes of one file."""

import subprocess
import sys

import pyarrow as pa
import pytest

from saestore.lake import table_file


COUNTED = """
import os, pyarrow as pa
from saestore.lake import table_file
data = table_file.to_bytes(pa.table({name: list(range(9)) for name in "abcdefgh"}))
before = len(os.listdir("/proc/self/task"))
assert table_file.from_bytes(data).num_columns == 8
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_a_table_comes_back_with_its_metadata():
    schema = pa.schema([pa.field("x", pa.uint32(), metadata={"doc": "é"})], metadata={"a": "b"})
    table = pa.table([pa.array([3, 1, 2], pa.uint32())], schema=schema)
    for group_rows in (None, 2):
        again = table_file.from_bytes(table_file.to_bytes(table, group_rows=group_rows))
        assert again.equals(table, check_metadata=True)


def test_what_is_no_file_is_refused():
    with pytest.raises(ValueError, match=r"(?i)parquet"):
        table_file.from_bytes(b"not a file")


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by Linux's /proc")
def test_no_thread_is_left_holding_the_bytes():
    """One that lets go of them while the interpreter ends would abort the process."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
