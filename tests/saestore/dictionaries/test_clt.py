"""Oracles of cross-layer transcoders: the laws of every family, equations written out, transcoders."""

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from saestore import dictionaries
from saestore.dictionaries import DenseCode, RaggedCode, backends
from saestore.errors import ConfigError, HookpointNotFoundError, UnsupportedError
from saestore.testing.dictionaries import (
    ExactMoments,
    SparseDictionaryContract,
    random_dictionary,
    raw_rows,
)
from saestore.train import metrics, objectives
from saestore.train.counters import FiringCounters
from saestore_schemas.dictionary import (
    AbsTopK,
    BatchLayerTopK,
    BatchTopK,
    JumpRelu,
    LayerTopK,
    Relu,
    ThresholdInference,
    TopK,
)
from saestore_schemas.families import CltSettings, SaeSettings, TranscoderSettings
from saestore_schemas.objective import AuxSettings, LossSettings, TanhSettings
from saestore_schemas.train import InitSettings, TrainSettings


L, F, D_IN, D_OUT = 3, 11, 7, 5
INS = tuple(f"blocks.{layer}.hook_resid_mid" for layer in range(L))
OUTS = tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(L))
WIDTHS = {hook: width for pair in zip(INS, OUTS, strict=True) for hook, width in zip(pair, (D_IN, D_OUT), strict=True)}  # fmt: skip


def settings(activation, layers=L, **more):
    return CltSettings.model_validate(
        {
            "family": "clt",
            "hookpoints_in": INS[:layers],
            "hookpoints_out": OUTS[:layers],
            "d_sae": F,
            "activation": activation,
        }
        | more
    )


def widths(layers=L):
    return {hook: WIDTHS[hook] for hook in (*INS[:layers], *OUTS[:layers])}


def clt(activation, layers=L, **more):
    return random_dictionary(settings(activation, layers, **more), widths(layers))


def rows_of(hooks, rows=13):
    """Raw rows, other ones at each hookpoint."""
    return {
        hook: torch.from_numpy(raw_rows(rows, WIDTHS[hook], seed=5 + list(WIDTHS).index(hook)))
        for hook in hooks
    }


KINDS = {
    "topk": TopK(k=4),
    "abstopk": AbsTopK(k=4),
    "batchtopk": BatchTopK(k=3.5),
    "layertopk": LayerTopK(k=8),
    "batchlayertopk": BatchLayerTopK(k=7.5),
    "jumprelu": JumpRelu(bandwidth=0.5),
    "relu": Relu(),
}
VARIANTS = {
    "topk": {"activation": TopK(k=4), "gate_on_decoder_norm": False},
    "layertopk-hn-none": {"activation": LayerTopK(k=8), "scale": "none"},
    "batchtopk": {"activation": BatchTopK(k=3.5)},
    "jumprelu": {"activation": JumpRelu(bandwidth=0.5)},
    "jumprelu-h": {"activation": JumpRelu(bandwidth=0.5), "gate_on_decoder_norm": False},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
class TestCltContract(SparseDictionaryContract):
    @pytest.fixture(autouse=True)
    def _choose(self, options):
        self.options = options

    def dictionary(self, dtype):
        return random_dictionary(settings(**self.options), WIDTHS, dtype=dtype)

    def inputs(self, rows=13):
        return rows_of(INS, rows)


def parts_of(dictionary, inputs, tensors=None):
    """h and n of each layer, from the equations."""
    tensors = dictionary.tensors() if tensors is None else tensors
    rows = dictionary.normalise(inputs)
    found = []
    for s, hook in enumerate(dictionary.hookpoints_in):
        h = rows[hook] @ tensors[f"W_enc.{s}"] + tensors[f"b_enc.{s}"]
        found.append((h, tensors[f"W_dec.{s}"].square().sum(dim=(1, 2)).sqrt()))
    return found


def written(dictionary, code, tensors=None):
    """What a code of each layer reconstructs, target by target, from the equations."""
    tensors = dictionary.tensors() if tensors is None else tensors
    f = code.split(F, dim=1)
    return {
        hook: tensors[f"b_dec.{t}"]
        + sum(f[s] @ tensors[f"W_dec.{s}"][:, t - s] for s in range(t + 1))
        for t, hook in enumerate(dictionary.hookpoints_out)
    }


def strongest(scores, k):
    """1 at the k largest positive scores of the whole matrix."""
    order = scores.flatten().argsort(descending=True)[:k]
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order] = True
    return mask.view(scores.shape) & (scores > 0)


