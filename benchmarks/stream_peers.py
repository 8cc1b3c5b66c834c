"""The peers of the stream benchmark: their data, their settings, and the search for the best ones.

`python -m benchmarks stream --tune` measures the best settings known beside those that differ from
them in one, alternating in one run; when one of these is faster, it takes the place of `*_BEST` and
the search goes on from there. Both libraries have settings that mix more and read slower. SAELens'
mixing_fraction 0 is measured and never the best: it hands contexts on unshuffled. Llamascopium's 2d
target, contexts whole, fails on cached chunks without metadata in this version.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.activations import Activations
from benchmarks.peers import Peer
from benchmarks.reader import Reader


Settings = Mapping[str, object]

SAE_LENS_BEST: Settings = {
    "n_batches_in_buffer": 8, "store_batch_size_prompts": 8, "mixing_fraction": 0.5, "threads": 2,
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
        """Return the best settings, and those that differ from them in one."""
        yield self.best
        for name, values in OTHERS[self.kind].items():
            for value in values:
                found = {**self.best, name: value}
                if found.get("num_workers") == 0:
                    found["prefetch"] = None  # torch wants it so
                yield found


SAE_LENS = Compared("sae_lens", peers.SAE_LENS, SAE_LENS_BEST)
LLAMASCOPIUM = Compared(
    "llamascopium", peers.LLAMASCOPIUM, LLAMASCOPIUM_BEST, written=("chunk_contexts",)
)
ALL = (SAE_LENS, LLAMASCOPIUM)

OTHERS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "sae_lens": {
        "n_batches_in_buffer": (4, 16, 128),
        "store_batch_size_prompts": (4, 16),
        "mixing_fraction": (0.0,),
        "threads": (1,),
    },
    "llamascopium": {
        "chunk_contexts": (4, 64),
        "buffer_size": (65_536,),
        "num_workers": (0, 1, 4),
        "prefetch": (8,),
        "threads": (2,),
    },
}
"""Other values of each setting, tried one setting at a time around the best."""
