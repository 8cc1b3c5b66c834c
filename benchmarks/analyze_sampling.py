"""An analysis beside what Llamascopium's analyzer does: same dictionary, same rows, one thread.

Its analyzer keeps, of each feature, how often it fires, its maximum, and the contexts of two subsamples. An
analysis with all tables does far more; one with the two subsamples and what cannot be left out is the
nearest to the same. What is compared is what either does beside encoding, each with the seconds of encoding
taken off inside the run, and the whole. Its batches are in memory, as large as suits it
best; its post-processing and its database are left out. Firings of every feature must be equal.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks import peers
from benchmarks.analyze import EVERY, RELEASE, Analyses
from benchmarks.analyze_data import CONTEXT, NAME, Size
from benchmarks.harness import Amount, Contender, Goal, Limit, Note, Options, Setup
from benchmarks.process import Process
from saestore import dictionaries
from saestore.testing.stores import HOOKPOINT
from saestore_schemas.analyze import AnalyzeSettings


WHOLE, QUICK = Size(1 << 18, 64, 4096, 50), Size(1 << 12, 64, 512, 50)
THEIR_ROWS = 1 << 14
"""Its cost does not depend on how many rows there are once its samples are full."""
BATCHES = (8, 32, 64)
"""Contexts of a batch that are tried."""
SAME = AnalyzeSettings.model_validate(
    {
        "dictionary": NAME, "name": "same", "firings": "feature",
        "subsamples": {
            "top_activations": {"kind": "proportion", "p": 1.0, "n": 10},
            "non_activating": {
                "kind": "proportion", "p": 0.3, "n": 20, "window": 50, "include_silent": True,
            },
        },
        "token_stats": None, "coactivation": None, "neighbours": None, "logits": None,
    }
)  # fmt: skip
"""The subsamples of its defaults, and what cannot be left out."""


class Sampling:
    """The benchmark."""

    name = "analyze_sampling"
    doc = f"an analysis against Llamascopium's sampling, {WHOLE.shapes}, contexts of {CONTEXT}"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Write store and dictionary, start the peer."""
        torch.set_num_threads(1)
        size = QUICK if options.quick else WHOLE
        with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place:
            own = Analyses(Path(place), size, "cpu")
            with _peer(own, Path(place)) as peer:
                yield _setup(own, peer)


class Peer:
    """Its analyzer, and the batch that suits it best."""

    def __init__(self, process: Process, rows: int) -> None:
        self._process = process
        self.rows = rows
        each = {size: process.ask("analyze", batch=size) for size in BATCHES}
        self.batch = min(each, key=lambda size: each[size]["sampling"])
        self.tried = {size: found["sampling"] / rows * 1e6 for size, found in each.items()}

    def analyze(self) -> dict[str, object]:
        """Run it once."""
        return self._process.ask("analyze", batch=self.batch)

    def seconds(self, *parts: str) -> tuple[float, float]:
        """Run it once; return rows and the seconds of some parts."""
        found = self._process.ask("analyze", batch=self.batch)
        return self.rows, sum(found[part] for part in parts)


@contextmanager
def _peer(own: Analyses, folder: Path) -> Iterator[Peer]:
    rows = min(THEIR_ROWS, own.size.rows)
    folded = dictionaries.load(own.lake, NAME).in_raw_units()
    values = own.store.read(HOOKPOINT, 0, rows)
    encoder, decoder = folded.encoder_vectors().T, folded.decoder_vectors()
    given = folder / "given.npz"
    np.savez(given, rows=values.astype(np.float32), encoder=encoder.detach().numpy(),
             bias=folded.encoder_bias().detach().numpy(), decoder=decoder.detach().numpy())  # fmt: skip
    process = Process("benchmarks.analyze_peer", python=peers.python_of(peers.LLAMASCOPIUM))
    try:
        process.ask("load", path=str(given), k=own.size.k, context=CONTEXT)
        yield Peer(process, rows)
    finally:
        process.close()


def _setup(own: Analyses, peer: Peer) -> Setup:
    release = peers.LLAMASCOPIUM.requirements[0]
    sampling, both = "llamascopium, sampling", "llamascopium, with encoding"
    every, same = "saestore, all tables, after encoding", "saestore, its output, after encoding"
    whole, alone = "saestore, all tables", "saestore, encoding alone"
    tried = ", ".join(f"{size}: {us:.0f} us a row" for size, us in peer.tried.items())
    return Setup(
        contenders=(
            Contender(sampling, lambda: peer.seconds("sampling"), release),
            Contender(both, lambda: peer.seconds("sampling", "encoding"), release),
            Contender(every, lambda: own.after_encoding(EVERY), RELEASE),
            Contender(same, lambda: own.after_encoding(SAME), RELEASE),
            Contender(whole, lambda: own.whole(EVERY), RELEASE),
            Contender(alone, own.encoding, RELEASE),
        ),
        goals=(
            Goal(every, sampling, "rate", ">=", 20),
            Goal(whole, both, "rate", ">=", 10),
            Goal(same, sampling, "rate", ">=", 20),
        ),
        unit="row",
        sizes={
            "shapes": own.size.text,
            "its": f"{peer.rows:,} of these rows, in batches of {peer.batch} contexts ({tried})",
            "device": "cpu, 1 thread",
        },
        limit=Limit(alone, "encoding alone: no whole analysis is faster"),
        amounts=(
            Amount(
                "a feature written, its output", "ms",
                lambda: own.after_encoding(SAME)[1] / own.size.d_sae * 1e3, "<=", 1,
            ),
        ),
        notes=(Note("firings", lambda: _agreement(own, peer)),),
        rounds=3,
    )  # fmt: skip


def _agreement(own: Analyses, peer: Peer) -> str:
    """Return whether both count the same firings, in words."""
    theirs = np.array(peer.analyze()["counts"])
    counted = own.counts(peer.rows)
    return (
        f"{counted.sum():,} in those rows, {theirs.sum():,} by its count; "
        f"{(theirs == counted).sum():,} of {len(counted):,} features fire as often in both"
    )


BENCH = Sampling()
