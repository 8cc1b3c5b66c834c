"""What writes an analysis for another tool, and what stands around it: an index, written last."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from saestore.errors import ConfigError
from saestore.exchange import place
from saestore.features import Analysis
from saestore.lake import Ref, Storage
from saestore.lake.manifest import library_versions
from saestore.progress import Progress, Silent


@dataclass(frozen=True)
class FeaturesExport:
    """An analysis written for another tool.

    Attributes:
        format: Which tool's files.
        analysis: The analysis.
        folder: Where.
        files: How many files the tool reads.
        bytes: Their size.
        features: Features that fire.
        firings: Their firings.
    """

    format: str
    analysis: str
    folder: Path
    files: int
    bytes: int
    features: int
    firings: int


@runtime_checkable
class FeatureFormat(Protocol):
    """Writes analyses as one tool reads them."""

    name: str

    def write(self, analysis: Analysis, target: Storage, progress: Progress) -> None:
        """Write everything the tool reads.

        Args:
            analysis: What is written.
            target: An empty folder.
            progress: Where to report.
        """
        ...


def export_features(
    form: FeatureFormat,
    analysis: Analysis,
    folder: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> FeaturesExport:
    """Write an analysis for another tool; return how much that was.

    Args:
        form: As which tool reads it.
        analysis: The analysis.
        folder: Where; made if it is not there. An earlier export in it is replaced.
        progress: Where to report.

    Raises:
        ConfigError: The folder holds other things, or the format cannot hold the analysis.
        UnsupportedError: The analysis keeps no firings.
        OverflowRowError: A value does not fit the format's type.
        DamagedArtefactError: A table is damaged.
        StorageError: The disk is full or read-only.
    """
    analysis.need_firings(f"an export for {form.name}")
    target = place.cleared(Path(folder))
    form.write(analysis, target, progress or Silent())
    sizes = {path: size for path, size in target.sizes().items() if path != place.UNFINISHED}
    index = {
        "format": "saestore.export",
        "format_version": 1,
        "files_are": form.name,
        "saestore": library_versions().get("saestore", "unknown"),
        "analysis": analysis.ref.name,
        "fingerprint": analysis.manifest.fingerprint,
        "files": sizes,
    }
    target.write(place.INDEX, (json.dumps(index, indent=1) + "\n").encode())
    target.remove(place.UNFINISHED)
    counts = analysis.manifest.counts
    return FeaturesExport(
        format=form.name,
        analysis=analysis.ref.name,
        folder=Path(folder),
        files=len(sizes),
        bytes=sum(sizes.values()),
        features=counts["features"] - counts["dead"],
        firings=counts["firings"],
    )


def one_hookpoint(analysis: Analysis, *, there: str) -> str:
    """Return the hookpoint that the features read.

    Args:
        analysis: The analysis.
        there: Why there must be one.

    Raises:
        ConfigError: There are several.
    """
    known = analysis.manifest.facts["hookpoints"]
    names = [str(each) for each in known] if isinstance(known, list) else []
    if len(names) == 1:
        return names[0]
    raise ConfigError(
        field="analysis",
        found=f"{analysis.ref.name}, whose features read {', '.join(names)}",
        expected=f"features of one hookpoint: {there}",
        hint="export an SAE, a transcoder, a Lorsa or a MOLT",
    )


def language_model(analysis: Analysis) -> str:
    """Return the language model behind the store, as the lake names it; empty if it does not know."""
    for parent in analysis.manifest.parents:
        ref = Ref(parent.kind, parent.name)
        if parent.kind == "activations" and ref in analysis.lake.refs("activations"):
            settings = analysis.lake.manifest(ref).settings
            lm = settings.get("lm")
            if isinstance(lm, dict):
                return str(lm.get("model", ""))
    return ""


def all_tokens(analysis: Analysis, *, fill: int) -> Int64[np.ndarray, "context position"]:
    """Return all contexts, as long as the longest may be.

    Args:
        analysis: The analysis.
        fill: Token with which shorter ones are filled up.
    """
    ids = analysis.lazy("contexts").select("token_ids").collect()["token_ids"]
    lengths = ids.list.len().to_numpy()
    size = int(str(analysis.manifest.facts["context_size"]))
    tokens = np.full((len(ids), size), fill, np.int64)
    tokens[np.arange(size) < lengths[:, None]] = ids.explode().to_numpy()
    return tokens
