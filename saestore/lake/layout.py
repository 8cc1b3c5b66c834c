"""Where everything lies in a lake. No other file spells a directory or file name.

    <lake>/activations/<name>/
    <lake>/dictionaries/<series>/<name>/
    <lake>/features/<series>/<name>/<analysis>/
    <lake>/features/<series>/<name>/<analysis>/interpretations/<run>/
    <lake>/evaluations/<series>/<name>/<evaluation>/
    <lake>/sweeps/<name>/

All paths use forward slashes and are relative: to the lake for artefacts, to the artefact for what
is inside it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from typing_extensions import override

from saestore_schemas.names import ArtefactKind


FOLDERS: dict[ArtefactKind, str] = {
    "activations": "activations",
    "dictionary": "dictionaries",
    "features": "features",
    "evaluation": "evaluations",
    "sweep": "sweeps",
    "interpretation": "features",
}
"""Top folder of each kind of artefact."""

INTERPRETATIONS = "interpretations"
"""Beside the tables of an analysis: what was found out about its features, a folder of each run."""

DEPTH: dict[ArtefactKind, int] = {
    "activations": 1,
    "dictionary": 2,
    "features": 3,
    "evaluation": 3,
    "sweep": 1,
    "interpretation": 4,
}
"""Segments in an artefact's name: features and evaluations are `series/name/analysis`, interpretations
`series/name/analysis/run`."""

MANIFEST = "manifest.json"
FILES = "files.parquet"
PROGRESS = ".progress"
"""What an unfinished run leaves: lock, settings, commits. Gone when the manifest is there."""
LOCK = f"{PROGRESS}/lock.json"
RUN = f"{PROGRESS}/run.json"
"""Settings and fingerprint of the unfinished run."""
PARTS = f"{PROGRESS}/parts"
"""What several processes make side by side, each in a folder of its own, until it is merged."""

# activations
HOOKS = "hooks"
TOKENS = "tokens"
FLAGS = "flags"
ORDER = "order"
"""Of a scattered copy: which row of the original each row is."""
FINAL_NORM_SCALE = "final_norm_scale"
"""By what the model's final norm divides each row, if that was captured."""
CONTEXTS = "contexts"
SEGMENTS = "segments"
MOMENTS = "moments"
DEVIATIONS = "deviations"
"""int8 stores: the standard deviations by which each hookpoint's dimensions are divided."""
DOCUMENTS = "documents"
VOCABULARY = "vocabulary.parquet"
COMMITS = f"{PROGRESS}/commits"
INPUTS = f"{PROGRESS}/inputs.json"
"""Fingerprints of the corpus and model that an unfinished run reads."""
DEVIATIONS_SO_FAR = f"{PROGRESS}/deviations.json"
"""The same, of an unfinished store: written before its first shard."""

# dictionaries
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
METRICS = "metrics.parquet"
TIMINGS = "timings.parquet"
"""Rates and memory of a training run: what no rerun repeats."""
CHECKPOINTS = "checkpoints"
CHECKPOINT_STATE = "state.json"
"""In a checkpoint: its run's fingerprint, checksums of its files, plain values of its state."""

# features
ANNOTATIONS = "annotations"
"""What people say about an analysis's features: a log beside its tables, with manifests of its own."""
ANNOTATION_LOG = f"{ANNOTATIONS}/{MANIFEST}"

_BATCH = re.compile(r"[0-9A-Z]{26}\.json")

# evaluations
SCORES = "scores.parquet"

# sweeps
RESULTS = "results.parquet"
FEATURE_SCORES = "features.parquet"


def hook_array(hookpoint: str) -> str:
    """Return the array of one hookpoint, its name percent-encoded where it must be."""
    return f"{HOOKS}/{quote(hookpoint, safe='._-')}"


def scale_array(hookpoint: str) -> str:
    """Return the array of an int8 hookpoint's scales, one per row."""
    return f"{hook_array(hookpoint)}.scale"


def deviation_array(hookpoint: str) -> str:
    """Return the array of an int8 hookpoint's standard deviations, one per dimension."""
    return hook_array(hookpoint).replace(HOOKS, DEVIATIONS, 1)


def hookpoint_of(segment: str) -> str:
    """Return the hookpoint that a path segment under `hooks/` stands for."""
    return unquote(segment)


def shard_file(array: str, shard: int, *, ndim: int) -> str:
    """Return the file of one shard: Zarr v3 default keys with separator '.'."""
    return f"{array}/c.{shard}" + ".0" * (ndim - 1)


def lock_after(token: str) -> str:
    """Return the object by which a remote lock passes from a dead owner to the next."""
    return f"{PROGRESS}/lock-{token}.json"


def commit_file(shard: int) -> str:
    """Return the commit of one shard of an unfinished activation store."""
    return f"{COMMITS}/{shard:08d}.json"


def table_folder(table: str) -> str:
    """Return the folder of one feature table."""
    return table


def part_file(table: str, part: int) -> str:
    """Return one Parquet file of a table that is written in parts."""
    return f"{table}/part-{part:05d}.parquet"


def part_number(path: str) -> int:
    """Return which part a file of a table written in parts is."""
    return int(path.rpartition("part-")[2].removesuffix(".parquet"))


def annotation_file(batch: str) -> str:
    """Return one Parquet file of the annotation log."""
    return f"{ANNOTATIONS}/{batch}.parquet"


def annotation_manifest(batch: str) -> str:
    """Return the manifest of that file, which is written after it."""
    return f"{ANNOTATIONS}/{batch}.json"


def annotation_batches(names: Iterable[str]) -> list[str]:
    """Return which batches there are, of the names in the log's folder."""
    return sorted(name.removesuffix(".json") for name in names if _BATCH.fullmatch(name))


def checkpoint_folder(step: int) -> str:
    """Return the folder of one training checkpoint."""
    return f"{CHECKPOINTS}/{step:09d}"


def checkpoint_step(folder: str) -> int:
    """Return the step of a checkpoint's folder."""
    return int(folder.rpartition("/")[2])


CASSETTE = "cassette.jsonl"
"""Every request of a run of `interpret` with its answer, one JSON object a line."""
SELECTION = "selection.parquet"
"""Which features it is about."""
SELECTION_SO_FAR = f"{PROGRESS}/{SELECTION}"
"""The same, of an unfinished run: chosen once, when it begins."""


def inside(kind: ArtefactKind, name: str) -> str:
    """Return the folder of what has a name, or only its first segments; "" stands for all.

    The last segment of an interpretation lies in a folder of the analysis's.
    """
    parts = [FOLDERS[kind], *(name.split("/") if name else [])]
    if kind == "interpretation" and len(parts) >= DEPTH[kind]:
        parts.insert(DEPTH[kind], INTERPRETATIONS)
    return "/".join(parts)


@dataclass(frozen=True)
class Ref:
    """An artefact's kind and name."""

    kind: ArtefactKind
    name: str

    @property
    def path(self) -> str:
        """The artefact's folder, relative to the lake."""
        return inside(self.kind, self.name)

    @override
    def __str__(self) -> str:
        """Return the path, which is unambiguous."""
        return self.path
