"""Every stream keeps the contract, in every way in which its rows get into memory."""

import numpy as np
import torch

from saestore.activations import (
    ActivationStream,
    ContextRowStream,
    ContextStream,
    MixedStream,
    RowChoice,
    Source,
)
from saestore.activations.store import ActivationStore
from saestore.activations.window import Resident, Ring
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore.testing.streams import StreamContract
from saestore_schemas.activations import StoreSettings


SMALL = StoreSettings(chunk_kib=1, shard_mib=0.02)


def numbered(lake, name, rows, first, *, dtype="float32"):
    """A store whose rows say which they are, in digits that are exact in every type."""
    number = np.arange(first, first + rows)
    values = np.stack([number % 256, number // 256], axis=1).astype(np.float32)
    lengths = np.diff([*range(0, rows, 10), rows])
    return synthetic_store(
        lake, name, values={HOOKPOINT: values}, dtype=dtype, lengths=lengths, store=SMALL
    )


class Rows(StreamContract):
    """One store."""

    rows = 700
    dtype = "float32"

    def options(self):
        """What the stream is made with."""
        raise NotImplementedError

    window = Ring

    def prepare(self, lake):
        numbered(lake, "one", self.rows, 0, dtype=self.dtype)

    def wanted(self, lake):
        return np.flatnonzero(ActivationStore.open(lake, "one").kept()).tolist()

    def make(self, lake, **ranks):
        store = ActivationStore.open(lake, "one")
        return ActivationStream(store, [HOOKPOINT], seed=3, **self.options(), **ranks)

    def numbers(self, batch):
        values = batch[HOOKPOINT].float().numpy().astype(int)
        return (values[:, 0] + 256 * values[:, 1]).tolist()

    def test_the_window_is_the_one_meant(self, lake):
        if self.window is None:
            return
        stream = self.make(lake)
        next(stream)
        feeds = [stream._feed] if hasattr(stream, "_feed") else stream._feeds
        windows = [window for feed in feeds for window in feed._windows.values()]
        assert {type(window) for window in windows} == {self.window}


class TestRing(Rows):
    def options(self):
        return {"batch_rows": 23, "window_rows": 256, "lanes": 1}


class TestRingOfFourLanes(Rows):
    rows = 900

    def options(self):
        return {"batch_rows": 23, "window_rows": 256, "lanes": 4, "last": "short"} | {
            "columns": ("flags", "rows", "tokens")
        }


class TestStoredRing(Rows):
    dtype = "float16"
    rows = 800

    def options(self):
        return {"batch_rows": 30, "window_rows": 300, "lanes": 2, "dtype": "stored"}


class TestResident(Rows):
    rows = 300
    window = Resident

    def options(self):
        return {"batch_rows": 31, "lanes": 1, "columns": ("rows", "tokens", "flags")}


class TestStoredResident(Rows):
    rows = 300
    dtype = "bfloat16"
    window = Resident

    def options(self):
        return {"batch_rows": 31, "lanes": 4, "dtype": "stored", "last": "short"}


class Mix(Rows):
    """Two stores, mixed in proportion to their rows: each row once an epoch."""

    other = 300

    def prepare(self, lake):
        super().prepare(lake)
        numbered(lake, "two", self.other, 10_000, dtype=self.dtype)

    def sources(self, lake):
        one, two = (ActivationStore.open(lake, name) for name in ("one", "two"))
        choice = RowChoice(rows=(20, self.other))
        return [
            Source(one, float(one.kept().sum())),
            Source(two, float(two.kept()[20:].sum()), choice),
        ]

    def wanted(self, lake):
        two = np.flatnonzero(ActivationStore.open(lake, "two").kept())
        return [*super().wanted(lake), *(10_000 + two[two >= 20]).tolist()]

    def make(self, lake, **ranks):
        return MixedStream(self.sources(lake), [HOOKPOINT], seed=3, **self.options(), **ranks)


class TestMixedRings(Mix):
    other = 600

    def options(self):
        return {"batch_rows": 41, "window_rows": 400, "lanes": 1}


class TestMixedRingsOfFourLanes(Mix):
    rows, other = 700, 500

    def options(self):
        return {"batch_rows": 41, "window_rows": 500, "lanes": 4, "last": "short"} | {
            "columns": ("sources", "rows", "tokens")
        }


class TestMixedResidents(Mix):
    rows = 400
    window = Resident
    dtype = "float16"

    def options(self):
        return {"batch_rows": 29, "lanes": 2, "dtype": "stored", "columns": ("flags",)}


class Contexts(Rows):
    """Whole contexts: every row of them, flagged or not."""

    rows = 290
    window = None

    def wanted(self, _):
        return list(range(self.rows))

    def make(self, lake, **ranks):
        store = ActivationStore.open(lake, "one")
        return ContextStream(store, [HOOKPOINT], batch_contexts=4, **self.options(), **ranks)

    def numbers(self, batch):
        return super().numbers(batch.hooks)

    def tensors(self, batch):
        return batch.hooks


class TestContextsInOrder(Contexts):
    def options(self):
        return {"seed": None}


class TestShuffledContexts(Contexts):
    dtype = "float16"

    def options(self):
        return {"seed": 1, "last": "carry"}


class TestRowsInContexts(Contexts):
    """Kept rows of whole contexts, in batches that cut contexts."""

    dtype = "float16"

    def wanted(self, lake):
        return Rows.wanted(self, lake)

    def make(self, lake, **ranks):
        store = ActivationStore.open(lake, "one")
        choice = RowChoice()
        return ContextRowStream(store, [HOOKPOINT], batch_rows=17, seed=3, choice=choice, **ranks)

    def numbers(self, batch):
        wanted = torch.from_numpy(batch.around.wanted)
        return Rows.numbers(self, {HOOKPOINT: batch.hooks[HOOKPOINT][wanted]})
