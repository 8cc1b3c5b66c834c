"""SAEDashboard's batches: what its runner writes and Neuronpedia's converter reads.

    batch-{n}.json          the dashboards of some features, n from 0
    skipped_indexes.json    features without dashboards: those that never fire
    run_settings.json       what was run, by the names of its runner's settings
    tokens_{contexts}.pt    all contexts, a plain tensor

The features of each layer of a cross-layer transcoder have a folder of their own, `<layer>-<set>/`, and
numbers from 0 in it, as its runner would have been run for each.

Format as of sae-dashboard 0.8.0. Its runner cuts every context's first token; here a BOS is cut, and a
context that begins with text keeps its first token.
"""

import io
import json
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from typing_extensions import override

from saestore.exchange.features.dashboards import DECIMALS, Dashboard, Dashboards, Shown
from saestore.exchange.features.format import FeatureFormat, all_tokens
from saestore.exchange.features.sources import Identity, sources
from saestore.features import Analysis
from saestore.lake import Storage
from saestore.progress import Progress, Task
from saestore_schemas.dashboards import SaeDashboardSettings


class SaeDashboard(FeatureFormat):
    """Writes SAEDashboard's batches.

    Attributes:
        settings: Names, and what stands in the files.
    """

    name = "saedashboard"

    def __init__(self, settings: SaeDashboardSettings | None = None) -> None:
        self.settings = settings or SaeDashboardSettings()

    @override
    def write(self, analysis: Analysis, target: Storage, progress: Progress) -> None:
        """Write the batches.

        Raises:
            ConfigError: Nobody says which of several hookpoints, or the analysis has no subsample of
                kind `top`.
            HookpointNotFoundError: The features do not write to the hookpoint that is named.
        """
        found = [
            Dashboards(analysis, self.settings, source)
            for source in sources(analysis, self.settings)
        ]
        for what in found[0].missing():
            progress.note(f"without {what}")
        fires = analysis.lazy("features").select("n_firings").collect()["n_firings"].to_numpy() > 0
        total = sum(int(fires[own(each)].sum()) for each in found)
        with progress.task("export", total=total, unit="features") as task:
            for each in found:
                folder = f"{each.source.identity.source}/" if len(found) > 1 else ""
                self._write(each, fires[own(each)], target, folder, task)
        contexts = analysis.manifest.counts["contexts"]
        tokens = all_tokens(analysis, fill=self.settings.fill)
        target.write(f"tokens_{contexts}.pt", _tensor(tokens))

    def _write(
        self,
        dashboards: Dashboards,
        fires: Bool[np.ndarray, " feature"],
        target: Storage,
        folder: str,
        task: Task,
    ) -> None:
        """Write the batches of one source.

        Args:
            dashboards: Its features.
            fires: Which of them fire.
            target: Where.
            folder: In which folder there, with a slash at its end if it has one.
            task: Where features written are reported.
        """
        analysis, identity = dashboards.analysis, dashboards.source.identity
        head = {
            "model_id": identity.model,
            "layer": identity.layer,
            "sae_set": identity.set_name,
            "sae_id_suffix": identity.suffix,
        }
        whole = {
            "n_prompts_total": analysis.manifest.counts["contexts"],
            "n_tokens_in_prompt": analysis.manifest.facts["context_size"],
            "dataset": identity.dataset,
        }
        live, size = np.flatnonzero(fires), self.settings.file_features
        live += dashboards.source.features.start
        for number, start in enumerate(range(0, len(live), size)):
            made = dashboards.made(live[start : start + size].tolist())
            features = [_feature(each, whole) for each in made]
            _write(target, f"{folder}batch-{number}.json", {**head, "features": features})
            task.advance(len(features))
        skipped = {
            "model_id": identity.model,
            "layer": str(identity.layer),
            "sae_set": identity.set_name,
            # log10 of the least density that can be seen: below it lies what never fires
            "log_sparsity": round(-float(np.log10(analysis.manifest.counts["rows"])), DECIMALS),
            "skipped_indexes": np.flatnonzero(~fires).tolist(),
        }
        _write(target, f"{folder}skipped_indexes.json", skipped)
        _write(target, f"{folder}run_settings.json", _run(analysis, identity, dashboards))


def own(dashboards: Dashboards) -> slice:
    """Return where a source's features are among those of the analysis."""
    features = dashboards.source.features
    return slice(features.start, features.stop)


def _feature(dashboard: Dashboard, whole: dict[str, Any]) -> dict[str, Any]:
    return {
        "feature_index": dashboard.index,
        **dashboard.statistics,
        **whole,
        "activations": [_activation(each) for each in dashboard.examples],
        "vector": dashboard.vector,
    }


def _activation(shown: Shown) -> dict[str, Any]:
    return {
        "bin_min": shown.bin_min,
        "bin_max": shown.bin_max,
        "bin_contains": shown.bin_contains,
        "tokens": shown.tokens,
        "values": shown.values,
        "qualifying_token_index": shown.qualifying,
    }


def _run(analysis: Analysis, identity: Identity, dashboards: Dashboards) -> dict[str, Any]:
    """Return the settings of a run of its runner that would show the same."""
    known = analysis.settings.subsamples
    parts = {} if dashboards.interval is None else known[dashboards.interval].model_dump()
    return {
        "sae_set": identity.set_name,
        "sae_path": f"saestore:{analysis.settings.dictionary}",
        "outputs_dir": ".",
        "np_sae_id_suffix": identity.suffix,
        "np_set_name": identity.set_name,
        "huggingface_dataset_path": identity.dataset,
        "n_prompts_total": analysis.manifest.counts["contexts"],
        "n_tokens_in_prompt": analysis.manifest.facts["context_size"],
        "n_features_at_a_time": dashboards.settings.file_features,
        "n_quantiles": parts.get("q", 0),
        "top_acts_group_size": known[dashboards.top].n,
        "quantile_group_size": parts.get("n", 0),
        "model_id": identity.model,
        "layer": identity.layer,
    }


def _write(target: Storage, name: str, content: dict[str, Any]) -> None:
    target.write(name, (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _tensor(tokens: np.ndarray) -> bytes:
    held = io.BytesIO()
    torch.save(torch.from_numpy(tokens), held)
    return held.getvalue()
