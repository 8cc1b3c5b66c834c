"""An imported store is a store: it trains, is evaluated and analysed, without a language model."""

import numpy as np
import pytest

from saestore.api import OpenLake
from saestore.errors import ConfigError
from saestore.testing.stores import scratch_lake, synthetic_rows


HOOK = "blocks.3.hook_resid_post"


@pytest.mark.parametrize("contexts", [True, False], ids=["contexts", "rows"])
def test_an_imported_store_goes_all_the_way(tmp_path, contexts):
    np.save(tmp_path / "a.npy", synthetic_rows(600, 12, seed=2))
    tokens = np.random.default_rng(0).integers(1, 50, (30, 20))
    np.save(tmp_path / "t.npy", tokens if contexts else tokens.reshape(-1))
    with scratch_lake() as folder:
        lake = OpenLake(folder, device="cpu")
        store = lake.import_activations(
            {
                "name": "x",
                "source": {
                    "kind": "npy",
                    "path": str(tmp_path / "a.npy"),
                    "tokens": str(tmp_path / "t.npy"),
                },
                "hookpoints": [HOOK],
            }
        )
        assert store.n_contexts == (30 if contexts else 600)
        lake.train(
            {
                "series": "s",
                "name": "d",
                "activations": {"name": "x", "batch_rows": 64, "held_out": 0.2},
                "dictionary": {
                    "hookpoint": HOOK, "expansion": 2.0, "activation": {"kind": "topk", "k": 4},
                },
                "budget": {"epochs": 2.0},
            }
        )  # fmt: skip
        scores = lake.evaluate({"dictionary": "s/d", "splice": None})
        assert scores.values["explained_variance"] is not None
        lake.analyze({"dictionary": "s/d", "logits": None})
        texts = lake.sql("SELECT text FROM contexts LIMIT 1").to_pylist()
        assert texts[0]["text"].startswith(f"<{tokens[0, 0]}>")
        assert lake.verify("x") == []
        with pytest.raises(ConfigError, match="do not say which language model"):
            lake.analyze({"dictionary": "s/d", "name": "with-logits"})
