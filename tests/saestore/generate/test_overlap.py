"""Writing beside computing: in order, bounded, and no error is lost."""

import threading

import numpy as np
import pytest
import torch

from saestore.generate.host import ToHost
from saestore.generate.overlap import Background


def test_calls_happen_in_order_and_are_done_at_the_end():
    seen = []
    with Background(lambda n, *, twice: seen.append((n, twice))) as later:
        for n in range(50):
            later(n, twice=2 * n)
    assert seen == [(n, 2 * n) for n in range(50)]


def test_an_error_reaches_the_caller_and_nothing_is_called_after_it():
    seen = []

    def call(n):
        seen.append(n)
        if n == 3:
            raise ValueError("disk")

    def many(later):
        for n in range(1000):
            later(n)

    with pytest.raises(ValueError, match="disk"), Background(call) as later:
        many(later)
    assert seen == [0, 1, 2, 3]


def test_an_error_in_the_last_call_is_raised_on_leaving():
    def call():
        raise ValueError("late")

    with pytest.raises(ValueError, match="late"), Background(call) as later:
        later()


def test_computing_waits_when_writing_is_slower():
    release, began = threading.Event(), threading.Event()
    waiting = []

    def slow(n):
        began.set()
        release.wait()

    with Background(slow) as later:
        for n in range(5):  # one is being written, four wait
            later(n)
            began.wait()
        thread = threading.Thread(target=lambda: (later(5), waiting.append("went on")))
        thread.start()
        thread.join(0.2)
        assert not waiting
        release.set()
        thread.join()
    assert waiting


def test_an_error_while_computing_drops_what_waits():
    seen, release, began = [], threading.Event(), threading.Event()

    def call(n):
        began.set()
        release.wait()
        seen.append(n)

    def interrupted(later):
        later(0)
        began.wait()
        later(1)
        threading.Timer(0.1, release.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Background(call) as later:
        interrupted(later)
    assert seen == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_arrive_on_the_host_as_they_were(dtype):
    to_host = ToHost(torch.device("cpu"), "float32")
    values = torch.randn(2, 3, 5).to(dtype)
    found = to_host(values, to_host.ready())
    assert found.dtype == np.float32
    assert np.array_equal(found, values.float().numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_copy_waits_for_the_pass_that_computes_it(dtype):
    to_host = ToHost(torch.device("cuda"), dtype)
    got = []
    expected = []
    with Background(lambda values, ready: got.append(to_host(values, ready))) as later:
        for n in range(20):
            values = torch.full((8, 256, 512), float(n), device="cuda")
            for _ in range(20):
                values = values @ torch.eye(512, device="cuda")
            later(values, to_host.ready())
            expected.append(float(n))
    assert [float(rows.min()) for rows in got] == expected
    assert [float(rows.max()) for rows in got] == expected
