"""Large blocks go back to the system when they are freed."""

import ctypes
import platform

import numpy as np
import pytest

from saestore.train.allocator import return_large_blocks


MIB = 1 << 20
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")  # fmt: skip


class MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def mapped():
    """Return the bytes in blocks that are mapped by themselves."""
    found = ctypes.CDLL(None).mallinfo2
    found.restype = MallInfo
    return found().hblkhd


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="glibc 2.33 or later tells what it maps",
)
def test_blocks_are_mapped_by_themselves_after_larger_ones_were_freed(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    return_large_blocks()
    np.empty(24 * MIB, np.uint8)  # freed: glibc would take blocks up to this size from the heap now
    before = mapped()
    block = np.empty(4 * MIB, np.uint8)
    assert mapped() - before >= block.nbytes
    del block
    assert mapped() == before


def test_an_environment_that_chooses_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", asked.append)
    return_large_blocks()
    assert not asked
