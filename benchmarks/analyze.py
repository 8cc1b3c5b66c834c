"""An analysis with all its tables, beside encoding alone and beside its smaller half.

Encoding alone is the same loop over the same store with the firings thrown away. Logit attribution is left
out: it costs what the vocabulary does, whatever the rows. Every analysis is removed when it is done, for
the next would take over its firings.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import saestore
from benchmarks.analyze_data import NAME, Size, filled
from benchmarks.harness import Contender, Goal, Note, Options, Setup, timed
from saestore import analyze, dictionaries
from saestore.analyze import encode
from saestore.analyze.pieces import Encoded
from saestore.analyze.survey import survey
from saestore.lake import Lake, Ref
from saestore_schemas.analyze import AnalyzeSettings


EVERY = AnalyzeSettings(dictionary=NAME, logits=None)
BARE = AnalyzeSettings.model_validate(
    {
        "dictionary": NAME, "subsamples": {}, "token_stats": None, "coactivation": None,
        "neighbours": None, "logits": None,
    }
)  # fmt: skip
"""Without what can be left out: firings, statistics and histograms."""
WHOLE, QUICK = Size(1 << 17, 512, 8192, 32), Size(1 << 12, 64, 512, 32)
RELEASE = f"saestore {saestore.__version__}, torch {torch.__version__}"


class Analyze:
    """The benchmark."""

    name = "analyze"
    doc = f"an analysis with all tables against encoding alone, {WHOLE.shapes}"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Write store and dictionary; they are gone afterwards."""
        if options.threads:
            torch.set_num_threads(options.threads)
        size = QUICK if options.quick else WHOLE
        with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place:
            own = Analyses(Path(place), size, options.device)
            yield Setup(
                contenders=(
                    Contender("encoding alone", own.encoding, RELEASE),
                    Contender("analyze, all tables", lambda: own.whole(EVERY), RELEASE),
                    Contender("analyze, firings and statistics", lambda: own.whole(BARE), RELEASE),
                ),
                goals=(Goal("analyze, all tables", "encoding alone", "time", "<=", 1.5),),
                unit="row",
                sizes={
                    "shapes": size.text,
                    "device": f"{options.device}, {torch.get_num_threads()} threads",
                },
                notes=(Note("on disk", lambda: own.written),),
                rounds=2,
            )


class Analyses:
    """Analyses of a planted store, made, timed and removed.

    Attributes:
        size: How large everything is.
        lake: Where they are made.
        store: The rows.
        written: Bytes of the last one with all tables, in words.
    """

    def __init__(self, folder: Path, size: Size, device: str) -> None:
        """Write store and dictionary.

        Args:
            folder: Where.
            size: How large everything is.
            device: Torch device.
        """
        self.size, self.lake = size, Lake.at(folder / "lake")
        self.written = ""
        self._device = device
        self.store = filled(self.lake, size)
        self._folded = dictionaries.load(self.lake, NAME).in_raw_units().eval().to(device)
        self._scope = survey(self.store, EVERY, folder / "scope")

    def encoding(self) -> tuple[float, float]:
        """Encode all rows and throw the firings away; return rows and seconds."""
        return self.size.rows, timed(self._encode)

    def whole(self, settings: AnalyzeSettings) -> tuple[float, float]:
        """Make an analysis; return rows and seconds."""
        seconds = timed(lambda: analyze.run(settings, self.lake, device=self._device))
        ref = Ref("features", f"{NAME}/{settings.name}")
        if settings == EVERY:
            self.written = _sizes(self.lake, ref)
        self.lake.artefact(ref).remove()
        return self.size.rows, seconds

    def after_encoding(self, settings: AnalyzeSettings) -> tuple[float, float]:
        """Make an analysis; return rows, and the seconds in which it did not encode."""
        with _encoding_timed() as encoding:
            rows, seconds = self.whole(settings)
        return rows, seconds - sum(encoding)

    def counts(self, rows: int) -> np.ndarray:
        """Return the firings of each feature on the first rows."""
        found = np.zeros(self.size.d_sae, np.int64)
        for each in self._encoded(rows):
            found += np.bincount(each.firings.feature, minlength=len(found))
        return found

    def _encode(self) -> None:
        for _ in self._encoded(self.size.rows):
            pass

    def _encoded(self, rows: int) -> Iterator[Encoded]:
        device = self._folded.encoder_bias().device
        return encode.firings(
            self.store, self._folded, self._scope, EVERY, device=device, span=(0, rows)
        )


@contextmanager
def _encoding_timed() -> Iterator[list[float]]:
    """Collect the seconds that analyses wait for each block of encoded rows."""
    spent: list[float] = []
    firings = encode.firings

    def timing(*given: Any, **more: Any) -> Iterator[Encoded]:
        found = firings(*given, **more)
        while True:
            began = time.perf_counter()
            each = next(found, None)
            spent.append(time.perf_counter() - began)
            if each is None:
                return
            yield each

    with mock.patch.object(encode, "firings", timing):
        yield spent


def _sizes(lake: Lake, ref: Ref) -> str:
    """Return how many bytes a firing takes in each order, and the rest of the tables, in words."""
    there, firings = lake.artefact(ref).sizes(), lake.manifest(ref).counts["firings"]
    of = {
        order: sum(size for path, size in there.items() if path.startswith(f"firings_by_{order}/"))
        for order in ("feature", "context")
    }
    rest = sum(there.values()) - sum(of.values())
    each = ", ".join(
        f"{size / firings:.2f} bytes a firing by {order}" for order, size in of.items()
    )
    return f"{each}; {rest / 1e6:.1f} MB of other tables"


BENCH = Analyze()
