"""delphi's latent cache: what its explainers and scorers read instead of running a model.

    latents/<hookpoint>/config.json
                        {first}_{last}.safetensors      features first to last, last included
        locations    [firing, 3]   sequence, position, feature - first; uint16 where that is enough
        activations  [firing]      float16
        tokens       [sequence, position]   int64, the same in every file
    explanations/<hookpoint>_latent<feature>.txt
                        the best explanation that runs of `interpret` found, as JSON; what delphi scores

A sequence is a context. Contexts end at different lengths here and must not there, so shorter ones are
filled up with a token; rows that were left out of the analysis fire nowhere. A feature file of a range in
which nothing fires would end its reader, so there is none.

Format as of eai-delphi 0.1.3. It tests features and sequences for uint16 and not positions; a value above
65504 becomes infinite there and is refused here.
"""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
from safetensors.numpy import save
from typing_extensions import override

from saestore.errors import ConfigError, OverflowRowError
from saestore.exchange.features.format import (
    FeatureFormat,
    all_tokens,
    language_model,
    one_hookpoint,
)
from saestore.features import Analysis
from saestore.features.explained import Explained
from saestore.lake import Storage
from saestore.progress import Progress


LARGEST = 65504.0
"""Largest finite float16."""
SMALLEST = 2.0**-24
"""Smallest positive float16: what would become zero becomes this, so that no firing is lost."""


class Delphi(FeatureFormat):
    """Writes delphi's cache.

    Attributes:
        files: Ranges of features, one file each.
        fill: Token with which shorter contexts are filled up.
    """

    name = "delphi"

    def __init__(self, *, files: int = 5, fill: int = 0) -> None:
        self.files = files
        self.fill = fill

    @override
    def write(self, analysis: Analysis, target: Storage, progress: Progress) -> None:
        """Write the cache.

        Raises:
            ConfigError: The analysis has no firing, or is of several hookpoints.
            OverflowRowError: A value does not fit float16.
        """
        facts, counts = analysis.manifest.facts, analysis.manifest.counts
        hookpoint = one_hookpoint(
            analysis, there="delphi keeps each hookpoint in a folder of its own"
        )
        if not counts["firings"]:
            raise ConfigError(
                field="analysis",
                found=f"{analysis.ref.name}, in which no feature fires",
                expected="an analysis with firings",
                hint="analyze more rows, or another dictionary",
            )
        folder = f"latents/{hookpoint}"
        tokens = all_tokens(analysis, fill=self.fill)
        bounds = np.linspace(0, counts["features"], self.files + 1).astype(np.int64).tolist()
        with progress.task("export", total=counts["firings"], unit="firings") as task:
            for first, stop in pairwise(bounds):
                found = analysis.rows("firings_by_feature", range(first, stop))
                if found.num_rows:
                    data = save({**_columns(found, first), "tokens": tokens})
                    target.write(f"{folder}/{first}_{stop - 1}.safetensors", data)
                task.advance(found.num_rows)
        config = {
            "dataset_repo": f"saestore:{facts['activations']}",
            "dataset_split": "",
            "dataset_name": "",
            "dataset_column": "text",
            "batch_size": 1,
            "cache_ctx_len": tokens.shape[1],
            "n_tokens": int(tokens.size),
            "n_splits": self.files,
            "model_name": language_model(analysis),
        }
        target.write(f"{folder}/config.json", (json.dumps(config, indent=4) + "\n").encode())
        explained = Explained.of(analysis.interpretations, analysis.n_features)
        for feature, text in explained.texts.items():
            said = json.dumps(text, ensure_ascii=False).encode()
            target.write(f"explanations/{hookpoint}_latent{feature}.txt", said)


def _columns(found: pa.Table, first: int) -> dict[str, np.ndarray]:
    """Return locations and activations.

    Raises:
        OverflowRowError: A value does not fit float16.
    """
    context, position, feature, value = (
        found[name].combine_chunks().to_numpy()
        for name in ("context", "position", "feature", "value")
    )
    if float(value.max()) > LARGEST:
        raise OverflowRowError(
            "delphi holds activations as float16",
            found=f"{float(value.max()):g}, of feature {int(feature[value.argmax()])}",
            expected=f"at most {LARGEST:g}",
            hint="fold the dictionary's scale, or export only other features",
        )
    places = np.stack([context, position, feature - np.uint32(first)], axis=1)
    small = places.max() < 1 << 16
    activations = np.maximum(value, np.float32(SMALLEST)).astype(np.float16)
    return {
        "locations": places.astype(np.uint16 if small else np.uint32),
        "activations": activations,
    }
