"""Every kind of damage in every place is found: by verify, and by an ordinary read of that part."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _script():
    spec = importlib.util.spec_from_file_location("damage", Path(__file__).with_name("damage.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["damage"] = module
    spec.loader.exec_module(module)
    return module


damage = _script()


@pytest.mark.parametrize(
    ("dtype", "codec"),
    [("float16", "none"), *(pytest.param(d, c, marks=pytest.mark.slow) for d, c in [
        ("float32", "none"), ("bfloat16", "none"), ("int8", "none"), ("float16", "zstd")])],
)  # fmt: skip
def test_all_of_the_matrix_is_found(dtype, codec):
    missed = []
    with damage.pristine(dtype, codec) as lake:
        for case in damage.cases(lake):
            found = damage.look(lake, case)
            if found.verify != "yes" or found.reading not in {"yes", "-"}:
                missed.append((case.place, case.kind, found))
            if damage.expected_quick(case) and found.quick == "no":
                missed.append((case.place, case.kind, "quick"))
    assert missed == []
