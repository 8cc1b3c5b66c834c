"""A finished evaluation: its scores and the facts they were measured under."""

from dataclasses import dataclass

import pyarrow as pa

from saestore.errors import ArtefactNotFoundError
from saestore.lake import Lake, Ref, layout, manifest as manifests, table_file
from saestore_schemas.manifest import Manifest


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one dictionary.

    Attributes:
        ref: Where it lies in the lake.
        manifest: Its manifest; `facts` say which rows, positions and types it was measured on.
        table: The scores, as `saestore_schemas.tables.SCORES`.
        features: One line per feature, as `saestore_schemas.tables.FEATURE_SCORES`.
    """

    ref: Ref
    manifest: Manifest
    table: pa.Table
    features: pa.Table

    @classmethod
    def open(cls, lake: Lake, name: str) -> "Evaluation":
        """Return the evaluation `series/name/evaluation`; without the last part, the only one.

        Raises:
            ArtefactNotFoundError: There is none of that name, or several and none was chosen.
            DamagedArtefactError: Its file does not match the manifest.
        """
        ref = _ref(lake, name)
        manifest = lake.manifest(ref)
        artefact = lake.artefact(ref)
        files = (layout.SCORES, layout.FEATURE_SCORES)
        manifests.check_sizes(artefact, manifest, files)
        return cls(ref, manifest, *(table_file.from_bytes(artefact.read(file)) for file in files))

    @property
    def values(self) -> dict[str, float | None]:
        """Metric name to value, None where undefined, in the table's order."""
        columns = self.table.to_pydict()
        return dict(zip(columns["metric"], columns["value"], strict=True))


def _ref(lake: Lake, name: str) -> Ref:
    if name.count("/") == layout.DEPTH["evaluation"] - 1:
        return Ref("evaluation", name)
    there = [ref for ref in lake.refs("evaluation") if ref.name.startswith(f"{name}/")]
    if len(there) == 1:
        return there[0]
    raise ArtefactNotFoundError(
        kind="evaluation",
        name=name,
        looked=lake.storage.url,
        known=tuple(ref.name for ref in lake.refs("evaluation")),
        hint=f"say which: {', '.join(ref.name for ref in there)}" if there else "",
    )
