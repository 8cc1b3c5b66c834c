"""Batches of all epochs, dealt to lanes: every row of every epoch in one batch."""

import itertools

import pytest
from hypothesis import given, settings, strategies as st

from saestore.activations.batches import Batches
from saestore.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 60),
    batch_rows=st.integers(1, 25),
    epochs=st.integers(1, 5),
    lanes=st.integers(1, 4),
    last=st.sampled_from(["carry", "drop", "short"]),
)
def test_lanes_deliver_each_epoch_once_and_batches_follow_each_other(
    rows, batch_rows, epochs, lanes, last
):
    if last == "drop" and rows < batch_rows:
        with pytest.raises(ConfigError, match="batch_rows"):
            Batches(rows, batch_rows, last, epochs, lanes)
        return
    batches = Batches(rows, batch_rows, last, epochs, lanes)
    reached = [0] * lanes
    for number in range(batches.count):
        lane, start, stop = batches.span(number)
        assert lane == number % lanes
        assert start == reached[lane]  # in each lane, one after the other
        assert 0 < stop - start <= batch_rows
        reached[lane] = stop
        epoch = batches.epoch_of(number)
        part = batches.lane(lane, epoch)
        assert part.begin <= start < part.begin + part.rows
    for epoch in range(epochs):
        parts = [batches.lane(lane, epoch) for lane in range(lanes)]
        # Stretches of the epoch's units, one beside the other.
        ends = list(itertools.accumulate(part.rows for part in parts))
        assert [part.skip for part in parts] == [0, *ends[:-1]]
        assert ends[-1] == (rows // batch_rows * batch_rows if last == "drop" else rows)
    for lane in range(lanes):
        end = batches.lane(lane, epochs)
        assert reached[lane] == end.begin
    if last != "drop":
        assert sum(reached) == epochs * rows


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 60), batch_rows=st.integers(1, 25), lanes=st.integers(1, 4))
def test_without_an_end_the_sequence_begins_as_with_one(rows, batch_rows, lanes):
    endless = Batches(rows, batch_rows, "carry", None, lanes)
    finite = Batches(rows, batch_rows, "carry", 4, lanes)
    assert endless.count is None
    for number in range(4 * rows // batch_rows):
        assert endless.span(number) == finite.span(number)


def test_sizes_below_one_are_refused():
    for field, sizes in {
        "batch_rows": (0, None, 1),
        "epochs": (1, 0, 1),
        "lanes": (1, 1, 0),
    }.items():
        batch_rows, epochs, lanes = sizes
        with pytest.raises(ConfigError, match=rf"{field}: found 0"):
            Batches(9, batch_rows, "carry", epochs, lanes)
