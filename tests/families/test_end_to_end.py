"""Every family by the same verbs: text to store, to dictionary, to scores, to features."""

import gzip
import json
import shutil
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from saestore import analyze, dictionaries, evaluate, features, generate, train
from saestore.activations import ActivationStore, held_out
from saestore.dictionaries import ContextRows, Contexts, load
from saestore.errors import ConfigError, HookpointNotFoundError, UnsupportedError
from saestore.evaluate.selection import spread
from saestore.exchange.features import Neuronpedia, SaeDashboard, export_features
from saestore.lake import Lake, Ref, layout, table_file
from saestore.lm import LanguageModel
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.dashboards import NeuronpediaSettings, SaeDashboardSettings
from saestore_schemas.evaluate import EvaluateSettings, JacobianSettings, SpliceSettings
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings
from saestore_schemas.train import TrainSettings


MLP_IN, MLP_OUT = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
ATTENTION_IN, ATTENTION_OUT = "blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out"
HEADS = tuple(f"blocks.{layer}.hook_resid_post" for layer in (0, 1))
CLT_IN = tuple(f"blocks.{layer}.ln2.hook_normalized" for layer in (0, 1))
CLT_OUT = tuple(f"blocks.{layer}.hook_mlp_out" for layer in (0, 1))
SHARE = 0.3
SLOW = {"crosscoder-per-head", "skip", "weakly-causal-crosscoder"}
"""Not interrupted in the ordinary suite: others of it take the same steps."""
TOPK = {"kind": "topk", "k": 5}
FAMILIES: dict[str, dict[str, object]] = {
    "transcoder": {
        "family": "transcoder", "hookpoint_in": MLP_IN, "hookpoint_out": MLP_OUT, "activation": TOPK,
    },
    "skip": {
        "family": "transcoder", "hookpoint_in": MLP_IN, "hookpoint_out": MLP_OUT, "skip": True,
        "activation": {"kind": "batchtopk", "k": 5},
    },
    "crosscoder": {
        "family": "crosscoder", "hookpoints": HEADS, "activation": {"kind": "batchtopk", "k": 5},
    },
    "crosscoder-per-head": {
        "family": "crosscoder", "hookpoints": HEADS, "gating": "per_head",
        "activation": {"kind": "batchtopk", "k": 5},
    },
    "clt": {
        "family": "clt", "hookpoints_in": CLT_IN, "hookpoints_out": CLT_OUT,
        "activation": {"kind": "batchtopk", "k": 5},
    },
    "molt": {
        "family": "molt", "hookpoint_in": MLP_IN, "hookpoint_out": MLP_OUT,
        "ranks": {8: 5, 4: 16, 2: 32}, "activation": TOPK,
    },
    "weakly-causal-crosscoder": {
        "family": "clt", "hookpoints_in": HEADS, "hookpoints_out": HEADS,
        "activation": {"kind": "jumprelu"},
    },
    "lorsa": {
        "family": "lorsa", "hookpoint_in": ATTENTION_IN, "hookpoint_out": ATTENTION_OUT, "d_sae": 54,
        "activation": {"kind": "batchtopk", "k": 5}, "attention": {"n_qk": 3, "d_qk": 8, "rope": {}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def lake(device, tiny_gpt2, tiny_jsonl, tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("families") / "lake")
    generate.run(
        GenerateSettings(
            name="store",
            lm=LmSettings(model=str(tiny_gpt2)),
            corpus=CorpusSettings(sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=24),
            hookpoints=(*CLT_IN, *CLT_OUT, ATTENTION_IN, ATTENTION_OUT, *HEADS),
            capture=("final_norm_scale",),
            dtype="float32",
            tokens=1500,
        ),
        made,
        device=device,
    )
    return made


def settings(name):
    return TrainSettings.model_validate(
        {
            "series": "s",
            "name": name,
            "activations": {"name": "store", "batch_rows": 128, "held_out": SHARE},
            "dictionary": {"d_sae": 53, **FAMILIES[name]},
            "budget": {"epochs": 6.0},
            "init": {"sign_flip": name == "lorsa"},
            "optimizer": {"lr": 3e-3},
            "log": {"every": 5},
        }
    )


def held_out_contexts(store, some=None):
    """First row and length of contexts that training holds out: all, or some spread over them."""
    contexts = store.contexts()[held_out(store.n_contexts, SHARE)]
    return contexts[spread(len(contexts), some or len(contexts))]


def kept_rows(store, hookpoints, contexts, *, whole=False):
    """The kept rows of some contexts, found without the code under test; with these, if `whole`."""
    contexts = np.asarray(contexts).tolist()
    flags = [store.flags(first, first + length) for first, length in contexts]
    kept = torch.from_numpy(np.concatenate(flags) == 0)
    rows = {
        hook: torch.from_numpy(
            np.concatenate([store.read(hook, first, first + length) for first, length in contexts])
        )
        for hook in hookpoints
    }
    if not whole:
        return {hook: found[kept] for hook, found in rows.items()}
    places = {first: context for context, (first, _) in enumerate(store.contexts().tolist())}
    documents = []
    for first, length in contexts:
        starts = [s[1] for s in store.segments().tolist() if s[0] == places[first]]
        documents += [sum(start <= row for start in starts) for row in range(length)]
    offsets = np.cumsum([0, *(length for _, length in contexts)])
    layout = Contexts(torch.from_numpy(offsets), torch.tensor(documents), kept.nonzero()[:, 0])
    return ContextRows(rows, layout)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_and_its_scores_are_those_of_a_direct_computation(lake, device, name):
    dictionary = train.run(settings(name), lake, device=device)
    assert dictionary.family == FAMILIES[name]["family"]
    splice = SpliceSettings(contexts=7, forward_contexts=3)
    wanted = EvaluateSettings(dictionary=f"s/{name}", splice=splice)
    values = evaluate.run(wanted, lake, device=device).values
    reads, writes = dictionary.hookpoints_in, dictionary.hookpoints_out
    store = ActivationStore.open(lake, "store")
    contexts = held_out_contexts(store)
    rows = kept_rows(store, dict.fromkeys((*reads, *writes)), contexts)
    given = kept_rows(store, reads, contexts, whole=dictionary.reads_contexts)
    errors, spreads = [], []
    for hook, found in dictionary.reconstruct(given).items():
        y, a = rows[hook].numpy().astype(np.float64), dictionary.scales[hook].record.a
        error = ((y - found.numpy().astype(np.float64)) ** 2).sum()
        spread = ((y - y.mean(axis=0)) ** 2).sum()
        own = "explained_variance" if len(writes) == 1 else f"explained_variance@{hook}"
        assert values[own] == pytest.approx(1 - error / spread, rel=1e-6)
        assert values[own] > 0.15
        errors.append(a**2 * error)
        spreads.append(a**2 * spread)
    if len(writes) > 1:
        pooled = 1 - sum(errors) / sum(spreads)
        assert values["explained_variance_pooled"] == pytest.approx(pooled, rel=1e-6)
    code = dictionary.encode(given)
    fired = dictionary.by_feature(code).l0()
    assert values["l0"] == pytest.approx(fired.double().mean().item(), rel=1e-9)
    for groups in dictionary.groups.values():
        for group, own in groups.items():
            l0 = (code.to_dense()[:, own] != 0).sum(dim=1).double().mean().item()
            assert values[f"l0@{group}"] == pytest.approx(l0, rel=1e-9)
    assert values["delta_ce"] is not None
    assert values["ce_recovered[mean]"] is not None


def test_all_layers_of_a_clt_are_spliced_in_one_pass(lake, device, tiny_gpt2):
    dictionary = train.run(settings("clt"), lake, device=device)
    every = SpliceSettings(contexts=10_000)
    wanted = EvaluateSettings(dictionary="s/clt", name="spliced", splice=every)
    values = evaluate.run(wanted, lake, device=device).values
    host = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    store, nats, told = ActivationStore.open(lake, "store"), {"clean": 0.0, "dict": 0.0}, 0
    for first, length in store.contexts()[held_out(store.n_contexts, SHARE)].tolist():
        stretch = (first, first + length)
        kept = torch.from_numpy(store.flags(*stretch) == 0)
        ids = torch.from_numpy(store.tokens(*stretch).astype(np.int64))
        rows = {hook: torch.from_numpy(store.read(hook, *stretch))[kept] for hook in CLT_IN}
        written = dictionary.reconstruct(rows)

        def put(hook, at=kept, written=written):
            def changed(module, given, output):
                output = output.clone()
                output[0, at] = written[hook]
                return output

            return changed

        for what in nats:
            blocks = host.transformer.h if what == "dict" else ()
            handles = [
                block.mlp.register_forward_hook(put(hook))
                for block, hook in zip(blocks, CLT_OUT, strict=False)
            ]
            with torch.no_grad():
                logits = host(ids.unsqueeze(0)).logits[0, :-1]
            for handle in handles:
                handle.remove()
            lost = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            nats[what] += float(lost[kept[:-1]].double().sum())
        told += int(kept[:-1].sum())
    for what, total in nats.items():
        assert values[f"ce[{what}]"] == pytest.approx(total / told, rel=1e-5)


def without_firings_it_is_the_same(lake, name, device):
    plain = {"dictionary": f"s/{name}", "name": "none", "firings": "none"}
    off = {"logits": None, "neighbours": None}
    ref = analyze.run(AnalyzeSettings.model_validate(plain | off), lake, device=device)
    whole, without = (features.Analysis.open(lake, n) for n in (f"s/{name}/default", ref.name))
    unknown = without.manifest.facts["null_without_firings"]
    lines = [each.lazy("features").collect().drop(unknown) for each in (whole, without)]
    assert lines[0].equals(lines[1])
    top = [each.sql("SELECT * FROM examples WHERE subsample = 'top'") for each in (whole, without)]
    assert top[0].drop(["analysis"]).equals(top[1].drop(["analysis"]))
    lake.artefact(ref).remove()


@pytest.mark.parametrize("name", FAMILIES)
def test_its_firings_are_those_of_its_code(lake, device, name):
    train.run(settings(name), lake, device=device)
    analyze.run(AnalyzeSettings(dictionary=f"s/{name}"), lake, device=device)
    dictionary = load(lake, f"s/{name}")
    store = ActivationStore.open(lake, "store")
    code = dictionary.encode(
        kept_rows(
            store, dictionary.hookpoints_in, store.contexts(), whole=dictionary.reads_contexts
        )
    )
    found = features.query(
        lake,
        'SELECT feature, n_firings, layer, "index" FROM features '
        f"WHERE dictionary = '{name}' ORDER BY 1",
    )
    wanted = (dictionary.by_feature(code).to_dense() != 0).sum(dim=0)
    assert found["n_firings"].to_pylist() == wanted.tolist()
    if name in {"crosscoder-per-head", "clt", "lorsa"}:
        without_firings_it_is_the_same(lake, name, device)
    for layer, own in enumerate(dictionary.layers):
        within = found.slice(own.features.start, own.features.stop - own.features.start)
        assert set(within["layer"].to_pylist()) == {layer}
        assert within["index"].to_pylist() == list(range(len(within)))
    told = features.query(
        lake, f"SELECT * FROM decoders WHERE dictionary = '{name}' ORDER BY feature, head"
    )
    hooks = dictionary.hookpoints_out
    if len(hooks) == 1:
        assert len(told) == 0
        return
    folded = dictionary.in_raw_units()
    norms = torch.stack([folded.decoder_vectors_at(hook).norm(dim=1) for hook in hooks], dim=1)
    feature, head = norms.nonzero(as_tuple=True)
    assert told["feature"].to_pylist() == feature.tolist()
    assert told["hookpoint"].to_pylist() == [hooks[h] for h in head.tolist()]
    assert told["norm"].to_pylist() == pytest.approx(norms[feature, head].tolist(), rel=1e-6)
    shares = norms / norms.sum(dim=1, keepdim=True)
    assert told["relative_norm"].to_pylist() == pytest.approx(
        shares[feature, head].tolist(), rel=1e-6
    )
    pairs = features.query(
        lake,
        f"SELECT * FROM decoder_pairs WHERE dictionary = '{name}' ORDER BY feature, head_a, head_b",
    )
    crosscoder = dictionary.family == "crosscoder"
    assert len(pairs) == 3 * dictionary.d_sae * crosscoder
    if crosscoder:
        a, b = (folded.decoder_vectors_at(hook).double() for hook in hooks)
        products = torch.stack([(a * a).sum(1), (a * b).sum(1), (b * b).sum(1)], dim=1)
        assert pairs["inner_product"].to_pylist() == pytest.approx(
            products.flatten().tolist(), rel=1e-6
        )
        assert pairs["cosine"].to_pylist()[1::3] == pytest.approx(
            torch.cosine_similarity(a, b).tolist(), rel=1e-6
        )
    page = features.Analysis.open(lake, f"s/{name}/default").feature(0)
    assert [written.hookpoint for written in page.writes] == [hooks[h] for h in head[feature == 0]]
    between = [
        (hooks[row["head_a"]], hooks[row["head_b"]], row["cosine"], row["inner_product"])
        for row in pairs.to_pylist()
        if row["feature"] == 0 and row["head_a"] != row["head_b"]
    ]
    assert [astuple(pair) for pair in page.pairs] == between


@pytest.mark.parametrize(
    "name",
    [
        "lorsa",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in FAMILIES
            if n not in {"lorsa", "weakly-causal-crosscoder"}
        ),
    ],
)  # fmt: skip
def test_a_text_is_encoded_as_its_context_was(lake, device, name):
    train.run(settings(name), lake, device=device)
    analyze.run(AnalyzeSettings(dictionary=f"s/{name}"), lake, device=device)
    # as if nobody knew that these contexts are stored
    live = replace(
        analyze.LiveDictionary.load(lake, f"s/{name}", device=device), same_weights=False
    )
    (_, model), known = live.models[0], live.analysis.passages(range(30))
    lines = known.contexts.to_pylist()
    told = [line["text"].removeprefix("<bos>") for line in lines]
    whole = [
        n
        for n, line in enumerate(lines)
        if len(line["segments"]) == 1
        and model.tokenizer.encode(told[n])[0].tolist() == line["token_ids"][1:]
    ]
    assert len(whole) > 4
    found = live.encode([told[n] for n in whole])
    assert found.contexts["token_ids"].to_pylist() == [lines[n]["token_ids"] for n in whole]
    stored, mine = (
        {(f["context"], f["position"], f["feature"]): f["value"] for f in each.firings.to_pylist()}
        for each in (known, found)
    )
    wanted = {key: value for key, value in stored.items() if key[0] in whole}
    mine = {(whole[context], *rest): value for (context, *rest), value in mine.items()}
    assert mine == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_firings_are_told_of_each_head_that_gates_by_itself(lake, device):
    name = "crosscoder-per-head"
    train.run(settings(name), lake, device=device)
    analyze.run(AnalyzeSettings(dictionary=f"s/{name}"), lake, device=device)
    dictionary, store = load(lake, f"s/{name}"), ActivationStore.open(lake, "store")
    code = dictionary.encode(kept_rows(store, dictionary.hookpoints_in, store.contexts()))
    each = code.to_dense().view(code.n_rows, dictionary.gates, -1)
    feature, head, row = each.permute(2, 1, 0).nonzero(as_tuple=True)
    told = features.query(
        lake, "SELECT * FROM head_firings ORDER BY feature, head, context, position"
    )
    assert told["feature"].to_pylist() == feature.tolist()
    assert told["head"].to_pylist() == head.tolist()
    values = each[row, head, feature].tolist()
    assert told["value"].to_pylist() == pytest.approx(values, rel=1e-5)


def jacobian(name, **chosen):
    return EvaluateSettings(
        name="jacobian", dictionary=f"s/{name}", rows=64, cosines=False, splice=None,
        jacobian=JacobianSettings(**chosen),
    )  # fmt: skip


def test_its_jacobian_is_compared_with_that_of_the_models_mlp(lake, device, tiny_gpt2):
    dictionary = train.run(settings("molt"), lake, device=device)
    found = evaluate.run(jacobian("molt", contexts=3, projections=99), lake, device=device).values
    block = AutoModelForCausalLM.from_pretrained(tiny_gpt2).transformer.h[1].requires_grad_(False)

    def mlp(x):
        return block.mlp(x * block.ln_2.weight + block.ln_2.bias)

    store = ActivationStore.open(lake, "store")
    rows = kept_rows(store, [MLP_IN], held_out_contexts(store, some=3))[MLP_IN]
    theirs = torch.func.vmap(torch.func.jacrev(mlp))(rows).flatten(1)
    ours = dictionaries.jacobian(dictionary, rows).flatten(1)
    cosines = torch.cosine_similarity(ours, theirs, dim=1)
    assert found["jacobian_cosine"] == pytest.approx(float(cosines.mean()), abs=1e-4)
    tenth = float(cosines.quantile(0.1))
    assert found["jacobian_cosine[p10]"] == pytest.approx(tenth, abs=1e-3)


def test_a_jacobian_is_refused_where_there_is_nothing_to_compare(lake, device):
    train.run(settings("crosscoder"), lake, device=device)
    with pytest.raises(ConfigError, match="reads and reconstructs") as caught:
        evaluate.run(jacobian("crosscoder"), lake, device=device)
    assert caught.value.hint
    across = settings("transcoder").model_dump()
    across |= {"name": "across", "budget": {"rows": 128}}
    across["dictionary"] |= {"hookpoint_in": CLT_IN[0]}
    train.run(TrainSettings.model_validate(across), lake, device=device)
    with pytest.raises(ConfigError, match="tokens before it meet"):
        evaluate.run(jacobian("across"), lake, device=device)
    across |= {"name": "back"}
    across["dictionary"] |= {"hookpoint_in": MLP_OUT, "hookpoint_out": MLP_IN}
    train.run(TrainSettings.model_validate(across), lake, device=device)
    with pytest.raises(ConfigError, match="does not change with"):
        evaluate.run(jacobian("back"), lake, device=device)


def test_a_molt_tells_the_ranks_of_its_features_and_what_its_logits_are_of(lake, device):
    train.run(settings("molt"), lake, device=device)
    analyze.run(AnalyzeSettings(dictionary="s/molt"), lake, device=device)
    none = {"dictionary": "s/molt", "name": "none", "firings": "none"}
    means = AnalyzeSettings.model_validate({**none, "logits": {"scores": ["direction"]}})
    with pytest.raises(UnsupportedError, match="its mean is over all firings"):
        analyze.run(means, lake, device=device)
    where = "WHERE dictionary = 'molt'"
    ranks = features.query(lake, f"SELECT rank, count(*) AS n FROM features {where} GROUP BY rank")
    found = zip(ranks["rank"].to_pylist(), ranks["n"].to_pylist(), strict=True)
    assert dict(found) == FAMILIES["molt"]["ranks"]
    scores = features.query(lake, f"SELECT DISTINCT score FROM logits {where}")
    assert set(scores["score"].to_pylist()) == {"left_singular", "additive"}
    metrics = table_file.from_bytes(lake.artefact(Ref("dictionary", "s/molt")).read(layout.METRICS))
    last = [row for row in metrics.to_pylist() if row["step"] == max(metrics["step"].to_pylist())]

    def of_ranks(name):
        return [row["value"] for row in last if row["name"] == f"{name}_rank"]

    (dead,) = (row["value"] for row in last if row["name"] == "dead")
    assert 0 < sum(of_ranks("l0")) <= TOPK["k"]
    assert len(of_ranks("dead")) == 3
    assert sum(of_ranks("dead")) == dead
    assert all(length > 0 for length in of_ranks("dec_norm"))


def test_logits_of_a_molt_are_those_of_what_it_writes_on_average(lake, device, tiny_gpt2):
    """`direction`: mean over firings of U V x; `additive`: of value / sigma U V x, row by row."""
    train.run(settings("molt"), lake, device=device)
    scores = ("direction", "additive", "renormalised", "left_singular")
    wanted = AnalyzeSettings(
        name="means", dictionary="s/molt", logits={"scores": scores, "top_k": 3}, coactivation=None
    )
    ref = analyze.run(wanted, lake, device=device)
    molt, store = load(lake, "s/molt").in_raw_units(), ActivationStore.open(lake, "store")
    rows = torch.from_numpy(store.read(MLP_IN, 0, store.n_rows)).to(device)
    code = molt.encode({MLP_IN: rows}).to_dense().double().cpu()
    code[torch.from_numpy(store.flags() != 0)] = 0
    sigma = torch.from_numpy(store.captured("final_norm_scale")).double()
    t = {name: tensor.double().cpu() for name, tensor in molt.tensors().items()}
    maps = torch.cat([t[f"U.{rank}"] @ t[f"V.{rank}"] for rank in (8, 4, 2)])
    weights = {"direction": (code > 0).double(), "additive": code / sigma[:, None]}
    fires = (code > 0).sum(dim=0)
    unembedding = LanguageModel.load(LmSettings(model=str(tiny_gpt2)), device="cpu").unembedding()
    columns = unembedding.W_U[:, : store.vocabulary().num_rows].double()
    lines = features.Analysis.open(lake, ref.name).lazy("logits").collect()
    drawn = features.Analysis.open(lake, ref.name).lazy("histograms").collect()
    assert set(lines["score"]) == set(scores)
    for score, each in weights.items():
        mean = torch.einsum("foi,fi->fo", maps, each.T @ rows.double().cpu())
        mean = mean / fires.clamp(min=1)[:, None]
        seen = (mean - mean.mean(dim=1, keepdim=True)) * unembedding.gain.double()
        logits = seen @ columns
        logits -= logits.mean(dim=1, keepdim=True)
        best = logits.max(dim=1)
        found = lines.filter(score=score, sign=1, rank=0)
        live = fires.nonzero().flatten().tolist()
        assert found["feature"].to_list() == live
        assert found["token_id"].to_list() == best.indices[live].tolist()
        np.testing.assert_allclose(found["value"], best.values[live], rtol=1e-3)
        counted = drawn.filter(what=f"logit:{score}")
        for feature, counts in zip(counted["feature"], counted["counts"], strict=True):
            assert sum(counts) == (columns.shape[1] if fires[feature] else 0)
    assert lines["feature"].n_unique() == 53  # the dead have the other scores


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FAMILIES]
)
def test_interrupted_it_ends_with_the_same_bytes(lake, device, name, tmp_path):
    whole = train.run(settings(name), lake, device=device)
    again = Lake.at(tmp_path)
    store = Ref("activations", "store")
    shutil.copytree(lake.artefact(store).local, again.artefact(store).local)
    seen = []

    def stop(_, step):
        seen.append(step)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        train.run(settings(name), again, device=device, evaluate=stop)
    resumed = train.run(settings(name), again, device=device)
    assert 0 < seen[1] < seen[2]
    for key, tensor in whole.tensors().items():
        assert torch.equal(resumed.tensors()[key], tensor), key


