"""What an untrained dictionary is made of, beside its settings: a sample of its rows, or another one."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saestore import dictionaries
from saestore.dictionaries import Host, SparseDictionary
from saestore.lake import Lake, Ref, manifest as manifests
from saestore.train.rows import TrainingRows
from saestore_schemas.manifest import Parent
from saestore_schemas.train import TrainSettings


FindHost = Callable[[TrainSettings], Host]
"""Returns what a run replaces of the language model that its store is of, as `init.from_host` names it."""


def source(settings: TrainSettings, lake: Lake) -> SparseDictionary | None:
    """Return the dictionary that weights are taken from; None if they are drawn.

    Raises:
        ArtefactNotFoundError: There is none of that name.
        DamagedArtefactError: Its files are not what its manifest says.
    """
    named = settings.init.dictionary
    return None if named is None else dictionaries.load(lake, named)


def host(settings: TrainSettings, find: FindHost | None) -> Host | None:
    """Return what of the language model weights are taken from; None if they are not.

    Raises:
        ConfigError: Nobody has the model at hand, or the store does not say which it is.
        UnsupportedError: It has none between the hookpoints.
    """
    if settings.init.from_host is None or find is None:
        return None
    return find(settings)


def parents(settings: TrainSettings, rows: TrainingRows, lake: Lake) -> list[Parent]:
    """Return what a run is made from: its stores, and the dictionary it starts from.

    Raises:
        ArtefactNotFoundError: There is no dictionary of that name.
    """
    named = settings.init.dictionary
    if named is None:
        return rows.parents
    return [*rows.parents, manifests.parent_of(lake.manifest(Ref("dictionary", named)))]


def sample(
    settings: TrainSettings, rows: TrainingRows, hookpoints: Sequence[str], d_sae: int
) -> Mapping[str, Float[Tensor, "row _"]] | None:
    """Return training rows in raw units, if starting weights are measured; training sees them again.

    Args:
        settings: Of the run.
        rows: Its rows.
        hookpoints: What is sampled.
        d_sae: Features: as many different rows at least, where each starts from one.
    """
    init = settings.init
    if not init.sampled:
        return None
    wanted = max(init.sample_rows, 2 * d_sae if init.data_points else 0)
    # A stream of its own, so that the order of training does not know of it.
    seed = int(np.random.SeedSequence([settings.seed.init, *b"sample"]).generate_state(1)[0])
    return rows.sample(hookpoints, wanted, seed=seed)
