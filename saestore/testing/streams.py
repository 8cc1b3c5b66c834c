"""The contract of a stream of batches: subclass it, say how one is made, and inherit the laws."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import pytest
from torch import Tensor

from saestore.lake import Lake


@runtime_checkable
class Stream(Protocol):
    """Batches in an order that depends on the arguments alone, from any position."""

    def __iter__(self) -> Iterator[Any]:
        """Return the stream itself."""
        ...

    def __next__(self) -> Any:
        """Return the next batch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes to go on from here; JSON holds it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position."""
        ...


class StreamContract(ABC):
    """What every stream must do, whatever it delivers and however its rows get into memory.

    A subclass is one way of making a stream: of lanes, windows and types that do not change. Batches
    are compared by all of their tensors.
    """

    @abstractmethod
    def prepare(self, lake: Lake) -> None:
        """Write the stores that are read."""

    @abstractmethod
    def make(
        self, lake: Lake, *, epochs: int | None = None, rank: int = 0, world: int = 1
    ) -> Stream:
        """Return a new stream over the prepared stores; the same lanes for every world."""

    @abstractmethod
    def numbers(self, batch: Any) -> list[int]:
        """Return a number of each row of a batch, told from its activations."""

    @abstractmethod
    def wanted(self, lake: Lake) -> list[int]:
        """Return the numbers of all rows of an epoch."""

    def tensors(self, batch: Any) -> Mapping[str, Tensor]:
        """Return the tensors of a batch by name."""
        found: Mapping[str, Tensor] = batch
        return found

    @pytest.fixture(scope="class")
    @classmethod
    def lake(cls, tmp_path_factory: pytest.TempPathFactory) -> Lake:
        """Return a lake with the stores; nothing writes to them."""
        lake = Lake.at(tmp_path_factory.mktemp("streams"))
        cls().prepare(lake)
        return lake

    def _kept(self, batch: Any) -> dict[str, Any]:
        """Return what a batch holds, copied: a stream may write over it two batches later."""
        return {name: tensor.tolist() for name, tensor in self.tensors(batch).items()}

    def _all(self, stream: Stream, most: int | None = None) -> list[dict[str, Any]]:
        return [self._kept(batch) for batch in islice(stream, most)]

    def test_each_row_comes_once_in_every_epoch(self, lake: Lake) -> None:
        """No row is left out and none comes twice, and no epoch begins before the last one ends.

        A batch may hold the end of one epoch and the beginning of the next.
        """
        batches: dict[int, list[int]] = {}
        for index, batch in enumerate(self.make(lake, epochs=2)):
            for number in self.numbers(batch):
                batches.setdefault(number, []).append(index)
        assert sorted(batches) == sorted(self.wanted(lake))
        assert batches
        assert {len(found) for found in batches.values()} == {2}
        assert max(first for first, _ in batches.values()) <= min(s for _, s in batches.values())

    def test_the_same_arguments_give_the_same_batches(self, lake: Lake) -> None:
        """A second stream delivers what the first one did, one with an end what an endless one did."""
        first = self._all(self.make(lake, epochs=1))
        assert self._all(self.make(lake, epochs=1)) == first
        whole = len(first) - 1  # the last batch may go on in the next epoch
        assert self._all(self.make(lake), whole) == first[:whole]

    def test_a_stream_that_is_over_stays_over(self, lake: Lake) -> None:
        """Asking again gives nothing, and no error but the end."""
        stream = self.make(lake, epochs=1)
        assert self._all(stream)
        assert self._all(stream) == []

    @pytest.mark.parametrize("world", [1, 2])
    def test_from_any_position_comes_the_rest(self, lake: Lake, world: int) -> None:
        """A fresh stream, one that is over and one in the midst go to a saved position alike."""
        ranks = {"rank": world - 1, "world": world}
        stream = self.make(lake, epochs=2, **ranks)
        states, batches = [json.dumps(stream.state_dict())], []
        for batch in stream:
            batches.append(self._kept(batch))
            states.append(json.dumps(stream.state_dict()))
        assert json.dumps(stream.state_dict()) == states[-1]
        for at in (len(batches), 0, len(batches) // 2, 1):
            fresh = self.make(lake, epochs=2, **ranks)
            fresh.load_state_dict(json.loads(states[at]))
            assert self._all(fresh) == batches[at:]
            stream.load_state_dict(json.loads(states[at]))
            assert self._all(stream, 3) == batches[at : at + 3]

    @pytest.mark.parametrize("world", [2, 4])
    def test_all_ranks_together_deliver_one_stream(self, lake: Lake, world: int) -> None:
        """Rank r has the batches r, r + world, … of what one process delivers."""
        whole = self._all(self.make(lake, epochs=2))
        for rank in range(world):
            mine = self._all(self.make(lake, epochs=2, rank=rank, world=world))
            assert mine == whole[rank::world]

    def test_a_position_is_one_of_any_number_of_ranks(self, lake: Lake) -> None:
        """What two processes left is taken up by one, and by four."""
        whole = self._all(self.make(lake, epochs=2))
        pair = [self.make(lake, epochs=2, rank=rank, world=2) for rank in (0, 1)]
        for stream in pair:
            self._all(stream, 2)
        states = [stream.state_dict() for stream in pair]
        assert states[0] == states[1]
        for world in (1, 4):
            for rank in range(world):
                stream = self.make(lake, epochs=2, rank=rank, world=world)
                stream.load_state_dict(states[0])
                assert self._all(stream) == whole[4:][(rank - 4) % world :: world]

    @pytest.mark.parametrize("world", [1, 2, 4])
    def test_the_batch_before_the_newest_stays_valid(self, lake: Lake, world: int) -> None:
        """A step may still be using a batch when the next one is asked for."""
        before = None
        for batch in self.make(lake, epochs=2, rank=world - 1, world=world):
            if before is not None:
                kept, its = before
                assert self._kept(kept) == its
            before = (batch, self._kept(batch))
