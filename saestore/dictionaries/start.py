"""Starting weights: settings and moments in, a dictionary out.

Draws come from the stream SeedSequence([seed, "init"]), so that they share nothing with the order
of the rows. How a family starts stands in its own file.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries.base import Beginning, SparseDictionary
from saestore.dictionaries.families import FAMILIES
from saestore.dictionaries.host import Host
from saestore.dictionaries.scale import MomentsLike
from saestore_schemas.families import DictionarySettings
from saestore_schemas.train import InitSettings


def build(
    settings: DictionarySettings,
    *,
    widths: Mapping[str, int],
    moments: Mapping[str, MomentsLike],
    init: InitSettings,
    seed: int,
    excluded: tuple[str, ...] = ("special", "ignored"),
    sample: Mapping[str, Float[Tensor, "row _"]] | None = None,
    source: SparseDictionary | None = None,
    host: Host | None = None,
) -> SparseDictionary:
    """Return an untrained dictionary, float32 on the CPU; a pure function of its arguments.

    Args:
        settings: The family and its options.
        widths: Width of each hookpoint.
        moments: Moments of each hookpoint.
        init: How weights start.
        seed: Seed of the starting weights.
        excluded: Which rows the moments leave out, for the record.
        sample: Rows of each hookpoint in raw units; needed where `init.sampled` says so.
        source: The dictionary of `init.dictionary`.
        host: What of the language model a family starts from that can; at random without.

    Raises:
        ConfigError: A setting contradicts the widths or the moments.
        HookpointNotFoundError: A hookpoint has no width or moments.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, *b"init"]))
    beginning = Beginning(widths, moments, init, rng, excluded, sample, source, host)
    return FAMILIES[settings.family].begin(settings, beginning)
