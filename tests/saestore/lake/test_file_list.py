"""The file list is a mapping, whatever the order and the names of its files."""

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from saestore.lake.file_list import FileList
from saestore_schemas import tables


parts = st.text("ab.0/é🙂~", min_size=1, max_size=5)


@given(
    st.dictionaries(parts, st.tuples(st.integers(0, 9), parts), max_size=12), st.randoms(), parts
)
def test_it_holds_what_the_table_says(files, random, other):
    rows = [(path, *facts) for path, facts in files.items()]
    random.shuffle(rows)
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table(
        list(map(pa.array, columns, tables.FILES.schema().types)), tables.FILES.schema()
    )
    listed = FileList(table)
    assert listed == files
    assert listed.all() == files
    assert list(listed) == sorted(files)
    assert (other in listed) == (other in files)
    for folder in (other, "a", "."):
        inside = [path for path in sorted(files) if path.startswith(f"{folder}/")]
        assert listed.below(folder) == inside
    with pytest.raises(KeyError):
        listed["not there"]
