"""Compiled loops: the same answer as the interpreter's, from any thread, with or without a cache."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from saestore.activations.memory import pages
from saestore.compiled import (
    STREAMED,
    compiled,
    float16_bits,
    float32_of,
    knows_float16,
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
def copy(target, source, length):
    """Copy bytes."""
    stream_copy(target.ctypes.data, source.ctypes.data, length)
    stream_end()


@compiled
def there_and_back(bits, out):
    """Convert float16 to float32 and back."""
    for at in range(len(bits)):
        out[at] = float16_bits(float32_of(bits[at]))


def test_threads_that_call_it_first_at_once_get_the_same():
    values = np.arange(1000.0)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(total, [values] * 16)) == {499_500.0}
    assert total.__doc__ == "Return their sum."


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
    calls += [lambda: stream_copy(0, 0, 0), stream_end]
    for call in calls:
        with pytest.raises(TypeError, match="inside compiled functions only"):
            call()
