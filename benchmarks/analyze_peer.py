"""Llamascopium's analyzer in a process of its own: `python -m benchmarks.analyze_peer`, see `process`.

It is given a dictionary and rows, and runs its own `FeatureAnalyzer` over batches that are in memory: what
is timed is its loop, with encoding apart, without reading and without what it does to samples afterwards.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from llamascopium.analysis.feature_analyzer import FeatureAnalyzer, FeatureAnalyzerConfig
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder

from benchmarks.process import serve


HOOK = "rows"


class _Ended(Exception):  # noqa: N818 - how the loop is left
    """Its loop has come to its end."""


class Served:
    """What the process does when asked."""

    def load(self, path: str, k: int, context: int) -> dict[str, Any]:
        """Take rows, encoder, its bias and decoder from a file of numpy's."""
        torch.set_num_threads(1)
        with np.load(Path(path)) as held:
            rows, encoder, bias, decoder = (
                torch.from_numpy(held[name]) for name in ("rows", "encoder", "bias", "decoder")
            )
        self.rows = rows.view(-1, context, rows.shape[1])
        features, width = decoder.shape
        self.sae = SparseAutoEncoder(
            SAEConfig(
                sae_type="sae", d_model=width, expansion_factor=features / width, act_fn="topk",
                hook_point_in=HOOK, hook_point_out=HOOK, norm_activation="inference", top_k=k,
                dtype=torch.float32, device="cpu",
            )
        )  # fmt: skip
        with torch.no_grad():
            self.sae.W_E.copy_(encoder)
            self.sae.W_D.copy_(decoder)
            self.sae.b_E.copy_(bias)
            self.sae.b_D.zero_()
        return {}

    def analyze(self, batch: int) -> dict[str, Any]:
        """Run the loop over all rows, `batch` contexts at a time; return rows, seconds, and counts."""
        spent, found = {"encoding": 0.0}, {}

        def encode(x: torch.Tensor, **more: Any) -> torch.Tensor:
            began = time.perf_counter()
            code: torch.Tensor = SparseAutoEncoder.encode(self.sae, x, **more)
            spent["encoding"] += time.perf_counter() - began
            return code

        def process(**given: Any) -> None:
            found.update(given)
            raise _Ended

        self.sae.encode = encode
        rows = self.rows.shape[0] * self.rows.shape[1]
        analyzer = FeatureAnalyzer(
            FeatureAnalyzerConfig(total_analyzing_tokens=rows, ignore_token_ids=[])
        )
        analyzer.get_post_analysis_func = lambda _: SimpleNamespace(process=process)
        batches = SimpleNamespace(process=lambda **_: self._batches(batch))
        began = time.perf_counter()
        try:
            analyzer.analyze_chunk(batches, self.sae)
        except _Ended:
            seconds = time.perf_counter() - began
        return {
            "rows": rows,
            "sampling": seconds - spent["encoding"],
            "encoding": spent["encoding"],
            "counts": found["act_times"].tolist(),
        }

    def _batches(self, size: int) -> Iterator[dict[str, Any]]:
        for first in range(0, len(self.rows), size):
            part = self.rows[first : first + size]
            ones = torch.ones(part.shape[:2], dtype=torch.int64)
            meta = [
                {"dataset_name": "rows", "context_idx": first + n, "shard_idx": 0, "n_shards": 1}
                for n in range(len(part))
            ]
            yield {HOOK: part, "tokens": ones, "mask": ones, "meta": meta}


if __name__ == "__main__":
    serve(Served)
