"""Logit attribution of an analysis: additive to the model's own logits, and every table from dense scores."""

import numpy as np
import polars as pl
import pytest
import torch

from saestore import analyze, dictionaries, generate
from saestore.activations import ActivationStore
from saestore.errors import ConfigError
from saestore.features import Analysis
from saestore.lm import LanguageModel
from saestore.progress import Recorder
from saestore.testing.analyses import synthetic_dictionary
from saestore.testing.stores import scratch_lake
from saestore_schemas.activations import StoreSettings
from saestore_schemas.analyze import AnalyzeSettings, LogitSettings
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.dictionary import Relu
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


HOOK, NAME = "blocks.1.hook_resid_post", "tiny/relu"
DEAD, FEATURES, TOP = 3, 13, 4
PLAIN = {"token_stats": None, "coactivation": None, "neighbours": None}
EVERY = ("direction", "additive", "renormalised")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def made(request, tiny_models, tiny_jsonl):
    """Lake, model and analysis with every score: LayerNorm with a bias, and RMSNorm."""
    lm = LmSettings(model=str(tiny_models(request.param)))
    with scratch_lake() as lake:
        settings = GenerateSettings(
            name="a",
            lm=lm,
            corpus=CorpusSettings(sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=16),
            hookpoints=(HOOK,),
            capture=("final_norm_scale",),
            tokens=300,
            dtype="float32",
            store=StoreSettings(chunk_kib=1, shard_mib=0.02),
        )
        store = generate.run(settings, lake, device="cpu")
        encoder = torch.randn(24, FEATURES, generator=torch.Generator().manual_seed(5))
        encoder[:, DEAD] = 0
        synthetic_dictionary(lake, NAME, store, activation=Relu(), encoder=encoder)
        wanted = AnalyzeSettings(
            dictionary=NAME, logits=LogitSettings(scores=EVERY, top_k=TOP), **PLAIN
        )
        analyze.run(wanted, lake, device="cpu")
        yield lake, LanguageModel.load(lm, device="cpu"), Analysis.open(lake, f"{NAME}/default")


def dense(lake, model, analysis):
    """Values and scales of the kept rows, and float64 scores of all tokens, by their definitions."""
    store = stored(lake)
    rows = torch.from_numpy(store.read(HOOK, 0, store.n_rows))
    loaded = dictionaries.load(lake, NAME).in_raw_units()
    code = loaded.encode({HOOK: rows}).to_dense().double().numpy()
    code[store.flags() != 0] = 0
    sigma = store.captured("final_norm_scale").astype(np.float64)
    unembedding, vectors = model.unembedding(), loaded.decoder_vectors().detach().double()
    tokens = store.vocabulary().num_rows
    columns, gain = unembedding.W_U[:, :tokens].double(), unembedding.gain.double()
    seen = vectors - vectors.mean(1, keepdim=True) if unembedding.centred else vectors
    raw = (seen * gain) @ columns
    fired = code > 0
    scale = np.where(
        fired.any(0), (code / sigma[:, None]).sum(0) / np.maximum(fired.sum(0), 1), np.nan
    )
    normed = seen / unembedding.norm.scale(vectors)[:, None] * gain + unembedding.norm.bias.double()
    direction = (raw - raw.mean(1, keepdim=True)).numpy()
    scores = {
        "direction": direction,
        "additive": scale[:, None] * direction,
        "renormalised": (normed @ columns + unembedding.b_U[:tokens]).numpy(),
    }
    return scale, scores


def stored(lake):
    return ActivationStore.open(lake, "a")


