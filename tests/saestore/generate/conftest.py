import pytest

from saestore.testing.stores import scratch_lake
from saestore_schemas.activations import StoreSettings
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


@pytest.fixture
def lake():
    with scratch_lake() as lake:
        yield lake


@pytest.fixture
def plan(tiny_gpt2, tiny_jsonl):
    """Settings of a small run: several shards of 64 rows, several blocks, ragged contexts."""

    def settings(**changes):
        corpus = {
            "sources": (JsonlSource(path=str(tiny_jsonl), metadata=("shelf", "year")),),
            "context_size": 24,
            "block_documents": 5,
        } | changes.pop("corpus", {})
        base = {
            "name": "a",
            "lm": LmSettings(model=str(tiny_gpt2)),
            "corpus": CorpusSettings(**corpus),
            "hookpoints": ("blocks.1.hook_resid_post", "blocks.0.mlp.hook_out"),
            "tokens": 700,
            "dtype": "float32",
            "forward_contexts": 3,
            "store": StoreSettings(chunk_kib=1, shard_mib=64 * 24 * 4 / 2**20),
        }
        return GenerateSettings(**(base | changes))

    return settings
