"""What features stand for, for SQL: views over the runs of `interpret`, with `run` among their keys."""

from collections.abc import Iterable, Iterator

from saestore.errors import ArtefactNotFoundError, IncompleteArtefactError
from saestore.features import views
from saestore.features.interpretations import refs_of
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore_schemas.interpretation_tables import TABLES
from saestore_schemas.table import Table


def interpretation_views(
    lake: Lake, analyses: Iterable[Ref], question: str | None
) -> dict[str, str]:
    """Return the SQL of the views over the runs about some analyses.

    Args:
        lake: The lake.
        analyses: Which.
        question: The SQL that is asked: the views that it does not name are empty, so that no damage to
            what is not asked for stands in the way. None, if it is not known.

    Raises:
        DamagedArtefactError: A table is missing or cut, or a manifest is not one.
        FormatVersionError: Another major version wrote a run.
    """
    named = views.named_in(question)
    wanted = {table.name for table in TABLES if named is None or table.name in named}
    runs = [run for ref in analyses for run in refs_of(lake, ref)] if wanted else []
    return {
        table.name: views.union(
            table.name,
            [arm for run in runs for arm in _arms(lake, run, table)]
            if table.name in wanted
            else [],
        )
        for table in TABLES
    }


def _arms(lake: Lake, run: Ref, table: Table) -> Iterator[str]:
    """Yield the SQL that reads one table of a run, if it has that."""
    artefact = lake.artefact(run)
    try:
        manifest = lake.manifest(run)
    except (ArtefactNotFoundError, IncompleteArtefactError):  # removed since it was listed
        return
    if table.name not in manifest.arrays:
        return
    path = layout.part_file(table.name, 0)
    listed = manifests.payload(artefact, manifest).get(path)
    manifests.check_size(artefact, run.name, path, listed)
    parts = zip(views.RUN_KEYS, run.name.split("/"), strict=True)
    keys = ", ".join(f"{views.literal(value)} AS {name}" for name, value in parts)
    file = views.literal(f"{views.folder_of(lake, run)}/{path}")
    yield f"SELECT {keys}, * FROM read_parquet({file})"
