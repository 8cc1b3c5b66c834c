"""Settings of `saestore shuffle`: a scattered copy of an activation store."""

from pydantic import Field

from saestore_schemas.base import Model
from saestore_schemas.names import ArtefactName


class ScatterSettings(Model):
    """One scattered copy: which store, and how its rows are permuted."""

    name: ArtefactName
    """Name of the copy."""
    store: ArtefactName
    """The store whose rows it holds."""
    seed: int = Field(default=0, ge=0)
    """Draws the permutation of each shard."""
