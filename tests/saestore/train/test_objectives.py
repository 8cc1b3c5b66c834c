"""Loss terms: closed forms, gradients by finite differences, and which weights they reach."""

import pytest
import torch

from saestore.dictionaries import DenseCode, backends, pre_activation
from saestore.dictionaries.backends import loops_backend
from saestore.testing.dictionaries import D_IN, D_SAE, HOOK, random_sae, raw_rows
from saestore.train import metrics
from saestore.train.objectives import AuxK, DecoderWeightedL1, Pass, SquaredError, terms
from saestore_schemas.dictionary import Relu, TopK
from saestore_schemas.objective import AuxSettings, L1Settings, LossSettings


DEAD = torch.tensor([1, 4, 5, 8])
LIVE = torch.tensor([0, 2, 3, 6, 7, 9, 10])


def seen(dictionary, rows, dead=DEAD, step=0):
    inputs = {HOOK: rows}
    return Pass(dictionary, inputs, inputs, dictionary(inputs), dead, step)


def rows(n=13):
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(1)).double()


def mostly_dead(*, subtract, gated=False):
    """A TopK SAE whose dead features have negative pre-activations everywhere."""
    dictionary = random_sae(TopK(k=3), subtract_b_dec=subtract, gate_on_decoder_norm=gated)
    with torch.no_grad():
        dictionary.b_enc[DEAD] = -50
    return dictionary


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_aux_reaches_dead_encoders_though_all_their_pre_activations_are_negative(
    subtract, gated, k
):
    dictionary = mostly_dead(subtract=subtract, gated=gated)
    context = seen(dictionary, rows())
    assert (context.output.pre.values[:, DEAD] < 0).all()
    AuxK(AuxSettings(k=k), k=3, variance=7.0)(context).backward()
    used = {int(i) for i in DEAD} if k >= 4 else None
    for gradient in (dictionary.encoder.grad, dictionary.W_dec.grad):
        assert (gradient[LIVE] == 0).all()
        reached = {int(i) for i in gradient.abs().sum(dim=1).nonzero()[:, 0]}
        assert reached
        assert reached == used if used else reached <= {int(i) for i in DEAD}
    assert (dictionary.b_enc.grad[LIVE] == 0).all()
    assert dictionary.b_enc.grad[DEAD].abs().sum() > 0
    if subtract:  # only through the pre-activation
        along = dictionary.b_enc.grad @ dictionary.encoder.detach()
        torch.testing.assert_close(dictionary.b_dec.grad, -along)
    else:
        assert dictionary.b_dec.grad is None or (dictionary.b_dec.grad == 0).all()


def aux_by_definition(dictionary, x, dead, k_aux, variance):
    """§3.7 of the reference, written with dense matrices and plain autograd."""
    encoder, decoder = dictionary.W_enc, dictionary.W_dec
    s = dictionary.config.semantics.subtract_b_dec
    h = (x - dictionary.b_dec if s else x) @ encoder + dictionary.b_enc
    g = h * decoder.norm(dim=1) if dictionary.config.semantics.gate_on_decoder_norm else h
    top = torch.zeros_like(h, dtype=torch.bool)
    top.scatter_(1, g.topk(3, dim=1).indices, value=True)
    f = torch.where(top & (h > 0), h, 0)
    e = (x - f @ decoder - dictionary.b_dec).detach()
    m = len(dead)
    if m == 0:
        return torch.zeros(())
    chosen = torch.zeros_like(top)
    best = g[:, dead].topk(min(k_aux, m), dim=1).indices
    chosen.scatter_(1, dead[best], value=True)
    guess = torch.where(chosen, h, 0) @ decoder
    ratio = (e - guess).square().sum() / (e - e.mean(dim=0)).square().sum()
    return min(m / k_aux, 1.0) * variance * ratio / 32


