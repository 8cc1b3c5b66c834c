"""Chosen ranges of rows in order, read ahead by threads into kept memory.

For readers that know which rows they want and in which order, such as an evaluation: the next
ranges are read and converted while the last ones are computed with. Memory is a fixed number of
buffers; what is yielded is valid until the next is asked for, or longer where that is wanted.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from saestore.activations.store import ActivationStore
from saestore.activations.tensors import Tensors


Runs = Sequence[tuple[int, int]]
"""Ranges of rows, first and the one after the last, that are read together."""


def read_ahead(
    store: ActivationStore,
    hookpoints: Sequence[str],
    wanted: Iterable[Runs],
    *,
    most: int,
    threads: int = 2,
    kept: int = 1,
) -> Iterator[dict[str, Tensor]]:
    """Yield the rows of each hookpoint as float32, one item for each of `wanted`.

    Args:
        store: Where the rows lie.
        hookpoints: Whose rows.
        wanted: The ranges of each item; its rows come one range after the other.
        most: Rows of the largest item.
        threads: Threads that read, and items that are read ahead.
        kept: How many of the items that were yielded last stay valid.

    Raises:
        HookpointNotFoundError: The store lacks one of the hookpoints.
        IndexError: The store has no such rows.
        DamagedArtefactError: A chunk does not match its crc32c.
    """
    tensors = Tensors(store, hookpoints, "float32")
    # Each thread fills one, and the newest are being looked at.
    memory = [tensors.stored(most) for _ in range(threads + kept)]
    outputs = [tensors.outputs(most if tensors.converts else 0) for _ in memory]

    def read(turn: int, runs: Runs) -> dict[str, Tensor]:
        held, places, rows = memory[turn], [], 0
        for start, stop in runs:
            places.append(rows)
            rows += stop - start
        store.read_many(
            (path, start, stop, buffer[place : place + stop - start])
            for path, buffer in held.items()
            for place, (start, stop) in zip(places, runs, strict=True)
        )
        stored = {path: buffer[:rows] for path, buffer in held.items()}
        if not tensors.converts:
            return {name: tensors.view(name, stored) for name in tensors.paths}
        return {
            name: tensors.into(name, stored, outputs[turn][name][:rows]) for name in tensors.paths
        }

    coming: deque[Future[dict[str, Tensor]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="saestore-ahead")
    try:
        for item, runs in enumerate(wanted):
            coming.append(pool.submit(read, item % len(memory), runs))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        # Not waited for: what is dropped unfinished may be collected in one of these threads.
        pool.shutdown(wait=False, cancel_futures=True)
