"""Texts by the live model: a text that is a stored context has the very values of the tables."""

import json

import numpy as np
import pytest
import torch

import saestore
from saestore.errors import ArtefactNotFoundError, ConfigError, FeatureNotFoundError
from saestore.features import run_named
from saestore.progress import Recorder
from saestore.testing.analyses import synthetic_dictionary
from saestore_schemas.dictionary import TopK


TEXTS = [
    "The lighthouse keeper climbed the stairs every evening and lit the lamp.",
    "á",
    "Emoji with joiners 👩‍🔬👨‍👩‍👧 and Köln, 東京の朝は静かで.",
    "one\ttwo\r\nthree\n\n\n   four <b>&amp;</b> <bos>",
    "A sparse dictionary writes every activation as a sum of a few directions.",
]


def settings(model, folder, dtype):
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return {
        "name": dtype,
        "lm": {"model": str(model)},
        "corpus": {
            "sources": [{"kind": "jsonl", "path": str(file)}],
            "context_size": 64,
            "packing": "truncate",
        },
        "hookpoints": ["blocks.1.hook_resid_post"],
        "dtype": dtype,
        "ignore_tokens": [5],
    }


@pytest.fixture(
    scope="module",
    params=[
        "float32",
        pytest.param("bfloat16", marks=pytest.mark.slow),
        pytest.param("int8", marks=pytest.mark.slow),
    ],
)
def lake(request, tmp_path_factory, tiny_llama):
    folder = tmp_path_factory.mktemp("live")
    opened = saestore.open_lake(folder / "lake", device="cpu")
    opened.generate(settings(tiny_llama, folder, request.param))
    opened.train(
        {
            "series": "s",
            "name": "sae",
            "activations": {"name": request.param, "batch_rows": 16},
            "dictionary": {
                "family": "sae", "hookpoint": "blocks.1.hook_resid_post", "d_sae": 41,
                "activation": {"kind": "batchtopk", "k": 4},
            },
            "budget": {"epochs": 2.0},
        }
    )  # fmt: skip
    opened.analyze({"dictionary": "s/sae", "logits": None, "ignore_tokens": [7]})
    return opened


@pytest.fixture(scope="module")
def live(lake):
    return lake.live("s/sae")


def test_a_stored_text_has_the_values_of_the_tables(lake, live):
    together = lake.features_for_text(live, TEXTS, None)
    for number, text in enumerate(TEXTS):
        ready = run_named(lake.lake, "features_of_context", {"context": number, "n": 99})
        alone = lake.features_for_text(live, text, None)
        for mine, theirs in (("feature", "feature"), ("value", "peak"), ("n", "n")):
            assert alone[mine].to_pylist() == ready[theirs].to_pylist()
        stored = lake.features_of_contexts("s/sae", [number], None)
        # batchtopk by its threshold: no value depends on the other texts
        of_many = [line for line in together.to_pylist() if line["text"] == number]
        for name in ("feature", "value", "position", "token", "n"):
            assert alone[name].to_pylist() == stored[name].to_pylist()
            assert alone[name].to_pylist() == [line[name] for line in of_many]


def test_a_text_that_is_not_stored_is_encoded_as_rows_of_a_store_are(lake, live):
    text = "A fox, naïve as ever 👩‍🔬, walked on the Moon."
    (_, model), folded = live.models[0], live.folded
    ids = model.tokenizer.encode(text)[0].astype(np.int64)
    tokens = np.concatenate([[model.tokenizer.bos_id], ids])
    hook = "blocks.1.hook_resid_post"
    rows = model.capture(torch.from_numpy(tokens)[None], [hook])[hook][0].float().numpy()
    if live.store.record.dtype != "float32":
        rows = live._rounded(hook, rows)
    dense = folded.encode(torch.from_numpy(rows)).to_dense().numpy()
    dense[np.isin(tokens, [model.tokenizer.bos_id, 5, 7])] = 0
    wanted = [
        (feature, int(dense[:, feature].argmax()), int((dense[:, feature] > 0).sum()))
        for feature in np.lexsort((np.arange(41), -dense.max(axis=0)))
        if dense[:, feature].any()
    ]
    found = lake.features_for_text(live, text, None).to_pylist()
    assert [(line["feature"], line["position"], line["n"]) for line in found] == wanted
    values = [line["value"] for line in found]
    assert np.allclose(values, sorted(dense.max(axis=0)[[f for f, *_ in wanted]], reverse=True))
    assert {line["token"] for line in lake.features_for_text(live, text, None).to_pylist()} <= set(
        live.analysis.vocabulary.tokens
    )


