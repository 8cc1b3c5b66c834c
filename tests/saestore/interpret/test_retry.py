"""How long is waited, by whose word."""

import asyncio
import time
from datetime import UTC, datetime

import pytest

from saestore.interpret.retry import Pause, Waits, asked_for


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_pauses_double_up_to_a_minute():
    assert [Waits().after(n) for n in (1, 2, 3, 6, 7, 8, 999)] == [1, 2, 4, 32, 60, 60, 60]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30),
        ({"retry-after": "Wed, 31 Dec 2025 00:00:30 GMT"}, 0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30"}, 30),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "7", "retry-after-ms": "later"}, 7),
    ],
)
def test_what_an_endpoint_asks_for(headers, seconds):
    assert asked_for(headers, now=NOW) == seconds


def test_a_pause_can_be_lengthened_and_never_shortened():
    async def wait():
        pause = Pause()
        await pause.over()  # there is none
        start = time.monotonic()
        pause.until(0.05)
        waiting = asyncio.create_task(pause.over())
        await asyncio.sleep(0.01)
        pause.until(0.1)
        pause.until(0.0)
        await waiting
        return time.monotonic() - start

    assert asyncio.run(wait()) >= 0.1
