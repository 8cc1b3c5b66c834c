"""Compiled loops: the same answer as the interpreter's, from any thread, with or without a cache."""

import os
from concurrent.futures import ThreadPoolExecutor

import crc32c
import numpy as np
import pytest
from hypothesis import given, strategies as st

from saestore.activations.memory import pages
from saestore.compiled import (
    STREAMED,
    compiled,
    crc32c_of,
    crc32c_shifts,
    float16_bits,
    float32_of,
    knows_float16,
    prefetch,
    read_at,
    reads_files,
    stream_copy,
    stream_end,
)


@compiled
def total(values):
    """Return their sum."""
    found = 0.0
    for value in values:
        found += value
    return found


@compiled
def totals(rows):
    """Return the sum of each row."""
    return [total(row) for row in rows]


@compiled
def copy(target, source, length):
    """Copy bytes."""
    stream_copy(target.ctypes.data, source.ctypes.data, length)
    stream_end()


@compiled
def there_and_back(bits, out):
    """Convert float16 to float32 and back."""
    for at in range(len(bits)):
        out[at] = float16_bits(float32_of(bits[at]))


@compiled
def checksum(data, shifts):
    """Return the crc32c of some bytes."""
    return crc32c_of(data.ctypes.data, len(data), shifts)


@compiled
def read(descriptor, buffers, offset):
    """Read bytes of a file into some buffers."""
    return read_at(descriptor, buffers.ctypes.data, len(buffers), offset)


needs_x86 = pytest.mark.skipif(not reads_files(), reason="needs Linux and x86 with SSE 4.2")


@needs_x86
@given(st.integers(0, 60_000), st.integers(0, 9), st.integers(0, 99))
def test_a_checksum_is_that_of_the_library(length, shift, seed):
    data = np.random.default_rng(seed).integers(0, 256, length + shift).astype(np.uint8)[shift:]
    assert checksum(data, crc32c_shifts()) == crc32c.crc32c(data.tobytes())


@needs_x86
def test_a_file_is_read_into_buffers_one_after_the_other(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    one, other = np.zeros(5, np.uint8), np.zeros(200, np.uint8)
    buffers = np.array([[one.ctypes.data, 5], [other.ctypes.data, 200]])
    with path.open("rb") as file:
        assert read(file.fileno(), buffers, 20) == 80
    assert [*one, *other[:76]] == [*range(20, 100), 0]
    gone = os.open(path, os.O_RDONLY)
    os.close(gone)
    assert read(gone, buffers, 0) < 0


def test_threads_that_call_it_first_at_once_get_the_same():
    values = np.arange(1000.0)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(total, [values] * 16)) == {499_500.0}
    assert total.__doc__ == "Return their sum."


def test_compiled_functions_call_each_other():
    rows = np.arange(6.0).reshape(2, 3)
    assert totals(rows) == [3.0, 12.0]


def test_a_function_that_lies_in_no_file_is_compiled_and_not_kept():
    names = {}
    exec("def double(x):\n    return 2 * x", names)  # noqa: S102 - what this test is about
    assert compiled(names["double"])(21) == 42


@pytest.mark.parametrize("shift", [0, 1, 17])
@pytest.mark.parametrize("length", [0, STREAMED, 3 * STREAMED, 4096])
def test_streaming_moves_these_bytes_and_no_others(shift, length):
    source = np.random.default_rng(0).integers(0, 256, 8192).astype(np.uint8)[shift:]
    target = pages((8192,), np.dtype(np.uint8))
    target[:] = 255
    copy(target[2 * STREAMED :], source, length)
    kept = slice(2 * STREAMED, 2 * STREAMED + length)
    assert np.array_equal(target[kept], source[:length])
    target[kept] = 255
    assert (target == 255).all()


def test_every_float16_that_is_a_number_comes_back():
    if not knows_float16():
        pytest.skip("this processor has no instruction for float16")
    bits = np.arange(1 << 16, dtype=np.uint16)
    out = np.empty_like(bits)
    there_and_back(bits, out)
    number = ~np.isnan(bits.view(np.float16))
    assert np.array_equal(out[number], bits[number])
    assert np.isnan(out[~number].view(np.float16)).all()


def test_the_interpreter_has_no_such_functions():
    one = np.float32(1), np.uint16(1)
    calls = [lambda: float16_bits(one[0]), lambda: float32_of(one[1])]
    calls += [lambda: stream_copy(0, 0, 0), stream_end, lambda: prefetch(np.zeros(1), 0)]
    calls += [lambda: read_at(0, 0, 0, 0), lambda: crc32c_of(0, 0, crc32c_shifts())]
    for call in calls:
        with pytest.raises(TypeError, match="inside compiled functions only"):
            call()
