"""An analysis with all its tables, beside encoding alone and beside its smaller halves.

Rows are sparse sums of random directions, the dictionary is random with a TopK: what is measured does not
depend on what features mean. Encoding alone is the same loop over the same store with the firings thrown
away. Logit attribution is left out: it costs what the vocabulary does, whatever the rows. Every analysis is
removed when it is done, for the next would take over its firings.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import saestore
from benchmarks import train_step
from benchmarks.harness import Contender, Goal, Note, Options, Setup, timed
from saestore import analyze, dictionaries
from saestore.activations import ActivationStore
from saestore.analyze import encode
from saestore.analyze.survey import survey
from saestore.lake import Lake, Ref
from saestore.testing.analyses import synthetic_dictionary
from saestore.testing.stores import HOOKPOINT, VOCABULARY, synthetic_store
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.dictionary import TopK


NAME = "bench/topk"
K, CONTEXT = 32, 128
BARE = {
    "subsamples": {}, "token_stats": None, "coactivation": None, "neighbours": None, "logits": None,
}  # fmt: skip
"""Settings without what can be left out: firings, statistics and histograms."""


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    rows: int
    width: int
    d_sae: int


WHOLE, QUICK = Size(1 << 16, 512, 8192), Size(1 << 12, 64, 512)


class Analyze:
    """The benchmark."""

    name = "analyze"
    doc = f"an analysis with all tables against encoding alone, 512 -> 8192, k {K}"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Write store and dictionary; they are gone afterwards."""
        if options.threads:
            torch.set_num_threads(options.threads)
        size = QUICK if options.quick else WHOLE
        with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place:
            lake = Lake.at(Path(place) / "lake")
            filled(lake, size)
            yield prepare(lake, size, options.device, Path(place) / "scratch")


def filled(lake: Lake, size: Size) -> None:
    """Write store and dictionary."""
    values = train_step.rows(size.rows, seed=1, width=size.width).numpy()
    tokens = np.random.default_rng(0).zipf(1.3, size.rows) % VOCABULARY
    store = synthetic_store(
        lake, "rows", values={HOOKPOINT: values}, tokens=tokens.astype(np.int64),
        dtype="float16", context_size=CONTEXT,
    )  # fmt: skip
    synthetic_dictionary(lake, NAME, store, activation=TopK(k=K), d_sae=size.d_sae)


def prepare(lake: Lake, size: Size, device: str, scratch: Path) -> Setup:
    """Return the contenders."""
    store = ActivationStore.open(lake, "rows")
    every = AnalyzeSettings(dictionary=NAME, logits=None)
    folded = dictionaries.load(lake, NAME).in_raw_units().eval().to(device)
    scope = survey(store, every, scratch)

    def encoded() -> None:
        found = encode.firings(
            store, folded, scope, every, device=folded.encoder_bias().device, span=(0, size.rows)
        )
        for _ in found:
            pass

    def whole(settings: AnalyzeSettings) -> tuple[float, float]:
        ref = Ref("features", f"{NAME}/{settings.name}")
        seconds = timed(partial(analyze.run, settings, lake, device=device))
        lake.artefact(ref).remove()
        return size.rows, seconds

    bare = AnalyzeSettings.model_validate({**BARE, "dictionary": NAME})
    release = f"saestore {saestore.__version__}, torch {torch.__version__}"
    return Setup(
        contenders=(
            Contender("encoding alone", lambda: (size.rows, timed(encoded)), release),
            Contender("analyze, all tables", partial(whole, every), release),
            Contender("analyze, firings and statistics", partial(whole, bare), release),
        ),
        goals=(Goal("analyze, all tables", "encoding alone", "time", "<=", 1.5),),
        unit="row",
        sizes={
            "shapes": f"{size.width} -> {size.d_sae}, k {K}, float32; {size.rows:,} rows of float16 "
            f"in contexts of {CONTEXT}",
            "device": f"{device}, {torch.get_num_threads()} threads",
        },
        notes=(Note("on disk", partial(sizes, lake, every)),),
        rounds=3,
    )


def sizes(lake: Lake, settings: AnalyzeSettings) -> str:
    """Return how many bytes a firing takes in each order, and the rest of the tables, in words."""
    ref = analyze.run(settings, lake)
    there, firings = lake.artefact(ref).sizes(), lake.manifest(ref).counts["firings"]
    of = {
        order: sum(size for path, size in there.items() if path.startswith(f"firings_by_{order}/"))
        for order in ("feature", "context")
    }
    rest = sum(there.values()) - sum(of.values())
    lake.artefact(ref).remove()
    each = ", ".join(
        f"{size / firings:.2f} bytes a firing by {order}" for order, size in of.items()
    )
    return f"{each}; {rest / 1e6:.1f} MB of other tables"


BENCH = Analyze()