def test_a1_a_row_s_contributions_add_up_to_its_logits(made):
    """With b_dec, the error and everything else in the residual stream, beta W_U too: logits - b_U."""
    lake, model, _ = made
    store, unembedding = stored(lake), model.unembedding()
    dictionary = dictionaries.load(lake, NAME).in_raw_units().double()
    first, length = store.contexts()[2].tolist()
    tokens = torch.from_numpy(store.tokens(first, first + length).astype(np.int64))[None]
    found = model.capture(tokens, [HOOK, "ln_final.hook_in", "hook_unembed"], ["final_norm_scale"])
    final, here = (found[name][0].double() for name in ("ln_final.hook_in", HOOK))
    sigma = model.final_norm.scale(final)
    scale = torch.from_numpy(store.captured("final_norm_scale", first, first + length))
    torch.testing.assert_close(sigma.float(), scale, rtol=1e-5, atol=0)
    code = dictionary.encode({HOOK: here}).to_dense()
    b_dec = dictionary.b_dec.detach() + torch.linspace(-1, 1, 24).double()  # as if there were one
    error = here - (code @ dictionary.decoder_vectors().detach() + b_dec)
    onto = analyze.logits.projection(
        unembedding.W_U.double(), unembedding.gain.double(), centred=unembedding.centred
    )
    contributions = code @ (dictionary.decoder_vectors().detach() @ onto.weight)
    rest = (b_dec + error + (final - here)) @ onto.weight
    bias = unembedding.norm.bias.double() @ unembedding.W_U.double()
    total = (contributions + rest) / sigma[:, None] + bias - bias.mean()
    seen = final - final.mean(-1, keepdim=True) if unembedding.centred else final
    normed = seen / sigma[:, None] * unembedding.gain.double() + unembedding.norm.bias.double()
    logits = normed @ unembedding.W_U.double()
    centred = logits - logits.mean(-1, keepdim=True)
    assert (total - centred).abs().max() <= 1e-9 * centred.abs().max()
    own = found["hook_unembed"][0] - unembedding.b_U  # the model's, in float32
    torch.testing.assert_close(
        own - own.mean(-1, keepdim=True), centred.float(), rtol=1e-4, atol=1e-4
    )


def test_logit_scale_is_the_mean_of_value_over_scale_and_null_of_the_dead(made):
    lake, model, analysis = made
    scale, _ = dense(lake, model, analysis)
    found = analysis.lazy("features").collect()["logit_scale"]
    assert found[DEAD] is None
    assert found.null_count() == 1
    np.testing.assert_allclose(found.to_numpy(), scale, rtol=1e-6)


