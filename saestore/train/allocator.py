"""What training asks of the allocator of the C library: large blocks go back when they are freed."""

import ctypes
import os
import platform


_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's malloc.h."""
_LARGE = 128 << 10
"""Bytes from which a block is mapped by itself: glibc's own beginning."""
_CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def return_large_blocks() -> None:
    """Have every block of 128 KiB or more mapped by itself, in this process from here on.

    glibc raises that limit up to 32 MiB as blocks are freed. The temporaries of a step then come from
    the heap, and between those that still live 30 to 50 MB lie free, counted with the process. Steps
    take no longer: as many pages are touched for the first time either way. Other C libraries, and an
    environment that chooses for itself, are left as they are.
    """
    if platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in _CHOSEN):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
