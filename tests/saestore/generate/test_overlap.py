"""Writing beside computing: in order, bounded, and no error is lost."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from saestore.generate.host import ToHost
from saestore.generate.overlap import Ahead, Background


def test_calls_happen_in_order_and_are_done_at_the_end():
    seen = []
    with Background(lambda n, twice: seen.append((n, twice))) as later:
        for n in range(50):
            later(n, 2 * n, size=1)
    assert seen == [(n, 2 * n) for n in range(50)]


def test_an_error_reaches_the_caller_and_nothing_is_called_after_it():
    seen = []

    def call(n):
        seen.append(n)
        if n == 3:
            raise ValueError("disk")

    def many(later):
        for n in range(1000):
            later(n, size=1)

    with pytest.raises(ValueError, match="disk"), Background(call) as later:
        many(later)
    assert seen == [0, 1, 2, 3]


def test_an_error_in_the_last_call_is_raised_on_leaving():
    def call():
        raise ValueError("late")

    with pytest.raises(ValueError, match="late"), Background(call) as later:
        later(size=1)


@pytest.mark.parametrize(("size", "fit"), [(1, 8), (3, 2), (100, 1)])
def test_computing_waits_when_too_many_bytes_wait(size, fit):
    """However large a batch is, one may be written while the next is computed."""
    release = threading.Event()
    with Background(lambda _: release.wait(), limit=8) as later:
        for n in range(fit):
            later(n, size=size)
        went_on = threading.Event()
        thread = threading.Thread(target=lambda: (later(fit, size=size), went_on.set()))
        thread.start()
        assert not went_on.wait(0.1)
        release.set()
        thread.join()
    assert went_on.is_set()


def interrupted(later, began, release):
    later(0, size=1)
    began.wait()
    later(1, size=1)
    threading.Timer(0.1, release.set).start()
    raise KeyboardInterrupt


def test_an_error_while_computing_drops_what_waits():
    seen, release, began = [], threading.Event(), threading.Event()

    def call(n):
        began.set()
        release.wait()
        seen.append(n)

    with pytest.raises(KeyboardInterrupt), Background(call) as later:
        interrupted(later, began, release)
    assert seen == [0]
    assert alive() == []


def test_ctrl_c_while_waiting_for_the_last_writes_stops_them():
    seen, began = [], threading.Event()

    def call(n):
        seen.append(n)
        began.set()
        time.sleep(0.3)

    def ending():
        with Background(call) as later:
            for n in range(9):
                later(n, size=1)
            began.wait()
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        ending()
    assert seen in ([0], [0, 1], [0, 1, 2])  # a busy machine hears Ctrl-C late
    assert alive() == []


def test_what_is_made_ahead_comes_in_order_and_not_too_far_ahead():
    made = []

    def source():
        for n in range(20):
            made.append(n)
            yield n

    with Ahead(source(), limit=3) as items:
        for n, item in enumerate(items):
            assert item == n
            time.sleep(0.002)
            assert len(made) <= n + 1 + 3 + 1  # one more waits for its place
    assert made == list(range(20))


def test_an_error_of_the_source_comes_after_what_was_made():
    def source():
        yield 1
        raise ValueError("line 2")

    seen = []
    with pytest.raises(ValueError, match="line 2"), Ahead(source()) as items:
        seen.extend(items)
    assert alive() == []


def test_leaving_stops_the_reader_even_in_the_midst():
    def leave(items):
        next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Ahead(itertools.count(), limit=2) as items:
        leave(items)
    assert alive() == []


def alive():
    names = ("saestore-writer", "saestore-reader")
    return [t.name for t in threading.enumerate() if t.name.startswith(names)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_arrive_on_the_host_as_they_were(dtype):
    to_host = ToHost(torch.device("cpu"), "float32")
    values = torch.randn(2, 3, 5).to(dtype)
    found = to_host(values, to_host.ready(), kept="a")
    assert found.dtype == np.float32
    assert np.array_equal(found, values.float().numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_copy_waits_for_the_pass_that_computes_it(dtype):
    to_host = ToHost(torch.device("cuda"), dtype)
    got = []
    expected = []
    with Background(
        lambda values, ready: got.append(to_host(values, ready, kept="a").copy())
    ) as later:
        for n in range(20):
            values = torch.full((8, 256, 512), float(n), device="cuda")
            for _ in range(20):
                values = values @ torch.eye(512, device="cuda")
            later(values, to_host.ready(), size=values.nbytes)
            expected.append(float(n))
    assert [float(rows.min()) for rows in got] == expected
    assert [float(rows.max()) for rows in got] == expected