WAYS = {"sparse": (1.0, 1), "dense": (0.0, 1), "filled": (0.0, 3), "cannot fill": (0.0, 32)}
"""Above which share products are dense, and of what their features are a multiple."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_aux_is_its_definition_in_value_and_gradient(subtract, gated, k, way, monkeypatch):
    share, multiple = WAYS[way]
    monkeypatch.setattr(backends, "wanted_share", share)
    monkeypatch.setattr(loops_backend.Loops, "product_features", multiple)
    dictionary, x = mostly_dead(subtract=subtract, gated=gated), rows()
    mine = AuxK(AuxSettings(k=k), k=3, variance=7.0)(seen(dictionary, x))
    wanted = aux_by_definition(dictionary, x, DEAD, k, 7.0)
    torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)
    names, parameters = zip(*dictionary.named_parameters(), strict=True)
    found = torch.autograd.grad(mine, parameters, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(wanted, parameters, allow_unused=True, materialize_grads=True)
    for name, a, b in zip(names, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)


def test_ranking_some_rows_at_a_time_changes_no_bit_of_aux(monkeypatch):
    found = []
    for at_once in (1 << 30, 8 * len(DEAD) * 5):  # 13 rows: all, and 5, 5, 3
        monkeypatch.setattr(pre_activation, "RANKED_BYTES", at_once)
        dictionary = mostly_dead(subtract=True, gated=True)
        monkeypatch.setattr(backends, "wanted_share", None)
        context = seen(dictionary, rows())
        monkeypatch.setattr(backends, "wanted_share", 1.0)
        assert context.output.pre.linear.known  # k is large among 11 features
        value = AuxK(AuxSettings(k=2), k=3, variance=7.0)(context)
        found.append([value, *torch.autograd.grad(value, list(dictionary.parameters()))])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_rows_in_blocks_change_aux_by_rounding_only(monkeypatch):
    monkeypatch.setattr(loops_backend.Loops, "product_rows", 5)  # of 13 rows
    monkeypatch.setattr(loops_backend.Loops, "ranked_rows", 2)
    found = []
    for backend in ("torch", "loops"):
        dictionary = random_sae(TopK(k=1), subtract_b_dec=True, gate_on_decoder_norm=True, glu=True)
        with backends.using(backend):
            value = AuxK(AuxSettings(k=2), k=3, variance=7.0)(seen(dictionary, rows()))
            found.append([value, *torch.autograd.grad(value, list(dictionary.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_metrics_of_a_batch_do_not_depend_on_how_many_rows_are_measured_at_once(monkeypatch):
    context, found = seen(random_sae(TopK(k=3)), rows(29)), []
    for at_once in (256, 5):
        monkeypatch.setattr(metrics, "WIDE_ROWS", at_once)
        sums = metrics.PassSums()
        for _ in range(2):  # a batch in two parts
            sums.add(context)
        found.append(sums.metrics())
    assert found[1] == pytest.approx(found[0], rel=1e-12)


def test_c9_without_dead_features_aux_is_exactly_zero():
    dictionary = mostly_dead(subtract=True)
    aux = AuxK(AuxSettings(), k=3, variance=7.0)
    value = aux(seen(dictionary, rows(), dead=DEAD[:0]))
    assert value.item() == 0.0
    assert not value.requires_grad
    same = rows(1).expand(5, D_IN)  # no spread among the residuals: 0/0 is 0
    assert aux(seen(dictionary, same)).item() == 0.0


def test_aux_fades_when_few_are_dead_and_keeps_its_weight_at_any_scale():
    dictionary, x = mostly_dead(subtract=False), rows()
    half = AuxK(AuxSettings(k=8), k=3, variance=7.0)(seen(dictionary, x))
    whole = AuxK(AuxSettings(k=4), k=3, variance=7.0)(seen(dictionary, x))
    torch.testing.assert_close(half * 2, whole)


def test_c4_the_penalty_uses_decoder_lengths():
    dictionary = random_sae(Relu())
    with torch.no_grad():
        dictionary.encoder.zero_()
        dictionary.b_enc.fill_(1)
        dictionary.W_dec.zero_()
    term = DecoderWeightedL1(L1Settings(coefficient=2.0, warmup=0), 10)
    assert term(seen(dictionary, rows())).item() == 0.0


@pytest.mark.parametrize("warmup", [0, 4])
def test_l1_is_its_definition(warmup):
    dictionary = random_sae(Relu())
    term = DecoderWeightedL1(L1Settings(coefficient=0.7, warmup=warmup), 10)
    context = seen(dictionary, rows(), step=1)
    f = context.output.code.to_sparse().to_dense()
    n = dictionary.decoder_norms().detach()
    wanted = 0.7 * (0.25 if warmup else 1.0) * (f * n).sum(dim=1).mean()
    torch.testing.assert_close(term(context).detach(), wanted)


def test_c5_l1_shrinks_by_half_lambda():
    """d = d_sae = 1, n = 1: the loss (x − f)² + λf is least at f = x − λ/2."""
    x, penalty = 2.0, 0.6
    f = torch.tensor([[1.0]], requires_grad=True)
    optimizer = torch.optim.SGD([f], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (x - f).square().sum() + penalty * DenseCode(f).weighted_sum(torch.ones(1)).mean()
        loss.backward()
        optimizer.step()
    assert f.item() == pytest.approx(x - penalty / 2, abs=1e-6)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ["mse", "l1", "aux"])
def test_gradients_equal_central_differences(name, gated):
    topk = name != "l1"
    dictionary = (
        mostly_dead(subtract=True, gated=gated)
        if topk
        else random_sae(Relu(), gate_on_decoder_norm=gated)
    )
    term = {
        "mse": SquaredError(),
        "l1": DecoderWeightedL1(L1Settings(coefficient=0.7, warmup=0), 10),
        "aux": AuxK(AuxSettings(k=2), k=2, variance=7.0),
    }[name]
    x, frozen = rows(4), None
    if name == "aux":  # the residual is detached: hold it still while weights move
        frozen = dictionary({HOOK: x}).reconstruction[HOOK].detach()
    names = [n for n, _ in dictionary.named_parameters()]

    class Called(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = dictionary

        def forward(self):
            context = seen(self.inner, x)
            if frozen is not None:
                output = context.output._replace(reconstruction={HOOK: frozen})
                context = Pass(self.inner, {HOOK: x}, {HOOK: x}, output, DEAD, 0)
            return term(context)

    called = Called()

    def loss(*values):
        given = {f"inner.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(called, given, ())

    values = [p.detach().clone().requires_grad_() for p in dictionary.parameters()]
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-6)


def test_i7_a_batch_is_the_mean_of_its_parts_but_not_for_aux():
    dictionary, x = mostly_dead(subtract=True), rows(13)
    parts = x[:5], x[5:]
    for term, equal in (
        (SquaredError(), True),
        (DecoderWeightedL1(L1Settings(coefficient=0.7, warmup=0), 10), True),
        (AuxK(AuxSettings(), k=3, variance=7.0), False),
    ):
        whole = term(seen(dictionary, x))
        pieces = sum(len(part) * term(seen(dictionary, part)) for part in parts) / 13
        assert torch.allclose(whole, pieces, rtol=1e-12) is equal


def test_i11_the_projected_gradient_is_orthogonal_to_the_decoder():
    dictionary = random_sae(TopK(k=3), decoder_norm="unit")
    SquaredError()(seen(dictionary, rows())).backward()
    before = torch.linalg.vecdot(dictionary.W_dec.grad, dictionary.W_dec.detach())
    dictionary.project_gradient_()
    along = torch.linalg.vecdot(dictionary.W_dec.grad, dictionary.W_dec.detach())
    assert before.abs().max() > 1e-3
    assert along.abs().max() < 1e-12
    with torch.no_grad():
        dictionary.W_dec.mul_(1.3)
    dictionary.renormalise_()
    torch.testing.assert_close(dictionary.decoder_norms().detach(), torch.ones(D_SAE).double())


def test_free_decoders_are_left_alone():
    dictionary = random_sae(TopK(k=3), decoder_norm="free")
    SquaredError()(seen(dictionary, rows())).backward()
    gradient, weights = dictionary.W_dec.grad.clone(), dictionary.W_dec.detach().clone()
    dictionary.project_gradient_()
    dictionary.renormalise_()
    assert torch.equal(gradient, dictionary.W_dec.grad)
    assert torch.equal(weights, dictionary.W_dec.detach())


def test_which_terms_the_settings_mean():
    def names(activation, **loss):
        found = terms(LossSettings(**loss), random_sae(activation), variance=1.0, total_steps=10)
        return [term.name for term in found]

    assert names(TopK(k=2)) == ["mse", "aux"]
    assert names(TopK(k=2), aux=AuxSettings(coefficient=0)) == ["mse"]
    assert names(Relu()) == ["mse"]
    assert names(Relu(), aux=AuxSettings()) == ["mse", "aux"]
    assert names(Relu(), sparsity=L1Settings(coefficient=1)) == ["mse", "sparsity"]


def test_squared_error_sums_over_dimensions():
    dictionary = random_sae(Relu())
    x = torch.from_numpy(raw_rows(6))
    context = seen(dictionary, x)
    error = x - context.output.reconstruction[HOOK]
    torch.testing.assert_close(SquaredError()(context), error.square().sum(dim=1).mean())
