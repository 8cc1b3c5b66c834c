"""A crosscoder of two language models: one, and a wider one with the same tokenizer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from saestore import analyze, evaluate, features, generate, train
from saestore.activations import ActivationStore, held_out
from saestore.errors import ConfigError
from saestore.evaluate.selection import spread
from saestore.lake import Lake
from saestore.lm import LanguageModel
from saestore.testing.models import N_VOCAB, randomise_, tiny_tokenizer
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.evaluate import EvaluateSettings, SpliceSettings
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings
from saestore_schemas.train import TrainSettings


HOOK = "blocks.1.hook_resid_post"
SHARE = 0.3
WIDE = 40


@pytest.fixture(scope="module")
def models(tiny_gpt2, tmp_path_factory):
    """Folders of the models: the tokenizer is the same."""
    wide = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=N_VOCAB, hidden_size=WIDE, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=56, max_position_embeddings=64, tie_word_embeddings=False,
        )
    )  # fmt: skip
    randomise_(wide, seed=1)
    folder = tmp_path_factory.mktemp("wide")
    wide.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return {"base": tiny_gpt2, "wide": folder}


@pytest.fixture(scope="module")
def lake(models, tiny_jsonl, tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("diffing") / "lake")
    for name, model in models.items():
        generate.run(
            GenerateSettings(
                name=name,
                lm=LmSettings(model=str(model)),
                corpus=CorpusSettings(
                    sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=24
                ),
                hookpoints=(HOOK,),
                dtype="float32",
                tokens=1000,
            ),
            made,
            device="cpu",
        )
    return made


@pytest.fixture(scope="module")
def crosscoder(lake, models):
    settings = {
        "series": "s",
        "name": "diff",
        "activations": {
            "heads": [{"name": name, "store": name, "hookpoint": HOOK} for name in models],
            "batch_rows": 128,
            "held_out": SHARE,
        },
        "dictionary": {
            "family": "crosscoder",
            "hookpoints": list(models),
            "d_sae": 53,
            "activation": {"kind": "topk", "k": 5},
        },
        "budget": {"epochs": 6.0},
        "optimizer": {"lr": 3e-3},
    }
    return train.run(TrainSettings.model_validate(settings), lake, device="cpu")


def test_each_model_loses_what_its_head_leaves_out(lake, models, crosscoder):
    wanted = EvaluateSettings(dictionary="s/diff", splice=SpliceSettings(contexts=5))
    values = evaluate.run(wanted, lake, device="cpu").values
    stores = {name: ActivationStore.open(lake, name) for name in models}
    contexts = stores["base"].contexts()[held_out(stores["base"].n_contexts, SHARE)]
    contexts = contexts[spread(len(contexts), 5)]
    for name, folder in models.items():
        assert values[f"explained_variance@{name}"] > 0.15
        host = AutoModelForCausalLM.from_pretrained(folder).eval()
        block = (host.transformer.h if name != "wide" else host.model.layers)[1]
        nats, told = {"clean": 0.0, "dict": 0.0}, 0
        for first, length in contexts.tolist():
            stretch = (first, first + length)
            kept = torch.from_numpy(stores["base"].flags(*stretch) == 0)
            ids = torch.from_numpy(stores["base"].tokens(*stretch).astype(np.int64))
            rows = {n: torch.from_numpy(s.read(HOOK, *stretch))[kept] for n, s in stores.items()}
            written = crosscoder.reconstruct(rows)[name]

            def put(module, given, output, at=kept, written=written):
                first, *others = output if isinstance(output, tuple) else (output,)
                first = first.clone()
                first[0, at] = written
                return (first, *others) if others else first

            for what in nats:
                handle = block.register_forward_hook(put) if what == "dict" else None
                with torch.no_grad():
                    logits = host(ids.unsqueeze(0)).logits[0, :-1]
                if handle is not None:
                    handle.remove()
                lost = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
                nats[what] += float(lost[kept[:-1]].double().sum())
            told += int(kept[:-1].sum())
        for what, total in nats.items():
            assert values[f"ce[{what}]@{name}"] == pytest.approx(total / told, rel=1e-4)


def test_one_model_may_be_asked_alone_and_one_name_cannot_stand_for_two(lake, models, crosscoder):
    given = {"dictionary": "s/diff", "rows": 64, "cosines": False}
    some = SpliceSettings(contexts=2, hookpoints=("wide",), lm={"wide": str(models["wide"])})
    found = evaluate.run(EvaluateSettings(**given, name="some", splice=some), lake, device="cpu")
    assert {name.partition("@")[2] for name in found.values if name.startswith("ce[")} == {"wide"}
    assert found.manifest.facts["splice"]["wide"]["stored_rows_of"] == ["base"]
    one = SpliceSettings(lm=str(models["base"]))
    with pytest.raises(ConfigError, match="base and wide") as caught:
        evaluate.run(EvaluateSettings(**given, name="one", splice=one), lake, device="cpu")
    assert "splice.lm.base and splice.lm.wide" in caught.value.hint


def test_logits_of_each_head_are_those_of_its_own_model(lake, models, crosscoder):
    analyze.run(AnalyzeSettings(dictionary="s/diff"), lake, device="cpu")
    folded = crosscoder.in_raw_units()
    for head, (name, folder) in enumerate(models.items()):
        unembedding = LanguageModel.load(LmSettings(model=str(folder)), device="cpu").unembedding()
        vectors = folded.decoder_vectors_at(name).detach()
        if unembedding.centred:
            vectors = vectors - vectors.mean(dim=1, keepdim=True)
        known = ActivationStore.open(lake, "base").vocabulary().num_rows
        best = (vectors * unembedding.gain @ unembedding.W_U[:, :known]).argmax(dim=1)
        query = f"SELECT token_id FROM logits WHERE head = {head} AND sign = 1 AND rank = 0 ORDER BY feature"
        assert features.query(lake, query)["token_id"].to_pylist() == best.tolist()
    page = features.Analysis.open(lake, "s/diff/default").feature(0)
    assert [table.head for table in page.logits] == [0, 1]
    assert [written.hookpoint for written in page.writes] == list(models)


def test_a_text_runs_through_both_models(lake, crosscoder):
    analyze.run(AnalyzeSettings(dictionary="s/diff"), lake, device="cpu")
    live = analyze.LiveDictionary.load(lake, "s/diff", device="cpu")
    assert [list(host.names) for host, _ in live.models] == [["base"], ["wide"]]
    live = replace(live, same_weights=False)  # as if nobody knew that the context is stored
    known = live.analysis.passages(range(9))
    line = next(line for line in known.contexts.to_pylist() if len(line["segments"]) == 1)
    found = live.encode([line["text"].removeprefix("<bos>")])
    assert found.contexts["token_ids"].to_pylist() == [line["token_ids"]]
    mine, wanted = (
        {
            (f["position"], f["feature"]): f["value"]
            for f in each.firings.to_pylist()
            if f["context"] == context
        }
        for each, context in ((found, 0), (known, line["context"]))
    )
    assert mine == pytest.approx(wanted, rel=1e-4, abs=1e-5)