@pytest.mark.slow
def test_other_weights_are_told_and_answer_for_themselves(lake, tiny_models):
    told = Recorder()
    folder = tiny_models("qwen2")
    other = lake.live("s/sae", lm=str(folder), progress=told)
    assert any("other weights" in note for note in told.notes)
    mine = lake.features_for_text(other, TEXTS[0], None)
    assert not mine.equals(lake.features_of_contexts("s/sae", [0], None))


def test_pieces_concatenate_to_the_text(live):
    passages = live.encode(TEXTS)
    assert passages.contexts["text"].to_pylist() == [f"<bos>{text}" for text in TEXTS]
    for example in passages.examples(3, None, width=None, ranked=False):
        text = passages.contexts["text"][example.document].as_py()
        assert "".join(piece.text for piece in example.tokens) == text
        assert example.tokens[0].special
        assert not example.tokens[0].kept


def test_texts_of_a_feature_keep_their_order_where_values_are_equal(lake, live):
    feature = lake.features_for_text(live, TEXTS[0], 1)["feature"][0].as_py()
    given = [TEXTS[1], TEXTS[0], "a", TEXTS[0]]
    found = lake.texts_for_feature(live, feature, 9, texts=given).to_pylist()
    assert [line["value"] for line in found] == sorted((x["value"] for x in found), reverse=True)
    same = [line["text"] for line in found if line["value"] == found[0]["value"]]
    assert same == [1, 3]
    assert all(line["value"] > 0 for line in found)


def test_a_long_text_goes_on_in_further_contexts(lake, live):
    told = Recorder()
    long = " ".join(TEXTS[:1] * 12)
    passages = live.encode([long, "short"], progress=told)
    counts = passages.contexts["n_positions"].to_pylist()
    assert counts[:-2] == [64] * (len(counts) - 2)
    assert passages.text_of.tolist() == [0] * (len(counts) - 1) + [1]
    assert any("64 tokens" in note for note in told.notes)
    whole = passages.strongest(None)
    by_context = passages.at_tokens(None).to_pylist()
    for line in whole.to_pylist():
        mine = [
            (-x["value"], x["context"], x["position"])
            for x in by_context
            if x["text"] == line["text"] and x["feature"] == line["feature"]
        ]
        assert min(mine) == (-line["value"], line["context"], line["position"])
        assert len(mine) == line["n"]


def test_mlxterp_keeps_bos_and_puts_the_larger_id_first(lake, live):
    theirs = lake.features_for_text(live, "á", None, compat="mlxterp").to_pylist()
    passages = live.encode(["á"], masked=False)
    assert 0 in passages.firings["position"].to_pylist()
    order = [(-line["value"], -line["feature"]) for line in theirs]
    assert order == sorted(order)


@pytest.mark.parametrize(("texts", "says"), [(["a", ""], "text 2 is empty"), ([], "there is none")])
def test_nothing_to_encode_is_refused(live, texts, says):
    with pytest.raises(ConfigError, match=says):
        live.encode(texts)


def test_a_feature_that_is_not_there_is_refused_before_a_model_is_loaded(lake):
    with pytest.raises(FeatureNotFoundError, match="no feature 41"):
        lake.texts_for_feature("s/sae", 41, texts="a")


def test_a_dictionary_that_was_not_analysed_says_so(lake):
    with pytest.raises(ArtefactNotFoundError) as caught:
        lake.live("s/sea")
    assert "s/sae" in caught.value.hint
    store = lake.activations(lake.ls("activations")[0].ref.name)
    synthetic_dictionary(lake.lake, "s/fresh", store, activation=TopK(k=3), d_sae=11)
    with pytest.raises(ArtefactNotFoundError) as caught:
        lake.live("s/fresh")
    assert "saestore analyze CONFIG.toml --set dictionary=s/fresh" in caught.value.hint