@pytest.mark.parametrize("on_lengths", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_the_equations(kind, on_lengths):
    dictionary = clt(KINDS[kind], gate_on_decoder_norm=on_lengths)
    inputs = rows_of(INS)
    each = parts_of(dictionary, inputs)
    h = torch.cat([h for h, _ in each], dim=1)
    g = torch.cat([h * n if on_lengths else h for h, n in each], dim=1)
    layers = g.split(F, dim=1)
    fires = {
        "topk": lambda: torch.cat([strongest_rows(part, 4) for part in layers], dim=1),
        "abstopk": lambda: torch.cat([strongest_rows(part.abs(), 4) for part in layers], dim=1),
        "batchtopk": lambda: torch.cat([strongest(part, int(3.5 * 13)) for part in layers], dim=1),
        "layertopk": lambda: strongest_rows(g, 8),
        "batchlayertopk": lambda: strongest(g, int(7.5 * 13)),
        "jumprelu": lambda: g > dictionary.tensors()["threshold"].flatten(),
        "relu": lambda: g > 0,
    }[kind]()
    output = dictionary(dictionary.normalise(inputs))
    found = output.code.to_sparse().to_dense()
    torch.testing.assert_close(found, torch.where(fires, h, 0), rtol=1e-12, atol=1e-12)
    wanted = written(dictionary, found)
    for hook in OUTS:
        torch.testing.assert_close(output.reconstruction[hook].detach(), wanted[hook])


def strongest_rows(scores, k):
    return torch.cat([strongest(row.unsqueeze(0), k) for row in scores])


@pytest.mark.parametrize("share", [1.0, 0.0], ids=["sparse", "dense"])
@pytest.mark.parametrize("kind", ["topk", "batchtopk", "layertopk", "relu"])
def test_its_gradients_are_those_of_dense_matrices(kind, share, monkeypatch):
    monkeypatch.setattr(backends, "wanted_share", share)
    dictionary, inputs = clt(KINDS[kind]), rows_of(INS)
    output = dictionary(dictionary.normalise(inputs))
    assert isinstance(output.code, RaggedCode if share else DenseCode)
    targets = dictionary.normalise(rows_of(OUTS))
    weight = torch.linspace(0.5, 2, L * F, dtype=torch.float64)
    loss = sum((output.reconstruction[t] - targets[t]).square().sum() for t in OUTS)
    loss = loss + (output.code.weighted_sum(weight * dictionary.decoder_norms())).sum()
    loss.backward()

    tensors = {n: t.clone().requires_grad_() for n, t in dictionary.tensors().items()}
    each = parts_of(dictionary, inputs, tensors)
    h = torch.cat([h for h, _ in each], dim=1)
    n = torch.cat([n for _, n in each])
    code = torch.where(output.code.to_dense().detach() != 0, h, 0)
    expected = sum(
        (y - targets[t]).square().sum() for t, y in written(dictionary, code, tensors).items()
    )
    (expected + (code @ (weight * n)).sum()).backward()
    for s in range(L):
        torch.testing.assert_close(
            dictionary.decoders[s].grad.view(F, L - s, D_OUT), tensors[f"W_dec.{s}"].grad
        )
    torch.testing.assert_close(
        dictionary.b_dec.grad, torch.cat([tensors[f"b_dec.{t}"].grad for t in range(L)])
    )
    for s in range(L):
        torch.testing.assert_close(dictionary.encoders[s].grad, tensors[f"W_enc.{s}"].grad.T)
    torch.testing.assert_close(
        dictionary.b_enc.grad, torch.cat([tensors[f"b_enc.{s}"].grad for s in range(L)])
    )


def lost(dictionary, rows, targets, loss=LossSettings()):  # noqa: B008 - frozen
    """The terms of an objective on normalised rows."""
    output = dictionary(rows)
    nobody = torch.zeros(0, dtype=torch.int64)
    seen = objectives.Pass(dictionary, rows, targets, output, nobody, step=1)
    terms = objectives.terms(loss, dictionary, variance=1.0, total_steps=2)
    return {term.name: term(seen) for term in terms}


def transcoder(activation, layer, tensors, **more):
    """The transcoder of a layer's own weights."""
    made = random_dictionary(
        TranscoderSettings(
            family="transcoder",
            hookpoint_in=INS[layer],
            hookpoint_out=OUTS[layer],
            d_sae=F,
            activation=activation,
            decoder_norm="free",
            gate_on_decoder_norm=True,
            **more,
        ),
        {INS[layer]: D_IN, OUTS[layer]: D_OUT},
    )
    own = {
        "W_enc": tensors[f"W_enc.{layer}"],
        "b_enc": tensors[f"b_enc.{layer}"],
        "W_dec": tensors[f"W_dec.{layer}"][:, 0],
        "b_dec": tensors[f"b_dec.{layer}"],
    }
    if "threshold" in tensors:
        own["threshold"] = tensors["threshold"][layer]
    return made.restore(made.config, made.scales, own)


TANH = LossSettings(sparsity=TanhSettings(coefficient=0.7, stretch=1.3))


@pytest.mark.parametrize("activation", [Relu(), JumpRelu(bandwidth=0.5)], ids=["relu", "jumprelu"])
def test_d9_without_cross_layer_decoders_it_is_as_many_transcoders(activation):
    whole = clt(activation, scale="none")
    tensors = whole.tensors()
    for layer in range(L):
        tensors[f"W_dec.{layer}"][:, 1:] = 0
    whole = whole.restore(whole.config, whole.scales, tensors)
    inputs, targets = rows_of(INS), rows_of(OUTS)
    together = lost(whole, inputs, targets, TANH)
    apart = [
        lost(
            transcoder(activation, layer, tensors, scale="none"),
            {INS[layer]: inputs[INS[layer]]},
            {OUTS[layer]: targets[OUTS[layer]]},
            TANH,
        )
        for layer in range(L)
    ]
    for name, value in together.items():
        torch.testing.assert_close(value, sum(each[name] for each in apart), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["topk", "layertopk", "jumprelu", "relu"])
def test_d9_of_one_layer_it_is_a_transcoder(kind):
    one = clt(KINDS[kind], layers=1)
    plain = TopK(k=8) if kind == "layertopk" else KINDS[kind]
    same = transcoder(plain, 0, one.tensors())
    same = same.restore(same.config, one.scales, same.tensors())
    inputs = rows_of(INS[:1])
    assert torch.equal(one.encode(inputs).to_dense(), same.encode(inputs).to_dense())
    assert torch.equal(one.reconstruct(inputs)[OUTS[0]], same.reconstruct(inputs)[OUTS[0]])


def test_c12_mlps_of_the_host_are_a_clt_without_error():
    hosts = clt(Relu(), scale="none", gate_on_decoder_norm=False)
    tensors = hosts.tensors()
    for layer in range(L):
        tensors[f"W_dec.{layer}"][:, 1:] = 0
    found = hosts.restore(hosts.config, hosts.scales, tensors).reconstruct(rows_of(INS))
    for layer, (hook, x) in enumerate(zip(OUTS, rows_of(INS).values(), strict=True)):
        hidden = torch.relu(x @ tensors[f"W_enc.{layer}"] + tensors[f"b_enc.{layer}"])
        y = hidden @ tensors[f"W_dec.{layer}"][:, 0] + tensors[f"b_dec.{layer}"]
        torch.testing.assert_close(found[hook], y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_i1_features_of_a_layer_have_no_order(kind):
    dictionary, inputs = clt(KINDS[kind]), rows_of(INS)
    order = [torch.randperm(F, generator=torch.Generator().manual_seed(s)) for s in range(L)]
    tensors = dictionary.tensors()
    for s in range(L):
        tensors[f"W_enc.{s}"] = tensors[f"W_enc.{s}"][:, order[s]]
        tensors[f"b_enc.{s}"] = tensors[f"b_enc.{s}"][order[s]]
        tensors[f"W_dec.{s}"] = tensors[f"W_dec.{s}"][order[s]]
    if "threshold" in tensors:
        tensors["threshold"] = torch.stack([tensors["threshold"][s, order[s]] for s in range(L)])
    permuted = dictionary.restore(dictionary.config, dictionary.scales, tensors)
    code = dictionary.encode(inputs).to_dense()[
        :, torch.cat([s * F + o for s, o in enumerate(order)])
    ]
    torch.testing.assert_close(permuted.encode(inputs).to_dense(), code)
    wanted = dictionary.reconstruct(inputs)
    for hook, rows in permuted.reconstruct(inputs).items():
        torch.testing.assert_close(rows, wanted[hook])


@pytest.mark.parametrize("on_lengths", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_i2_a_factor_of_a_feature_changes_nothing_where_it_may(kind, on_lengths):
    dictionary, inputs = clt(KINDS[kind], gate_on_decoder_norm=on_lengths), rows_of(INS)
    factors = torch.linspace(0.2, 3, L * F, dtype=torch.float64)
    tensors = dictionary.tensors()
    for s, own in enumerate(factors.split(F)):
        tensors[f"W_enc.{s}"] = tensors[f"W_enc.{s}"] * own
        tensors[f"b_enc.{s}"] = tensors[f"b_enc.{s}"] * own
        tensors[f"W_dec.{s}"] = tensors[f"W_dec.{s}"] / own.view(-1, 1, 1)
    if "threshold" in tensors and not on_lengths:
        tensors["threshold"] = tensors["threshold"] * factors.view(L, F)
    scaled = dictionary.restore(dictionary.config, dictionary.scales, tensors)
    wanted = dictionary.encode(inputs).to_dense() * factors
    found = scaled.encode(inputs).to_dense()
    ranks = kind in {"topk", "abstopk", "layertopk"}  # a batch's threshold is one of each feature
    if ranks and not on_lengths:
        assert not torch.allclose(found, wanted)
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    if kind == "relu":
        rows, targets = dictionary.normalise(inputs), dictionary.normalise(rows_of(OUTS))
        before, after = (lost(each, rows, targets, TANH) for each in (dictionary, scaled))
        torch.testing.assert_close(after["sparsity"], before["sparsity"])


def test_i3_rotating_inputs_and_outputs_leaves_the_loss():
    dictionary = clt(LayerTopK(k=6), scale="none")
    draw = torch.Generator().manual_seed(0)
    turns = {
        hook: torch.linalg.qr(torch.randn(w, w, generator=draw, dtype=torch.float64)).Q
        for hook, w in WIDTHS.items()
    }
    tensors = dictionary.tensors()
    for s in range(L):
        tensors[f"W_enc.{s}"] = turns[INS[s]].T @ tensors[f"W_enc.{s}"]
        tensors[f"b_dec.{s}"] = tensors[f"b_dec.{s}"] @ turns[OUTS[s]]
        targets = [tensors[f"W_dec.{s}"][:, t - s] @ turns[OUTS[t]] for t in range(s, L)]
        tensors[f"W_dec.{s}"] = torch.stack(targets, dim=1)
    turned = dictionary.restore(dictionary.config, dictionary.scales, tensors)
    rows, targets = rows_of(INS), rows_of(OUTS)
    plain = lost(dictionary, rows, targets)["mse"]
    rows = {hook: x @ turns[hook] for hook, x in rows.items()}
    targets = {hook: y @ turns[hook] for hook, y in targets.items()}
    torch.testing.assert_close(lost(turned, rows, targets)["mse"], plain, rtol=1e-12, atol=0)


def test_the_tanh_penalty_has_the_gradient_of_the_concatenated_length():
    dictionary, rows = clt(Relu(), scale="none"), rows_of(INS)
    targets = rows_of(OUTS)
    lost(dictionary, rows, targets, TANH)["sparsity"].backward()
    step = 1e-6
    for weights, place in (
        (dictionary.decoders[0], (3, 12)),
        (dictionary.decoders[1], (9, 1)),
        (dictionary.encoders[1], (9, 4)),
        (dictionary.b_enc, (F + 9,)),
    ):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weights[place] += sign * step
                values.append(float(lost(dictionary, rows, targets, TANH)["sparsity"]))
                weights[place] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert float(weights.grad[place]) == pytest.approx(numeric, rel=1e-6, abs=1e-9)


def test_a_top_k_on_lengths_that_folding_would_change_is_refused():
    for activation in (TopK(k=4), LayerTopK(k=6)):
        dictionary = clt(activation)
        with pytest.raises(UnsupportedError, match="scaled unequally") as caught:
            dictionary.folded()
        assert "with_unit_decoder" in caught.value.hint
        unit = dictionary.with_unit_decoder()
        torch.testing.assert_close(unit.decoder_norms(), torch.ones(L * F, dtype=torch.float64))
        wanted = dictionary.reconstruct(rows_of(INS))
        for hook, rows in unit.folded().reconstruct(rows_of(INS)).items():
            torch.testing.assert_close(rows, wanted[hook], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["relu", "batchtopk", "batchlayertopk", "jumprelu"])
def test_as_a_jumprelu_it_has_the_same_codes(kind):
    dictionary = clt(KINDS[kind])
    jump = dictionary.as_jumprelu()
    assert jump.config.semantics.activation.kind == "jumprelu"
    assert jump.tensors()["threshold"].shape == (L, F)
    inputs = rows_of(INS)
    assert torch.equal(jump.encode(inputs).to_dense(), dictionary.encode(inputs).to_dense())


def test_what_a_feature_writes():
    dictionary = clt(Relu())
    tensors = dictionary.tensors()
    summed = torch.cat([tensors[f"W_dec.{s}"].sum(dim=1) for s in range(L)])
    torch.testing.assert_close(dictionary.logit_directions()[0], summed)
    at = [dictionary.decoder_vectors_at(hook) for hook in OUTS]
    for s in range(L):
        for t in range(s, L):
            assert torch.equal(at[t][s * F : (s + 1) * F], tensors[f"W_dec.{s}"][:, t - s])
    norms = torch.stack([torch.linalg.vector_norm(each, dim=1) for each in at], dim=1)
    assert (norms[F:, 0] == 0).all()
    assert (norms[2 * F :, 1] == 0).all()
    torch.testing.assert_close(
        norms.square().sum(dim=1).sqrt(), dictionary.decoder_norms().detach()
    )
    assert torch.equal(dictionary.decoder_vectors(), torch.cat(at, dim=1))
    lengths = torch.linalg.vector_norm(dictionary.decoder_vectors(), dim=1)
    with pytest.raises(HookpointNotFoundError, match=r"blocks\.9"):
        dictionary.decoder_vectors_at("blocks.9.hook_mlp_out")
    torch.testing.assert_close(lengths, dictionary.decoder_norms().detach())
    assert dictionary.enc_dec_cosine().isnan().all()


def test_ranges_of_features_add_up():
    dictionary = clt(LayerTopK(k=9))
    rows = dictionary.normalise(rows_of(INS))
    output = dictionary(rows)
    bias = dictionary.without_features(rows)
    cuts = (0, 4, 15, 26, L * F)
    added = [
        dictionary.decode_between(output.code, rows, start, stop) for start, stop in pairwise(cuts)
    ]
    for hook, whole in output.reconstruction.items():
        torch.testing.assert_close(bias[hook] + sum(each[hook] for each in added), whole)


def test_a_threshold_of_each_layer():
    dictionary = clt(BatchTopK(k=3.5))
    record = ThresholdInference(source="exact", rows=5, l0=3.5)
    assert len(dictionary.ranked) == L
    found = dictionary.with_threshold([0.5, 1.0, 2.0], record).tensors()["threshold"]
    assert torch.equal(found, torch.tensor([[0.5], [1.0], [2.0]]).double().expand(L, F))
    joint = clt(BatchLayerTopK(k=3.5))
    assert joint.ranked == ((slice(0, L * F), 3.5),)
    assert (joint.with_threshold(0.5, record).tensors()["threshold"] == 0.5).all()


def begun(activation=TopK(k=3), sample=None, moments=None, **init):  # noqa: B008 - frozen
    return dictionaries.build(
        settings(activation),
        widths=WIDTHS,
        moments=moments
        or {hook: ExactMoments(raw_rows(50, width)) for hook, width in WIDTHS.items()},
        init=InitSettings(**init),
        seed=4,
        sample=sample,
    )


def test_it_starts_between_its_bounds():
    tensors = begun().tensors()
    for s in range(L):
        encoder, decoder = tensors[f"W_enc.{s}"], tensors[f"W_dec.{s}"]
        assert F**-0.5 * 0.8 < float(encoder.abs().max()) <= F**-0.5
        assert (L * D_OUT) ** -0.5 * 0.8 < float(decoder.abs().max()) <= (L * D_OUT) ** -0.5
        assert not tensors[f"b_enc.{s}"].any()
        assert not tensors[f"b_dec.{s}"].any()
    zeroed = begun(zero_cross_layer=True).tensors()
    for s in range(L):
        assert torch.equal(zeroed[f"W_dec.{s}"][:, 0], tensors[f"W_dec.{s}"][:, 0])
        assert not zeroed[f"W_dec.{s}"][:, 1:].any()


def test_encoder_biases_are_measured_layer_by_layer():
    sample = rows_of(WIDTHS, rows=400)
    rate = begun(Relu(), sample, firing_rate=0.25).encode(sample).to_dense() > 0
    torch.testing.assert_close(
        rate.double().mean(dim=0), torch.full((L * F,), 0.25).double(), rtol=0, atol=0.01
    )
    centred = begun(Relu(), sample, center_encoder_bias=True)
    scores = torch.cat([block.clone() for block in centred.gate_scores(sample)])
    assert float(scores.mean(dim=0).abs().max()) < 1e-5


def test_layers_of_unequal_width_are_refused():
    with pytest.raises(ConfigError, match="hookpoints_out"):
        dictionaries.build(
            settings(TopK(k=3)),
            widths=WIDTHS | {OUTS[1]: 4},
            moments={h: ExactMoments(raw_rows(50, w)) for h, w in (WIDTHS | {OUTS[1]: 4}).items()},
            init=InitSettings(),
            seed=0,
        )


@pytest.mark.parametrize("k", [2, 50], ids=["chosen", "all"])
def test_dead_features_take_over_what_is_missing_at_their_own_layer(k):
    dictionary = clt(TopK(k=1), gate_on_decoder_norm=False)
    with torch.no_grad():
        dictionary.b_enc[[1, 3, 4, F + 2, F + 5, F + 9]] -= 100  # far from firing: none in layer 2
    rows, targets = (dictionary.normalise(rows_of(hooks)) for hooks in (INS, OUTS))
    dead = torch.tensor([1, 3, 4, F + 2, F + 5, F + 9])
    output = dictionary(rows)
    seen = objectives.Pass(dictionary, rows, targets, output, dead, 0)
    variance = {hook: 1.5 + t for t, hook in enumerate(OUTS)}
    found = objectives.AuxK(AuxSettings(k=k), k=1, variance=variance)(seen)
    tensors, wanted = dictionary.tensors(), 0.0
    for s in range(2):
        own = dead[(dead >= s * F) & (dead < (s + 1) * F)] - s * F
        h = (rows[INS[s]] @ tensors[f"W_enc.{s}"] + tensors[f"b_enc.{s}"])[:, own]
        rank = h.argsort(dim=1, descending=True).argsort(dim=1)
        revived = torch.where(rank < k, h, 0) @ tensors[f"W_dec.{s}"][own, 0]
        left = (targets[OUTS[s]] - output.reconstruction[OUTS[s]]).detach()
        share = (left - revived).square().sum() / (left - left.mean(dim=0)).square().sum()
        wanted = wanted + min(len(own) / k, 1) * variance[OUTS[s]] / 32 * share
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-12, atol=0)
    found.backward()
    reached = torch.cat(
        [
            e.grad.abs().sum(dim=1) if e.grad is not None else torch.zeros(F)
            for e in dictionary.encoders
        ]
    )
    assert set(reached.nonzero()[:, 0].tolist()) <= set(dead.tolist())
    assert (reached[dead] > 0).any()
    for s, decoder in enumerate(dictionary.decoders[:2]):
        assert decoder.grad[:, D_OUT:].abs().sum() == 0, s
    assert dictionary.decoders[2].grad is None
    assert dictionary.b_dec.grad is None


def test_nothing_dead_is_exactly_nothing():
    dictionary = clt(TopK(k=1))
    rows, targets = (dictionary.normalise(rows_of(hooks)) for hooks in (INS, OUTS))
    nobody = torch.zeros(0, dtype=torch.int64)
    seen = objectives.Pass(dictionary, rows, targets, dictionary(rows), nobody, 0)
    assert float(objectives.AuxK(AuxSettings(), k=2, variance=1.0)(seen)) == 0


def test_l0_and_the_dead_are_told_layer_by_layer():
    dictionary = clt(LayerTopK(k=5))
    rows, targets = (dictionary.normalise(rows_of(hooks)) for hooks in (INS, OUTS))
    output = dictionary(rows)
    sums = metrics.PassSums()
    dead = torch.zeros(0, dtype=torch.int64)
    sums.add(objectives.Pass(dictionary, rows, targets, output, dead, 0))
    found = sums.metrics()
    each = (output.code.to_dense() != 0).split(F, dim=1)
    assert found["l0_layer"] == pytest.approx([float(part.sum()) / 13 for part in each])
    assert sum(found["l0_layer"]) == pytest.approx(found["l0_mean"])
    counters = FiringCounters(L * F, torch.device("cpu"))
    counters.update(output.code.firings(), 13)
    silent = metrics.of_counters(counters, 13, dictionary.groups)
    assert silent["dead_layer"] == tuple(float((~part.any(dim=0)).sum()) for part in each)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dictionary.hookpoints_out": OUTS[:2]}, "one pair of each layer"),
        ({"dictionary.hookpoints_in": (INS[0], INS[0], INS[1])}, "twice"),
        ({"dictionary.activation": {"kind": "gated"}}, "'gated' is not offered"),
        ({"dictionary.activation": {"kind": "topk", "k": 12}}, "more than d_sae = 11"),
        ({"dictionary.activation": {"kind": "layertopk", "k": 34}}, "more than d_sae = 33"),
        ({"init.tie": True}, "init.tie says nothing"),
        ({"init.decoder_bound": 0.5}, "init.decoder_bound says nothing"),
        ({"loss.matryoshka": {"sampled": 3}}, "whole layers"),
        ({"dictionary.decoder_norm": "unit"}, "free"),
        ({"loss.sparsity": {"kind": "tanh", "coefficient": 1.0}}, "fixes L0 by itself"),
        ({"optimizer.accumulate": 2}, "batchlayertopk"),
    ],
)
def test_settings_that_make_no_sense_say_why(changes, match):
    plain = {"kind": "batchlayertopk", "k": 5}
    sections = {
        "dictionary": {"family": "clt", "hookpoints_in": INS, "hookpoints_out": OUTS, "d_sae": F, "activation": plain},
        "init": {},
        "loss": {},
        "optimizer": {},
    }  # fmt: skip
    for path, value in changes.items():
        section, name = path.split(".")
        sections[section][name] = value
    given = {"series": "s", "name": "n", "activations": {"name": "a"}, "budget": {"epochs": 1.0}}
    with pytest.raises(ValidationError, match=match):
        TrainSettings.model_validate(given | sections)


def test_only_layers_have_kinds_over_layers():
    with pytest.raises(ValidationError, match="use 'batchtopk'"):
        SaeSettings(hookpoint=INS[0], d_sae=F, activation=BatchLayerTopK(k=3))
    sae = SaeSettings(hookpoint=INS[0], d_sae=F, activation=TopK(k=3))
    (wrong,) = InitSettings(zero_cross_layer=True).conflicts(sae)
    assert "zero_cross_layer" in wrong
