"""Features of an analysis as one HTML file: a list to sort and search, and sections of those chosen.

One file, because a file can be sent, attached and kept: nothing beside it is needed, no server and no
network. The browser is told to fetch nothing and to run one script, this one, by its digest. Without
scripts the sections stand as they are; the list is then one of links.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa

from saestore.features import FeaturePage, Overview, Provenance
from saestore.numbers import count
from saestore.report import charts, feature_section, passages
from saestore.report.charts import number
from saestore.report.feature_section import Place
from saestore.report.html import script_json
from saestore.report.write import put, target_of
from saestore.words import alone, visible


KINDS = (".html",)

_COLUMNS: Mapping[str, str] = {
    "feature": "feature", "density": "density", "n_firings": "firings", "n_contexts": "contexts",
    "max": "largest", "mean": "mean", "q50": "median", "top_token": "top token",
    "top_token_share": "on it", "promotes": "promotes", "explanation": "stands for",
    "explanation_score": "score", "dec_norm": "decoder length",
}  # fmt: skip
"""Columns of the list and what they are called; those of explanations only where there are any."""


@dataclass(frozen=True)
class FeaturesReport:
    """What a file of features says.

    Attributes:
        name: The analysis, `series/name/analysis`.
        overview: What its features are like.
        lines: The features that are listed, columns as `feature_lines` has them.
        chosen: Features that have a section.
        provenance: What was analysed.
    """

    name: str
    overview: Overview
    lines: pa.Table
    chosen: Sequence[int]
    provenance: Provenance


def write_features(
    found: FeaturesReport, pages: Iterable[FeaturePage], path: str | os.PathLike[str]
) -> Path:
    """Write the file, whole or not at all; one that is there is replaced.

    Args:
        found: What it says.
        pages: The features that have a section, in the order of `chosen`.
        path: Where, ending in `.html`.

    Raises:
        ConfigError: The name ends in something else, or there is no such folder.
        StorageError: The disk is full, or the folder is read-only.
    """
    target = target_of(path, KINDS, field="--to")
    return put(features_html(found, pages).encode(), target)


def features_html(found: FeaturesReport, pages: Iterable[FeaturePage]) -> str:
    """Return the file's text, the same for the same features."""
    script = _resource("features.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    series, dictionary, analysis = found.name.split("/")
    origin = found.provenance
    sections = [
        feature_section.section(page, Place(found.chosen, at)) for at, page in enumerate(pages)
    ]
    reads = any(passages.READ in each for each in sections)
    below = any(passages.BELOW in each for each in sections)
    one = len(found.chosen) == 1
    words = f"Feature {found.chosen[0]} of" if one else "Features of"
    return Template(_resource("features.html")).substitute(
        title=escape(f"{words} {series}/{dictionary}"),
        digest=digest,
        style=passages.style() + _resource("features.css"),
        summary=(
            f"Analysis {escape(analysis)} of activations/{escape(origin.activations)}, "
            f"{escape(', '.join(origin.hookpoints))}: {number(origin.n_rows)} rows of "
            f"{number(origin.n_contexts)} contexts."
        ),
        overview=_overview(found.overview),
        list="" if found.lines.num_rows == 1 else _list(found),
        sections="\n".join(sections),
        reads=f"; {passages.READ}token</span> is read from at the peak" if reads else "",
        below=f'; {passages.BELOW}v60">blue</mark> is below zero' if below else "",
        foot=_foot(found.name, origin),
        script=script,
    )


def _overview(found: Overview) -> str:
    silent = number(found.n_silent)
    if found.n_silent and found.bound is not None:
        silent += f" <small>density below {number(found.bound)}, each at 95 %</small>"
    rate = found.n_firings / found.n_rows if found.n_rows else None
    shown = {
        "features": number(found.n_features),
        f"never fire on {count(found.n_rows)} rows": silent,
        "firings": number(found.n_firings),
        "firings a row (L0)": number(rate),
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{x}</dd></div>" for name, x in shown.items())
    return f'<dl class="figures">{cells}</dl>{charts.densities(found.densities)}'


def _list(found: FeaturesReport) -> str:
    head = "".join(
        f'<th scope="col"{"" if name in _TEXT else " class=n"}>'
        f'<button type="button" data-column="{name}">{title}</button></th>'
        for name, title in _COLUMNS.items()
        if name in found.lines.schema.names
    )
    links = " ".join(f'<a href="#feature-{each}">{each}</a>' for each in found.chosen)
    return Template(_resource("features_list.html")).substitute(
        head=head,
        links=links,
        data=script_json({"columns": columns(found.lines), "sections": list(found.chosen)}),
    )


_TEXT = ("top_token", "promotes", "explanation")
"""Columns that are no numbers."""


def columns(lines: pa.Table) -> dict[str, list[Any]]:
    """Return the columns of the list as JSON has them: numbers exact, tokens as they are shown.

    Of 32 bit numbers the shortest digits that mean them are kept.
    """
    found: dict[str, list[Any]] = {}
    for name in _COLUMNS:
        if name not in lines.schema.names:
            continue
        values: list[Any] = lines[name].to_pylist()
        if name == "top_token":
            values = [None if each is None else alone(each) for each in values]
        elif name == "promotes":
            values = [list(map(alone, each)) for each in values]
        elif name == "explanation":
            values = [None if each is None else visible(each) for each in values]
        elif pa.types.is_float32(lines[name].type):
            values = [None if each is None else float(str(np.float32(each))) for each in values]
        found[name] = values
    return found


def _foot(name: str, origin: Provenance) -> str:
    parents = "; ".join(f"{path} ({each[:16]})" for path, each in origin.parents.items())
    version = f" by saestore {origin.version}" if origin.version else ""
    return escape(
        f"features/{name}, fingerprint {origin.fingerprint[:16]}, written {origin.created}{version}; "
        f"made from {parents}. Every number is one of its tables."
    )


def _resource(name: str) -> str:
    return resources.files("saestore.report").joinpath(name).read_text("utf-8")