def test_every_score_is_its_definition(made):
    lake, model, analysis = made
    _, scores = dense(lake, model, analysis)
    lines = analysis.lazy("logits").collect()
    stats = analysis.lazy("logit_stats").collect()
    drawn = {(r["feature"], r["what"]): r for r in analysis.lazy("histograms").collect().to_dicts()}
    assert set(lines["score"]) == set(EVERY)
    for score, all_of in scores.items():
        for feature, own in enumerate(all_of):
            mine = lines.filter(pl.col("feature") == feature, pl.col("score") == score)
            histogram = drawn[feature, f"logit:{score}"]
            if score == "additive" and feature == DEAD:
                assert not len(mine)
                assert sum(histogram["counts"]) == histogram["lo"] == histogram["hi"] == 0
                continue
            for sign in (1, -1):
                end = mine.filter(pl.col("sign") == sign).sort("rank")
                order = np.argsort(-sign * own, kind="stable")[:TOP]
                assert end["token_id"].to_list() == order.tolist()
                np.testing.assert_allclose(end["value"], own[order], rtol=1e-4, atol=1e-5)
            (line,) = stats.filter(
                pl.col("feature") == feature, pl.col("score") == score
            ).to_dicts()
            z = (own - own.mean()) / own.std()
            expected = [own.std(), (z**3).mean(), (z**4).mean(), own.min(), own.max()]
            names = ("std", "skew", "kurtosis", "min", "max")
            np.testing.assert_allclose([line[n] for n in names], expected, rtol=1e-4, atol=1e-4)
            assert (histogram["lo"], histogram["hi"]) == (line["min"], line["max"])
            assert sum(histogram["counts"]) == len(own)
    additive, direction = (
        lines.filter(pl.col("score") == s).sort("feature", "sign", "rank") for s in EVERY[1::-1]
    )
    both = direction.filter(pl.col("feature") != DEAD)
    scale = (
        analysis.lazy("features").collect()["logit_scale"].to_numpy()[both["feature"].to_numpy()]
    )
    exact = (both["value"].to_numpy().astype(np.float64) * scale).astype(np.float32)
    assert np.array_equal(additive["value"].to_numpy(), exact)


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_pages_show_every_score_by_its_name_direction_first(made):
    *_, analysis = made
    page = analysis.feature(0)
    assert [table.score for table in page.logits] == list(EVERY)
    for table in page.logits:
        assert len(table.promoted) == len(table.suppressed) == TOP
        assert page.of_scores(table).what == f"logit:{table.score}"
    assert [table.score for table in analysis.feature(DEAD).logits] == ["direction", "renormalised"]
    assert analysis.manifest.facts["logits"] == {"scores": list(EVERY)}


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_what_is_not_asked_for_follows_from_the_store(made, tmp_path):
    """With scales `additive` comes by itself; alone it needs no line of `direction` in the tables."""
    lake, _, _ = made
    for name, given, expected in (
        ("plain", None, {"direction", "additive"}),
        ("alone", ("additive",), {"additive"}),
        ("last", ("renormalised",), {"renormalised"}),
    ):
        settings = AnalyzeSettings(
            name=name, dictionary=NAME, logits=LogitSettings(scores=given, top_k=2), **PLAIN
        )
        analyze.run(settings, lake, device="cpu")
        found = Analysis.open(lake, f"{NAME}/{name}")
        for table in ("logits", "logit_stats"):
            assert set(found.lazy(table).collect()["score"]) == expected
        drawn = found.lazy("histograms").filter(pl.col("what").str.starts_with("logit:")).collect()
        assert set(drawn["what"]) == {f"logit:{score}" for score in expected}


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_additive_without_the_scale_says_how_to_capture_it(made):
    lake, _, _ = made
    plain = stored(lake).manifest.settings | {"name": "plain", "capture": (), "tokens": 64}
    generate.run(GenerateSettings.model_validate(plain), lake, device="cpu")
    asked = {"activations": "plain", "dictionary": NAME, **PLAIN}
    wanted = AnalyzeSettings(name="x", logits=LogitSettings(scores=("additive",)), **asked)
    with pytest.raises(ConfigError, match=r"logits\.scores") as caught:
        analyze.run(wanted, lake, device="cpu")
    assert "'plain' hold no final_norm_scale" in str(caught.value)
    assert "capture=" in caught.value.hint
    heard = Recorder()
    analyze.run(AnalyzeSettings(name="quiet", **asked), lake, device="cpu", progress=heard)
    assert any("without the score additive" in note for note in heard.notes)
    found = Analysis.open(lake, f"{NAME}/quiet")
    assert set(found.lazy("logits").collect()["score"]) == {"direction"}
    assert found.lazy("features").collect()["logit_scale"].null_count() == FEATURES
    wanted = AnalyzeSettings(name="x", logits=LogitSettings(scores=("left_singular",)), **asked)
    with pytest.raises(ConfigError, match="left_singular") as caught:
        analyze.run(wanted, lake, device="cpu")
    assert "direction" in caught.value.hint


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_heads_go_through_the_output_projection(made):
    """A dictionary of heads is as wide as the stream here: nothing but the numbers would tell."""
    lake, model, _ = made
    hook = "blocks.1.attn.hook_z"
    given = stored(lake).manifest.settings | {"name": "z", "hookpoints": (hook,), "tokens": 64}
    store = generate.run(GenerateSettings.model_validate(given), lake, device="cpu")
    synthetic_dictionary(lake, "tiny/z", store, activation=Relu(), d_sae=7)
    wanted = AnalyzeSettings(dictionary="tiny/z", logits=LogitSettings(top_k=2), **PLAIN)
    analyze.run(wanted, lake, device="cpu")
    vectors = dictionaries.load(lake, "tiny/z").in_raw_units().decoder_vectors().detach().double()
    into = model._bridge.blocks[1].attn.W_O.flatten(0, 1).double()
    unembedding = model.unembedding()
    columns = unembedding.W_U[:, : store.vocabulary().num_rows].double()
    seen = vectors @ into
    seen = seen - seen.mean(1, keepdim=True) if unembedding.centred else seen
    scores = (seen * unembedding.gain.double()) @ columns
    best = (scores - scores.mean(1, keepdim=True)).max(dim=1)
    found = Analysis.open(lake, "tiny/z/default").lazy("logits").collect()
    first = found.filter(score="direction", sign=1, rank=0)
    assert first["token_id"].to_list() == best.indices.tolist()
    np.testing.assert_allclose(first["value"], best.values, rtol=1e-4)


def test_without_firings_there_is_no_additive_and_the_rest_is_the_same(made):
    lake, _, whole = made
    given = {"dictionary": NAME, "name": "none", "firings": "none", "neighbours": None}
    wanted = AnalyzeSettings.model_validate({**given, "logits": {"top_k": TOP}})
    found = Analysis.open(lake, analyze.run(wanted, lake, device="cpu").name)
    assert found.manifest.facts["logits"] == {"scores": ["direction"]}
    assert found.lazy("features").collect()["logit_scale"].null_count() == FEATURES
    for table in ("logits", "logit_stats"):
        expected = whole.lazy(table).filter(pl.col("score") == "direction").collect()
        assert found.lazy(table).collect().equals(expected)
    drawn = (each.feature(4).histograms["logit:direction"] for each in (whole, found))
    assert len(set(drawn)) == 1