SAID = {"model_id": "toy", "set_name": "res"}


def exported(form, analysis, folder):
    """What a tool is given, by its folder and number: features, and of SAEDashboard what is skipped."""
    export_features(form, analysis, folder)
    if form.name == "saedashboard":
        return {
            (at.parent.name, each["feature_index"]): each
            for at in folder.rglob("batch-*.json")
            for each in json.loads(at.read_text())["features"]
        }
    return {
        (at.parents[1].name, int(each["index"])): each
        for at in folder.rglob("features/*.gz")
        for each in map(json.loads, gzip.decompress(at.read_bytes()).splitlines())
    }


def test_a_clt_is_a_source_for_each_layer_where_dashboards_are(lake, device, tmp_path):
    train.run(settings("clt"), lake, device=device)
    ref = analyze.run(AnalyzeSettings(dictionary="s/clt"), lake, device=device)
    analysis = features.Analysis.open(lake, ref.name)
    theirs = exported(SaeDashboard(SaeDashboardSettings(**SAID)), analysis, tmp_path / "a")
    mine = {"creator_id": "me", "creator_name": "Me", "release": "r", **SAID}
    lines = exported(Neuronpedia(NeuronpediaSettings(**mine)), analysis, tmp_path / "b")
    assert sorted(lines) == [(f"{layer}-res", n) for layer in (0, 1) for n in range(53)]
    assert set(theirs) <= set(lines)
    skipped = [
        json.loads((tmp_path / "a" / f"{layer}-res/skipped_indexes.json").read_text())
        for layer in (0, 1)
    ]
    assert [each["layer"] for each in skipped] == ["0", "1"]
    listed = {(f"{layer}-res", n) for layer in (0, 1) for n in skipped[layer]["skipped_indexes"]}
    assert listed == set(lines) - set(theirs)
    for (folder, index), line in lines.items():
        layer = int(folder[0])
        page = analysis.feature(53 * layer + index)
        assert (line["modelId"], line["layer"]) == ("toy", folder)
        assert line["frac_nonzero"] == page.density
        assert line["pos_str"] == [each.token for each in page.logits[0].promoted]
        assert line["neuron_alignment_indices"] == []  # of several vectors, no one's
        for name, found in (
            ("correlated_features_indices", [each.feature for each in page.coactive]),
            ("topkCosSimIndices", [n.feature for n in page.neighbours if n.method == "dec_cos"]),
        ):
            inside = {each - 53 * layer for each in found if each // 53 == layer}
            assert set(line[name]) <= inside
            assert (name.startswith("corr")) or set(line[name]) == inside
    one = SaeDashboardSettings(layer=1, **SAID)
    assert {n for _, n in exported(SaeDashboard(one), analysis, tmp_path / "c")} == {
        n for folder, n in theirs if folder == "1-res"
    }
    with pytest.raises(ConfigError, match="layer: found 7; expected one of 0, 1"):
        export_features(
            SaeDashboard(SaeDashboardSettings(layer=7, **SAID)), analysis, tmp_path / "d"
        )


def test_a_crosscoder_s_dashboards_are_of_the_hookpoint_that_is_named(lake, device, tmp_path):
    train.run(settings("crosscoder"), lake, device=device)
    ref = analyze.run(AnalyzeSettings(dictionary="s/crosscoder"), lake, device=device)
    analysis = features.Analysis.open(lake, ref.name)
    loaded = load(lake, "s/crosscoder").in_raw_units()
    scores = analysis.lazy("logits").collect()
    assert set(scores["head"]) == {0, 1}
    for head, hook in enumerate(HEADS):
        wanted = SaeDashboardSettings(hookpoint=hook, vectors=True, **SAID)
        found = exported(SaeDashboard(wanted), analysis, tmp_path / str(head))
        vectors = loaded.decoder_vectors_at(hook).detach().cpu().numpy()
        for (_, feature), each in found.items():
            np.testing.assert_allclose(each["vector"], vectors[feature], atol=6e-4)
            table = next(t for t in analysis.feature(feature).logits if t.head == head)
            assert each["pos_str"] == [token.token for token in table.promoted]
            assert sum(each["logits_hist_data_bar_heights"]) > 0
        written = json.loads((tmp_path / str(head) / "batch-0.json").read_text())
        assert written["layer"] == head
    with pytest.raises(ConfigError, match="hookpoint") as caught:
        export_features(SaeDashboard(SaeDashboardSettings(**SAID)), analysis, tmp_path / "x")
    assert f"hookpoint={HEADS[1]}" in caught.value.hint
    other = SaeDashboard(SaeDashboardSettings(hookpoint=HEADS[0][:-1], **SAID))
    with pytest.raises(HookpointNotFoundError, match=r"matches 'blocks\.0\.hook_resid_pos'"):
        export_features(other, analysis, tmp_path / "x")
    train.run(settings("transcoder"), lake, device=device)
    plain = analyze.run(AnalyzeSettings(dictionary="s/transcoder"), lake, device=device)
    with pytest.raises(ConfigError, match="expected nothing"):
        export_features(
            SaeDashboard(SaeDashboardSettings(hookpoint=MLP_OUT, **SAID)),
            features.Analysis.open(lake, plain.name),
            tmp_path / "x",
        )
