"""Oracles of activation functions: closed forms, equalities between them, hand values, estimators."""

import copy
import math
import weakref

import pytest
import torch

from saestore import dictionaries
from saestore.dictionaries import DenseCode, backends
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS, jumprelu
from saestore.dictionaries.activation_functions.batchtopk import in_all
from saestore.dictionaries.jump_loops import DenseWindow
from saestore.errors import UnsupportedError
from saestore.testing.dictionaries import D_IN, D_SAE, HOOK, random_sae, raw_rows
from saestore_schemas.dictionary import (
    AbsTopK,
    ActivationSettings,
    BatchTopK,
    Gated,
    JumpRelu,
    Relu,
    SameAsTraining,
    ThresholdInference,
    TopK,
)
from tests.saestore.dictionaries.test_sae import changed, sae


def rows(n=13, seed=0):
    return torch.from_numpy(raw_rows(n, seed=seed))


def trained(dictionary, x):
    """Code of a forward pass on raw rows."""
    return dictionary(dictionary.normalise({HOOK: x})).code.to_sparse().to_dense()


def on_scores(activation, scores, **tensors):
    """The training code of given pre-activations: an identity encoder reads them."""
    width = len(scores[0])
    eye = torch.eye(width, dtype=torch.float64)
    one = sae(activation, {"W_enc": eye, "W_dec": eye, **tensors})
    return one, torch.tensor(scores, dtype=torch.float64)


def test_settings_say_the_same_of_a_kind_as_what_computes_it():
    settings = {
        each.model_fields["kind"].default: each for each in ActivationSettings.__subclasses__()
    }
    assert settings.keys() == ACTIVATION_FUNCTIONS.keys()
    for kind, function in ACTIVATION_FUNCTIONS.items():
        said = settings[kind]
        assert (said.ranks, said.ranks) == (function.ranks, function.fixes_l0), kind
        assert (said.row_wise, said.has_gate) == (function.row_wise, function.has_gate), kind
        assert said.learns_thresholds == bool(function.learned_thresholds), kind


@pytest.mark.parametrize("gated", [False, True])
def test_d2_batch_top_k_of_one_row_is_top_k(gated):
    batch = random_sae(BatchTopK(k=4), gate_on_decoder_norm=gated)
    single = random_sae(TopK(k=4), gate_on_decoder_norm=gated)
    for x in rows().split(1):
        torch.testing.assert_close(trained(batch, x), trained(single, x))


@pytest.mark.parametrize("gated", [False, True])
def test_d3_batch_top_k_is_jumprelu_on_its_batch_and_then_independent_of_mates(gated):
    one, x = random_sae(BatchTopK(k=3.5), gate_on_decoder_norm=gated), rows()
    scores = torch.cat([each.clone() for each in one.gate_scores(x)])
    ranked = scores.flatten().sort(descending=True).values
    count = math.floor(3.5 * 13)
    threshold = float(ranked[count - 1] + ranked[count]) / 2
    fixed = one.with_threshold(threshold, ThresholdInference(source="imported"))
    torch.testing.assert_close(fixed.encode(x).to_dense(), trained(one, x))
    assert torch.equal(fixed.encode(x[:2]).to_dense(), fixed.encode(x).to_dense()[:2])
    assert not torch.equal(trained(one, x[:2]), trained(one, x)[:2])


def test_d4_jumprelu_at_zero_is_relu():
    relu = random_sae(Relu())
    jump = changed(random_sae(JumpRelu()), threshold=torch.zeros_like)
    assert torch.equal(trained(jump, rows()), trained(relu, rows()))
    assert torch.equal(jump.encode(rows()).to_dense(), relu.encode(rows()).to_dense())


def test_d5_a_gate_like_its_strength_is_relu():
    relu, gated = random_sae(Relu()), random_sae(Gated())
    bias = relu.tensors()["b_enc"]
    same = changed(
        gated, r_mag=torch.zeros_like, b_mag=lambda _: bias, b_gate=lambda _: bias,
        **{name: (lambda _, n=name: relu.tensors()[n]) for name in ("W_enc", "W_dec", "b_dec")},
    )  # fmt: skip
    torch.testing.assert_close(trained(same, rows()), trained(relu, rows()))


