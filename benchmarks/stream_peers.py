"""The peers of the stream benchmark: their data, their settings, and the search for the best ones.

`python -m benchmarks stream --tune` runs every candidate below in turn, with 512 contexts of data;
`*_BEST` are the fastest it found on a 2-core machine among those that deliver 4096-row batches. Both
libraries have settings that mix more and read slower; ours mixes more than any of them.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.activations import Activations
from benchmarks.peers import Peer
from benchmarks.reader import Reader


Settings = Mapping[str, object]

SAE_LENS_BEST: Settings = {
    "n_batches_in_buffer": 16, "store_batch_size_prompts": 8, "mixing_fraction": 0.5, "threads": 2,
}  # fmt: skip
LLAMASCOPIUM_BEST: Settings = {
    "chunk_contexts": 16, "target": "1d", "buffer_size": None, "num_workers": 2, "prefetch": 2,
    "threads": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One peer.

    Attributes:
        kind: Its reader.
        peer: Its environment.
        best: Its best settings.
        written: Which of its settings decide what is on disk.
    """

    kind: str
    peer: Peer
    best: Settings
    written: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its line in the table."""
        return self.peer.name

    @property
    def version(self) -> str:
        """Library and version."""
        return self.peer.requirements[0]

    def start(self) -> Reader:
        """Return a process in its environment, which is made if it is not there."""
        return Reader(self.kind, peers.python_of(self.peer))

    def write(
        self, reader: Reader, data: Activations, folder: Path, settings: Settings
    ) -> Settings:
        """Write the data set in the peer's form, once, and return the settings to read it with."""
        variant = "-".join(str(settings[name]) for name in self.written)
        place = folder / self.name / (variant or "all")
        if not place.exists():
            place.mkdir(parents=True)
            reader.ask("write", contexts=data.contexts, width=data.width,
                       settings={**settings, "path": str(place)})  # fmt: skip
        return {**settings, "path": str(place)}

    def candidates(self) -> Iterator[Settings]:
        """Return every combination of settings that is tried and has a meaning of its own."""
        for values in itertools.product(*GRIDS[self.kind].values()):
            found = dict(zip(GRIDS[self.kind], values, strict=True))
            if found.get("num_workers") == 0:
                if found["prefetch"] != GRIDS[self.kind]["prefetch"][0]:
                    continue
                found["prefetch"] = None  # torch wants it so
            if found.get("target") == "2d" and found["buffer_size"] is not None:
                continue  # it would mix contexts whole, and no rows
            yield found


SAE_LENS = Compared("sae_lens", peers.SAE_LENS, SAE_LENS_BEST)
LLAMASCOPIUM = Compared(
    "llamascopium", peers.LLAMASCOPIUM, LLAMASCOPIUM_BEST, written=("chunk_contexts",)
)
ALL = (SAE_LENS, LLAMASCOPIUM)

GRIDS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "sae_lens": {
        "n_batches_in_buffer": (8, 16, 32, 128),
        "store_batch_size_prompts": (4, 8, 16),
        "mixing_fraction": (0.0, 0.5),
        "threads": (1, 2),
    },
    "llamascopium": {
        "chunk_contexts": (4, 16, 64),
        "target": ("1d", "2d"),
        "buffer_size": (None, 65_536),
        "num_workers": (0, 1, 2, 4),
        "prefetch": (2, 8),
        "threads": (1, 2),
    },
}
"""Values tried, all with all."""
