"""Kill an analysis at random moments; it must end with the bytes of one quiet run.

    python tests/faults/kill_analyze.py --kills 100
    python tests/faults/kill_analyze.py --kills 100 --firings none

Rows are encoded in many small pieces, so that kills fall into encoding as well as into the tables.
"""

import argparse
import json
import sys

from saestore import analyze
from saestore.analyze import encode, pieces, tallies
from saestore.lake import Lake, Ref, layout
from saestore.testing.analyses import DICTIONARY, plant, planted_analysis
from saestore.testing.killing import killed
from saestore_schemas.analyze import (
    AnalyzeSettings,
    NearSubsample,
    SameTokenSubsample,
    TopSubsample,
)


HARD = {"near": NearSubsample(), "same_token": SameTokenSubsample(), "top": TopSubsample()}
WANTED = {
    firings: AnalyzeSettings.model_validate(
        {"dictionary": DICTIONARY, "logits": None, "name": "killed", "firings": firings, **more}
    )
    for firings, more in (("both", {"subsamples": HARD}), ("none", {}))
}
FIRST = WANTED["both"].model_copy(update={"name": "first", "rows": 1})
REF = Ref("features", f"{DICTIONARY}/killed")


def begun(lake: Lake) -> bool:
    """Return whether some rows are encoded, and the analysis is not there."""
    artefact = lake.artefact(REF)
    encoded = artefact.names(pieces.FOLDER) or artefact.names(tallies.FOLDER)
    return bool(encoded) and not artefact.exists(layout.MANIFEST)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--firings", choices=WANTED, default="both")
    wanted = parser.parse_args()
    encode.block_rows = lambda _: 16
    tallies.SECONDS = 0
    found = killed(
        lambda lake: analyze.run(WANTED[wanted.firings], lake, device="cpu"), REF,
        fill=lambda lake: planted_analysis(lake, planted=plant(contexts=150), settings=FIRST),
        begun=begun, kills=wanted.kills, seed=wanted.seed,
    )  # fmt: skip
    print(json.dumps(vars(found)))  # noqa: T201 - what a script is run for
    return 1 if found.differing else 0


if __name__ == "__main__":
    sys.exit(main())