@pytest.mark.parametrize("activation", [Gated(), Relu(), BatchTopK(k=3.5)], ids=lambda a: a.kind)
@pytest.mark.parametrize("gate_on_decoder_norm", [False, True])
def test_d6_conversion_to_jumprelu_holds_for_all_inputs(activation, gate_on_decoder_norm):
    if activation.kind == "gated" and gate_on_decoder_norm:
        return
    one = random_sae(activation, gate_on_decoder_norm=gate_on_decoder_norm)
    jump = one.as_jumprelu()
    assert jump.config.semantics.activation.kind == "jumprelu"
    assert jump.config.semantics.inference == SameAsTraining()
    for seed in range(3):
        x = 5 * rows(200, seed)
        torch.testing.assert_close(jump.encode(x).to_dense(), one.encode(x).to_dense())
        torch.testing.assert_close(jump.reconstruct(x), one.reconstruct(x))
    folded = one.folded().as_jumprelu()
    torch.testing.assert_close(folded.reconstruct(x), one.reconstruct(x))


def test_top_k_is_no_jumprelu():
    with pytest.raises(UnsupportedError, match="which no threshold can say"):
        random_sae(TopK(k=2)).as_jumprelu()


@pytest.mark.parametrize("gate_on_decoder_norm", [False, True])
def test_above_a_threshold_a_top_k_fires_with_the_same_activations(gate_on_decoder_norm):
    one = random_sae(TopK(k=2), gate_on_decoder_norm=gate_on_decoder_norm)
    limit, x = 0.8, rows(200)
    jump = one.as_jumprelu([limit])
    g = torch.cat([each.clone() for each in one.gate_scores(x)])
    lengths = one.decoder_norms() if gate_on_decoder_norm else torch.ones(D_SAE)
    wanted = torch.where(g > limit, g / lengths, 0)
    torch.testing.assert_close(jump.encode(x).to_dense(), wanted, rtol=1e-9, atol=1e-9)
    both = (jump.encode(x).to_dense() != 0) & (one.encode(x).to_dense() != 0)
    assert torch.equal(jump.encode(x).to_dense()[both], one.encode(x).to_dense()[both])
    torch.testing.assert_close(jump.folded().reconstruct(x), jump.reconstruct(x))


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (AbsTopK(k=2), "negative pre-activations too"),
        (Gated(), "a gate of its own"),
        (Relu(), "does not rank"),
    ],
)
def test_no_threshold_stands_for_what_is_not_above_one(activation, reason):
    with pytest.raises(UnsupportedError, match=reason):
        random_sae(activation).as_jumprelu([1.0])


@pytest.mark.parametrize(
    ("k", "given", "wanted"),
    [
        (2, [[1, -2, 3, -4], [-5, 6, -7, 8]], [[1, 0, 3, 0], [0, 6, 0, 8]]),
        (2, [[1, 2, 3, 4], [-5, -6, 0.5, -8]], [[1, 2, 3, 4], [0, 0, 0, 0]]),
        (1.5, [[1, -2, 3, -4], [-5, 6, -7, 8]], [[0, 0, 3, 0], [0, 6, 0, 8]]),
        (2, [[-1, 2, -3, -4], [5, -6, -7, -8]], [[0, 2, 0, 0], [5, 0, 0, 0]]),
        (1, [[2, 2, 2], [2, 2, 2]], [[2, 2, 0], [0, 0, 0]]),  # ties: lowest row, lowest feature
        (0.4, [[1, 2], [3, 4]], [[0, 0], [0, 0]]),  # less than one in all
    ],
)
def test_h1_batch_top_k_by_hand(k, given, wanted):
    one, x = on_scores(BatchTopK(k=k), given)
    assert trained(one, x).tolist() == wanted


def test_a_fractional_k_means_its_decimal():
    assert [in_all(0.29, 100), in_all(1.1, 10), in_all(64.0, 4096)] == [29, 11, 262144]


