"""What starts from the part of the model that it is to replace is nearer to it than what starts by chance."""

import pytest
import torch

from saestore import generate, open_lake
from saestore.activations import ActivationStore
from saestore.errors import ConfigError
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


READS, WRITES = "blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out"
MLP = ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")


@pytest.fixture(scope="module")
def lake(tiny_llama, tiny_jsonl, tmp_path_factory):
    made = open_lake(tmp_path_factory.mktemp("host"), device="cpu")
    settings = GenerateSettings(
        name="store",
        lm=LmSettings(model=str(tiny_llama)),
        corpus=CorpusSettings(sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=24),
        hookpoints=(READS, WRITES, *MLP),
        dtype="float32",
        tokens=1200,
    )
    generate.run(settings, made.lake, device="cpu")
    return made


def settings(name, *, from_host=True, **attention):
    return {
        "series": "s",
        "name": name,
        "activations": {"name": "store", "batch_rows": 128},
        "dictionary": {
            "family": "lorsa", "hookpoint_in": READS, "hookpoint_out": WRITES, "d_sae": 48,
            "activation": {"kind": "topk", "k": 6},
            "attention": {"n_qk": 6, "d_qk": 8, "rope": {"base": 10000.0}, **attention},
        },
        "init": {"from_host": "attention", "sign_flip": True} if from_host else {},
        "budget": {"rows": 128},
        "optimizer": {"lr": 1e-12},
        "checkpoints": {"count": 0},
    }  # fmt: skip


def test_it_attends_as_the_host_and_reconstructs_better_from_the_start(lake):
    scores = {}
    for name, from_host in (("host", True), ("chance", False)):
        trained = lake.train(settings(name, from_host=from_host))
        store = ActivationStore.open(lake.lake, "store")
        first, length = store.contexts()[3].tolist()
        rows, wanted = (
            torch.from_numpy(store.read(hook, first, first + length)) for hook in (READS, WRITES)
        )
        error = trained.reconstruct(rows)[WRITES] - wanted
        scores[name] = float(error.square().sum() / (wanted - wanted.mean(dim=0)).square().sum())
    assert scores["host"] < 0.8 * scores["chance"], scores


@pytest.mark.parametrize("attention", [{"rope": None}, {"rope": {"base": 90.0}}, {"scale": 1.0}])
def test_attention_that_is_set_otherwise_than_the_hosts_is_refused(lake, attention):
    with pytest.raises(ConfigError, match=r"% of attention goes to other rows") as caught:
        lake.train(settings("other", **attention))
    assert "10000" in caught.value.hint


def test_a_transcoder_starts_from_what_the_mlp_answers(lake):
    given = settings("mlp") | {"init": {"from_host": "mlp"}}
    given["dictionary"] = {
        "family": "transcoder", "hookpoint_in": MLP[0], "hookpoint_out": MLP[1], "d_sae": 96,
        "activation": {"kind": "topk", "k": 12},
    }  # fmt: skip
    trained = lake.train(given)
    store = ActivationStore.open(lake.lake, "store")
    rows, wanted = (torch.from_numpy(store.read(hook, 0, 400)) for hook in MLP)
    wanted = wanted - wanted.mean(dim=0)
    scores = {}
    for name, order in (("host", torch.arange(96)), ("shuffled", torch.arange(96).roll(1))):
        tensors = trained.tensors()
        tensors["W_dec"] = tensors["W_dec"][order]
        other = trained.restore(trained.config, trained.scales, tensors)
        found = other.reconstruct(rows)[MLP[1]]
        found = found - found.mean(dim=0)
        scores[name] = float((found * wanted).sum() / found.norm() / wanted.norm())
    assert scores["host"] > 0.4 + abs(scores["shuffled"]), scores