def test_h3_jumprelu_is_strict_by_hand():
    threshold = torch.tensor([1, 0.5, 1.5, 2, 0.8]).double()
    given = [[-1, 0.5, 1, 1.5, 2], [2, 1, 2, 3, 0.5]]
    one, x = on_scores(JumpRelu(), given, threshold=threshold)
    assert trained(one, x).tolist() == [[0, 0, 0, 0, 2], [2, 1, 2, 3, 0]]
    ones = {"W_enc": torch.ones(2, 3).double(), "W_dec": torch.ones(3, 2).double()}
    one = sae(JumpRelu(), {**ones, "threshold": torch.tensor([1, 0.5, 0.25]).double()})
    x = torch.full((1, 2), 0.3).double()
    torch.testing.assert_close(one.encode(x).to_dense(), torch.tensor([[0, 0.6, 0.6]]).double())
    torch.testing.assert_close(one.reconstruct(x)[HOOK], torch.full((1, 2), 1.2).double())


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize(("h", "of_f", "of_step"), [(0.012, -0.2, -20), (0.04, 0, 0)])
def test_h4_the_estimator_by_hand(h, of_f, of_step, share, monkeypatch):
    monkeypatch.setattr(backends, "wanted_share", share)
    settings = JumpRelu(bandwidth=0.05, ste_to_input=False)
    one, x = on_scores(settings, [[h]], threshold=torch.tensor([0.01]).double())
    code = one({HOOK: x}).code
    threshold = one.activation.threshold
    (found,) = torch.autograd.grad(code.weighted_sum(torch.ones(1).double()).sum(), threshold)
    torch.testing.assert_close(found, torch.tensor([of_f]).double())
    code = one({HOOK: x}).code
    (found,) = torch.autograd.grad(code.row_sums(code.steps()).sum(), threshold)
    torch.testing.assert_close(found, torch.tensor([float(of_step)]).double())


def test_h7_gated_by_hand():
    one = sae(
        Gated(),
        {
            "W_enc": torch.ones(2, 3).double(),
            "W_dec": torch.ones(3, 2).double(),
            "b_gate": torch.tensor([-2.0, 0, 1]).double(),
            "r_mag": torch.tensor([1.0, 2, 3]).double(),
            "b_mag": torch.ones(3).double(),
        },
    )
    x = torch.full((1, 2), 0.3).double()
    for code in (trained(one, x), one.encode(x).to_dense()):
        torch.testing.assert_close(
            code, torch.tensor([[0, 5.4334, 13.0513]]).double(), rtol=1e-5, atol=1e-5
        )
    wanted = torch.full((1, 2), 18.4848).double()
    torch.testing.assert_close(one.reconstruct(x)[HOOK], wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        one.as_jumprelu().thresholds(), torch.tensor([6.4366, 1, 0]).double(), rtol=1e-4, atol=1e-4
    )


def test_c6_the_estimator_meets_the_analytic_density():
    """h ~ N(.3, 1), θ = .7: dE[L0]/dθ = −φ(.4), and θ times that for f."""
    draw = torch.Generator().manual_seed(0)
    h = 0.3 + torch.randn(2_000_000, 1, generator=draw, dtype=torch.float64)
    one = sae(
        JumpRelu(bandwidth=0.05, ste_to_input=False),
        {
            "W_enc": torch.ones(1, 1).double(),
            "W_dec": torch.ones(1, 1).double(),
            "threshold": torch.tensor([0.7]).double(),
        },
    )
    code = one({HOOK: h}).code
    (of_l0,) = torch.autograd.grad(
        code.row_sums(code.steps()).mean(), one.activation.threshold, retain_graph=True
    )
    (of_f,) = torch.autograd.grad(
        code.weighted_sum(torch.ones(1).double()).mean(), one.activation.threshold
    )
    assert of_l0.item() == pytest.approx(-0.3683, rel=0.01)  # on f it would be half
    assert of_f.item() == pytest.approx(-0.2578, rel=0.01)


class Jump(torch.autograd.Function):
    """J(g) = g 1[g > θ] with the window's gradient, as its sources write it for g."""

    @staticmethod
    def forward(ctx, g, threshold, width, to_input):
        ctx.save_for_backward(g, threshold)
        ctx.width, ctx.to_input = width, to_input
        return g * (g > threshold)

    @staticmethod
    def backward(ctx, upstream):
        g, threshold = ctx.saved_tensors
        window = ((g - threshold).abs() / ctx.width < 0.5) * threshold / ctx.width * upstream
        to_g = (g > threshold) * upstream + (window if ctx.to_input else 0)
        return to_g, -window.sum(dim=0), None, None


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("to_input", [False, True])
def test_jumprelu_gradients_are_those_of_its_definition(share, gated, to_input, monkeypatch):
    """With the gate on h n, f = J(h n)/n and everything follows, the gradient in n too."""
    monkeypatch.setattr(backends, "wanted_share", share)
    settings = JumpRelu(bandwidth=1.5, ste_to_input=to_input)
    one = random_sae(settings, gate_on_decoder_norm=gated, scale="none")
    x = 0.3 * rows(40)
    upstream = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(1)).double()
    mine = (one({HOOK: x}).reconstruction[HOOK] * upstream).sum()
    names, parameters = zip(*one.named_parameters(), strict=True)
    found = torch.autograd.grad(mine, parameters)

    h = (x - one.b_dec) @ one.W_enc + one.b_enc
    n = one.W_dec.norm(dim=1) if gated else torch.ones(D_SAE).double()
    f = Jump.apply(h * n, one.activation.threshold, 1.5, to_input) / n
    assert 0.02 < (((h * n) - one.activation.threshold).abs() < 0.75).double().mean() < 0.9
    wanted = torch.autograd.grad(((f @ one.W_dec + one.b_dec) * upstream).sum(), parameters)
    for name, a, b in zip(names, found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("shape", [(13, 11), (700, 11)], ids=str)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_jumprelu_loops_are_its_tensor_operations(shape, gated, to_input, threads):
    """Values and slopes to the bit, sums over rows to rounding; gradients of step and jump."""
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True)
    threshold = torch.rand(shape[1], generator=draw, dtype=torch.float64).requires_grad_()
    lengths = None
    if gated:
        lengths = torch.rand(shape[1], generator=draw, dtype=torch.float64)
        lengths[3] = 0
        lengths.requires_grad_()
    gate = (h if lengths is None else h * lengths).detach()
    upstream = torch.randn(shape, generator=draw, dtype=torch.float64)
    wanted = jumprelu._Window(0.7, to_input=to_input)
    inputs = [each for each in (h, threshold, lengths) if each is not None]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    loops = DenseWindow(h, gate, threshold, lengths, width=0.7, to_input=to_input)
    jumped, steps = loops.jump(), loops.steps()
    pairs = [
        (jumped, wanted.jump(h, threshold, gate, lengths)),
        (steps, wanted.steps(h, threshold, gate, lengths)()),
    ]
    for mine, theirs in pairs:
        assert torch.equal(mine, theirs)
        found = torch.autograd.grad(mine, inputs, upstream, allow_unused=True)
        other = torch.autograd.grad(theirs, inputs, upstream, allow_unused=True)
        for a, b in zip(found, other, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    torch.set_num_threads(before)


def test_jumprelu_loops_leave_no_memory_behind():
    """What is returned refers to the window; the window must not refer to it."""
    h = torch.randn(5, 7, requires_grad=True)
    window = DenseWindow(h, h.detach(), torch.ones(7), None, width=1.0, to_input=True)
    gone = weakref.ref(window)
    window.jump().sum().backward()
    del window
    assert gone() is None


@pytest.mark.parametrize("to_input", [False, True])
def test_the_estimators_reach(to_input):
    """GDM's reaches thresholds alone, Anthropic's encoder and bias too: f = 0 but in the window."""
    settings = JumpRelu(bandwidth=2.0, ste_to_input=to_input)
    one, x = on_scores(settings, [[0.3, 0.4]], threshold=torch.tensor([0.5, 0.5]).double())
    one({HOOK: x}).reconstruction[HOOK].sum().backward()
    assert (one.activation.threshold.grad != 0).all()
    for gradient in (one.encoder.grad, one.b_enc.grad):
        assert bool((gradient != 0).any()) is to_input


def test_h5_thresholds_move_and_come_back_to_zero():
    """50 Adam steps at 1e-3 under an L0 penalty: more than .01, less than .05 on average."""
    torch.manual_seed(0)
    one = random_sae(JumpRelu(bandwidth=0.05, ste_to_input=False), scale="none")
    one = changed(one, threshold=lambda t: torch.full_like(t, 0.01))
    optimizer = torch.optim.Adam(one.parameters(), lr=1e-3)
    for _ in range(50):
        x = torch.randn(256, D_IN, dtype=torch.float64)
        output = one({HOOK: x})
        steps = output.code.row_sums(output.code.steps()).mean()
        loss = (output.reconstruction[HOOK] - x).square().sum(dim=1).mean() + steps
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0.01 < (one.activation.threshold - 0.01).mean() < 0.05
    with torch.no_grad():
        one.activation.threshold[0] = -0.5
    assert one.thresholds()[0] == 0
    one({HOOK: x})
    assert one.activation.threshold[0] == 0


def test_thresholds_stay_float32_in_narrow_dictionaries():
    one = random_sae(JumpRelu(), dtype=torch.float32)
    exact = one.thresholds().clone()
    narrow = one.bfloat16()
    assert narrow.W_dec.dtype == torch.bfloat16
    assert narrow.activation.threshold.dtype == torch.float32
    assert torch.equal(narrow.thresholds(), exact)
    assert narrow.threshold_names() == {"activation.threshold"}


def test_the_running_mean_is_unbiased_from_the_first_batch_on():
    one, x = random_sae(BatchTopK(k=2)), rows()
    assert one.activation.running_mean() is None
    smallest = []
    for part in x.split(4):
        output = one(one.normalise({HOOK: part}))
        mask = output.code.to_sparse().to_dense() > 0
        smallest.append(float(output.pre.gate[mask].min()))
        if len(smallest) == 1:
            assert one.activation.running_mean() == pytest.approx(smallest[0], rel=1e-12)
    weights = [0.99 ** (len(smallest) - 1 - i) for i in range(len(smallest))]
    wanted = sum(w * s for w, s in zip(weights, smallest, strict=True)) / sum(weights)
    assert one.activation.running_mean() == pytest.approx(wanted, rel=1e-9)
    assert one.thresholds().mean() == pytest.approx(wanted, rel=1e-9)
    one.eval()
    one(one.normalise({HOOK: x}))
    assert one.activation.running_mean() == pytest.approx(wanted, rel=1e-12)


def test_abs_top_k_keeps_signs():
    one, x = on_scores(AbsTopK(k=2), [[1, -5, 3, -2], [0, 0, -1, 0]])
    assert trained(one, x).tolist() == [[0, -5, 3, 0], [0, 0, -1, 0]]
    assert one.encode(x).l0().tolist() == [2, 1]
    assert one.config.semantics.firing == "nonzero"
    output = one({HOOK: x})
    assert output.code.firings().tolist() == [0, 1, 2, 0]


EXACT = [
    (Relu(), False), (Relu(), True), (Gated(), False), (JumpRelu(), False), (JumpRelu(), True),
    (TopK(k=4), True), (AbsTopK(k=4), True), (BatchTopK(k=3.5), True),
]  # fmt: skip


@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize(("activation", "gated"), EXACT, ids=str)
def test_a_unit_decoder_changes_the_units_of_the_code_only(activation, gated, glu):
    if glu and activation.kind == "gated":
        return
    one, x = random_sae(activation, gate_on_decoder_norm=gated, glu=glu), rows(50)
    unit = one.with_unit_decoder()
    lengths = one.decoder_norms().detach()
    torch.testing.assert_close(unit.decoder_norms().detach(), torch.ones(D_SAE).double())
    torch.testing.assert_close(
        unit.encode(x).to_dense(), one.encode(x).to_dense() * lengths, rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(unit.reconstruct(x), one.reconstruct(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(trained(unit, x), trained(one, x) * lengths)
    assert not unit.config.semantics.gate_on_decoder_norm
    both = unit.folded()  # a unit decoder commutes with folding
    torch.testing.assert_close(both.reconstruct(x), one.reconstruct(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", [TopK(k=4), AbsTopK(k=4), BatchTopK(k=3)], ids=str)
def test_rankings_of_h_forbid_a_unit_decoder(activation):
    with pytest.raises(UnsupportedError, match="would change their order"):
        random_sae(activation).with_unit_decoder()
    equal = random_sae(activation, decoder_norm="unit")
    longer = changed(equal, W_dec=lambda w: 2 * w)
    unit = longer.with_unit_decoder()
    x = rows()
    torch.testing.assert_close(unit.encode(x).to_dense(), 2 * longer.encode(x).to_dense())


@pytest.mark.parametrize("activation", [Relu(), Gated(), JumpRelu(), TopK(k=4)], ids=str)
def test_absorbing_the_subtraction_changes_nothing(activation):
    one, x = random_sae(activation), rows()
    plain = one.without_subtraction()
    assert not plain.config.semantics.subtract_b_dec
    torch.testing.assert_close(plain.encode(x).to_dense(), one.encode(x).to_dense())
    assert plain.without_subtraction().config == plain.config


@pytest.mark.parametrize("activation", [Relu(), JumpRelu(), TopK(k=4)], ids=str)
@pytest.mark.parametrize("gated", [False, True])
def test_a_decoder_vector_of_zero_keeps_its_weights_or_its_silence(activation, gated):
    def cut(w):
        w = w.clone()
        w[3] = 0
        return w

    one, x = changed(random_sae(activation, gate_on_decoder_norm=gated), W_dec=cut), rows()
    if activation.kind == "topk" and not gated:
        with pytest.raises(UnsupportedError):
            one.with_unit_decoder()
        return
    unit = one.with_unit_decoder()
    fired = one.encode(x).to_dense()
    torch.testing.assert_close(unit.reconstruct(x), one.reconstruct(x))
    factors = one.decoder_norms().detach()
    if not gated:
        factors[3] = 1
    torch.testing.assert_close(unit.encode(x).to_dense(), fired * factors)
    assert unit.config.semantics.decoder_norm == "free"


def test_glu_is_its_definition():
    one, x = random_sae(Relu(), glu=True, scale="none"), rows()
    h = (x - one.b_dec) @ one.W_enc + one.b_enc
    t = x @ one.glu.T + one.b_glu
    wanted = torch.relu(h * torch.sigmoid(t)).detach()
    torch.testing.assert_close(trained(one, x), wanted)
    torch.testing.assert_close(one.encode(x).to_dense(), wanted)


def test_codes_of_a_range_of_features_and_their_sums():
    one, x = random_sae(TopK(k=1)), rows()
    ragged = one(one.normalise({HOOK: x})).code
    dense = DenseCode(ragged.to_sparse().to_dense())
    weights = torch.linspace(1, 2, D_SAE).double()
    for start, stop in ((0, 4), (4, D_SAE), (0, D_SAE), (5, 5)):
        a, b = ragged.between(start, stop), dense.between(start, stop)
        assert torch.equal(a.to_sparse().to_dense(), b.to_sparse().to_dense())
    for a, b in (
        (ragged.row_sums(ragged.scaled(weights)), dense.row_sums(dense.scaled(weights))),
        (ragged.feature_sums(ragged.scaled(weights)), dense.feature_sums(dense.scaled(weights))),
        (ragged.l0(), dense.l0()), (ragged.firings(), dense.firings()),
        (ragged.fired(), dense.fired()),
    ):  # fmt: skip
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("activation", "gated"), EXACT, ids=str)
def test_the_canonical_form_is_raw_unit_and_plain(activation, gated):
    one, x = random_sae(activation, gate_on_decoder_norm=gated, dtype=torch.float32), rows(50)
    form = dictionaries.canonical(one)
    found, exact = form.dictionary, copy.deepcopy(one).double()
    assert found.encode(x).values.dtype == torch.float64
    torch.testing.assert_close(
        found.encode(x).to_dense(), exact.encode(x).to_dense() * form.factors, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(found.reconstruct(x), exact.reconstruct(x), rtol=1e-6, atol=1e-6)
    semantics = found.config.semantics
    assert (semantics.subtract_b_dec, semantics.gate_on_decoder_norm) == (False, False)
    assert semantics.decoder_norm == "unit"
    assert found.config.scale[HOOK].state == "folded"
    assert len(form.rewrites) == 2


def test_the_canonical_form_stops_where_it_would_not_be_exact():
    form = dictionaries.canonical(random_sae(TopK(k=4)))
    assert (form.factors == 1).all()
    assert "decoder lengths kept" in form.rewrites[-1]
