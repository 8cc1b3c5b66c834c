"""Terms of the objective beside error, L1 and AuxK: closed forms, definitions, gradients, state."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from saestore.dictionaries import DenseCode
from saestore.errors import ConfigError
from saestore.testing.dictionaries import D_IN, D_SAE, HOOK, random_sae
from saestore.train import objectives
from saestore.train.objectives import (
    PENALTIES,
    GatedAux,
    KSchedule,
    Matryoshka,
    PAnneal,
    Pass,
    PreActivationLoss,
    SquaredError,
    terms,
)
from saestore.train.objectives.matryoshka import fixed, sampled
from saestore_schemas.dictionary import BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.objective import (
    GatedAuxSettings,
    KScheduleSettings,
    L0Settings,
    L1Settings,
    LossSettings,
    MatryoshkaSettings,
    PAnnealSettings,
    PNormSettings,
    PreActivationSettings,
    TanhQuadSettings,
    TanhSettings,
    TargetL0BatchSettings,
    TargetL0RowSettings,
)
from saestore_schemas.train import TrainSettings
from tests.saestore.dictionaries.test_sae import changed, sae


NOTHING = torch.zeros(0, dtype=torch.int64)


def rows(n=13):
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(1)).double()


def seen(dictionary, x, step=0, dead=NOTHING):
    inputs = {HOOK: x}
    return Pass(dictionary, inputs, inputs, dictionary(inputs), dead, step)


def penalty(settings, total_steps=10):
    return PENALTIES[settings.kind](settings, total_steps)


def weighted(dictionary, x):
    """f ⊙ n, dense and without gradient."""
    with torch.no_grad():
        return dictionary({HOOK: x}).code.to_sparse().to_dense() * dictionary.decoder_norms()


SMOOTH = {
    "l1": L1Settings(coefficient=0.7, warmup=0),
    "power": PNormSettings(coefficient=0.7, p=0.5, warmup=0),
    "power-2": PNormSettings(coefficient=0.7, p=2.0, warmup=0),
    "norm": PNormSettings(coefficient=0.7, p=1.5, form="norm", warmup=0),
    "p_anneal": PAnnealSettings(coefficient=0.7, start=0, warmup=0),
    "tanh": TanhSettings(coefficient=0.7, stretch=0.3, warmup=0),
    "tanh_quad": TanhQuadSettings(coefficient=0.7, stretch=0.3, frequency_scale=0.5, warmup=0),
}


def by_definition(name, v):
    """The penalties of §3 of the reference, on v = f ⊙ n."""
    exponent = 1 - 0.8 / 10  # after one fall
    powers = {"power": 0.5, "power-2": 2.0, "p_anneal": exponent, "l1": 1.0}
    if name in powers:
        return (v ** powers[name]).sum(dim=1).mean()
    if name == "norm":
        return ((v**1.5).sum(dim=1) ** (1 / 1.5)).mean()
    often = torch.tanh(0.3 * v)
    if name == "tanh":
        return often.sum(dim=1).mean()
    often = often.mean(dim=0)
    return (often * (1 + often / 0.5)).sum()


@pytest.mark.parametrize("activation", [Relu(), JumpRelu()], ids=lambda a: a.kind)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_penalty_is_its_definition(name, gated, activation):
    dictionary = random_sae(activation, gate_on_decoder_norm=gated)
    found = penalty(SMOOTH[name])(seen(dictionary, rows()))
    wanted = 0.7 * by_definition(name, weighted(dictionary, rows()))
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_gradients_equal_central_differences(name, kind):
    """Along random directions in the space of all parameters."""
    dictionary, x = random_sae(Relu() if kind == "relu" else Gated()), rows(4)
    parameters = list(dictionary.parameters())
    loss = penalty(SMOOTH[name])(seen(dictionary, x))
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    draw = torch.Generator().manual_seed(7)
    for _ in range(3):
        direction = [torch.randn(p.shape, generator=draw).double() for p in parameters]

        def along(step, direction=direction):
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(d, alpha=step)
                found = float(penalty(SMOOTH[name])(seen(dictionary, x)))
                for p, d in zip(parameters, direction, strict=True):
                    p.sub_(d, alpha=step)
            return found

        slope = (along(1e-6) - along(-1e-6)) / 2e-6
        wanted = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert slope == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_c7_tanh_is_l1_for_small_and_a_count_for_large_stretches():
    dictionary = random_sae(Relu())
    v = weighted(dictionary, rows())

    def value(stretch):
        settings = TanhSettings(coefficient=1.0, stretch=stretch, warmup=0)
        return float(penalty(settings)(seen(dictionary, rows())).detach())

    assert value(1e-7) / 1e-7 == pytest.approx(float(v.sum(dim=1).mean()), rel=1e-9)
    assert value(1e9) == pytest.approx(float((v > 0).sum(dim=1).double().mean()), rel=1e-12)


@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
def test_c8_powers_have_finite_gradients_at_zero(p):
    entries = torch.tensor([[0.0, 1e-20, 2.0]], dtype=torch.float64, requires_grad=True)
    found = objectives.p_norm.power_sums(DenseCode(entries), entries, p)
    assert found.item() == pytest.approx(2.0**p + 1e-12**p, rel=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), entries)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 0] == 0


def test_c8_annealing_keeps_the_penalty_of_the_last_steps():
    settings = PAnnealSettings(coefficient=0.5, start=4, updates=4, queue=3, p_end=0.2, warmup=0)
    term, dictionary = PAnneal(settings, 20), random_sae(Relu())
    assert [term.falls_at(step) for step in (0, 3, 4, 7, 8, 12, 16, 19)] == [0, 0, 1, 1, 2, 3, 4, 4]
    batches = [rows(20) * (1 + step / 10) for step in range(20)]
    sums = lambda x, p: float((weighted(dictionary, x) ** p).sum(dim=1).mean())  # noqa: E731
    for step, x in enumerate(batches):
        value = float(term(seen(dictionary, x, step=step)).detach())
        p = 1 - 0.2 * term.falls
        assert value == pytest.approx(term.weight(step) * sums(x, p), rel=1e-9)
        if step == 3:
            assert value == pytest.approx(0.5 * sums(x, 1.0), rel=1e-9)  # p = 1 is L1
        if step == 4:  # λ' Σ f^p' = λ Σ f^p on the queue
            queue = batches[1:4]
            before = 0.5 * np.mean([sums(each, 1.0) for each in queue])
            after = term.weight(4) * np.mean([sums(each, 0.8) for each in queue])
            assert after == pytest.approx(before, rel=1e-9)
    assert term.exponent(term.falls) == pytest.approx(0.2)


def annealed(settings, total, batches):
    """Return falls, exponent and λ at each step, of one feature with f n = the batch's number."""
    eye = torch.eye(D_IN, dtype=torch.float64)
    dictionary = sae(Relu(), {"W_enc": eye, "W_dec": eye})
    term, found = PAnneal(settings, total), []
    for step, f in enumerate(batches):
        x = torch.zeros(2, D_IN, dtype=torch.float64)
        x[:, 0] = f
        value = term(seen(dictionary, x, step=step)).item()
        p = term.exponent(term.falls)
        assert value == pytest.approx(term.weight(step) * f**p, rel=1e-12)
        found.append((term.falls, p, term.weight(step)))
    return found


def test_c8_several_falls_at_one_step_by_hand():
    """Falls by .2 at 2, 2.5, 3 and 3.5 of 4 steps: one at step 2, two at step 3, the last one never.

    At step 2: λ (4 + 9) / (4^.8 + 9^.8); at step 3: that times (9^.8 + 16^.8) / (9^.4 + 16^.4).
    """
    settings = PAnnealSettings(coefficient=0.5, start=2, updates=4, queue=2, p_end=0.2, warmup=0)
    found = annealed(settings, 4, [4.0, 9.0, 16.0, 25.0])
    first = 0.5 * 13 / (4**0.8 + 9**0.8)
    second = first * (9**0.8 + 16**0.8) / (9**0.4 + 16**0.4)
    assert [falls for falls, _, _ in found] == [0, 0, 1, 3]
    assert [p for _, p, _ in found] == pytest.approx([1, 1, 0.8, 0.4])
    assert [weight for _, _, weight in found] == pytest.approx([0.5, 0.5, first, second], rel=1e-12)


def test_c8_falls_closer_than_the_queue_reaches_by_hand():
    """Falls at steps 2 and 3 with a queue of 3: the second compares steps 0 to 2, not step 2 alone."""
    settings = PAnnealSettings(coefficient=0.5, start=2, updates=2, queue=3, p_end=0.2, warmup=0)
    found = annealed(settings, 4, [4.0, 9.0, 16.0, 25.0])
    first = 0.5 * 13 / (4**0.6 + 9**0.6)
    second = first * (4**0.6 + 9**0.6 + 16**0.6) / (4**0.2 + 9**0.2 + 16**0.2)
    assert [falls for falls, _, _ in found] == [0, 0, 1, 2]
    assert [weight for _, _, weight in found] == pytest.approx([0.5, 0.5, first, second], rel=1e-12)


def test_c8_more_falls_than_steps_lead_to_the_last_exponent_that_comes_in_time():
    """Ten falls in 4 steps, at 0, .4, .8, 1.2 …: 1, 3, 6 and 8 of them have come."""
    settings = PAnnealSettings(coefficient=0.5, start=0, updates=10, queue=10, p_end=0.2, warmup=0)
    found = annealed(settings, 4, [4.0, 9.0, 16.0, 25.0])
    assert [falls for falls, _, _ in found] == [1, 3, 6, 8]
    weight, batches = 0.5, [4.0, 9.0, 16.0]
    for step, (before, after) in enumerate([(1, 3), (3, 6), (6, 8)], start=1):
        p, then = (1 - 0.08 * falls for falls in (before, after))
        weight *= sum(f**p for f in batches[:step]) / sum(f**then for f in batches[:step])
        assert found[step][2] == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_annealing_goes_on_where_it_was(cut):
    settings = PAnnealSettings(coefficient=0.5, start=4, updates=4, queue=3, warmup=0)
    dictionary = random_sae(Relu())

    def values(term, steps):
        return [
            term(seen(dictionary, rows(20) * (1 + step / 10), step=step)).item() for step in steps
        ]

    whole = values(PAnneal(settings, 20), range(20))
    first = PAnneal(settings, 20)
    values(first, range(cut))
    second = PAnneal(settings, 20)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    assert values(second, range(cut, 20)) == whole[cut:]


def test_h15_tanh_quad_by_hand():
    """p = .02, q = .01: .06 a feature."""
    f = math.atanh(0.02) / 4
    eye = torch.eye(D_IN, dtype=torch.float64)
    dictionary = sae(Relu(), {"W_enc": eye, "W_dec": eye})
    settings = TanhQuadSettings(coefficient=1.0, warmup=0)
    found = penalty(settings)(seen(dictionary, torch.full((5, D_IN), f, dtype=torch.float64)))
    assert found.item() == pytest.approx(0.06 * D_IN, rel=1e-12)


@pytest.mark.parametrize("to_input", [False, True])
def test_penalties_on_firings_are_their_definitions_in_value_and_gradient(to_input):
    dictionary = random_sae(JumpRelu(bandwidth=3.0, ste_to_input=to_input))
    x = rows()
    h = ((x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc).detach()
    threshold = dictionary.activation.threshold.detach()
    l0 = (h > threshold).double().sum(dim=1)
    window = ((h - threshold).abs() < 1.5).double() / 3.0
    cases = {
        L0Settings(coefficient=2.0, warmup=0): (
            l0.mean(),
            torch.full((13,), 1 / 13, dtype=torch.float64),
        ),
        TargetL0BatchSettings(coefficient=2.0, target=3.0, warmup=0): (
            (l0.mean() / 3 - 1) ** 2,
            2 * (l0.mean() / 3 - 1) / 3 / 13 * torch.ones(13, dtype=torch.float64),
        ),
        TargetL0RowSettings(coefficient=2.0, target=3.0, warmup=0): (
            (2 / 3 * (l0 - 3) ** 2).mean(),
            4 / 3 * (l0 - 3) / 13,
        ),
    }
    for settings, (value, upstream) in cases.items():
        found = penalty(settings)(seen(dictionary, x))
        torch.testing.assert_close(found.detach(), 2 * value)
        dictionary.zero_grad()
        found.backward()
        through = 2 * window * upstream.double().unsqueeze(1)
        gradient = dictionary.activation.threshold.grad
        torch.testing.assert_close(gradient, -through.sum(dim=0), rtol=1e-9, atol=1e-12)
        if to_input:
            torch.testing.assert_close(dictionary.b_enc.grad, through.sum(dim=0))
        else:
            assert dictionary.b_enc.grad is None or not dictionary.b_enc.grad.any()


def test_the_two_targets_have_different_gradients():
    dictionary, x = random_sae(JumpRelu(bandwidth=3.0)), rows()
    l0 = float(dictionary({HOOK: x}).code.l0().double().mean())
    batch = penalty(TargetL0BatchSettings(coefficient=1.0, target=l0, warmup=0))
    row = penalty(TargetL0RowSettings(coefficient=1.0, target=l0, warmup=0))
    (of_batch,) = torch.autograd.grad(batch(seen(dictionary, x)), dictionary.activation.threshold)
    (of_row,) = torch.autograd.grad(row(seen(dictionary, x)), dictionary.activation.threshold)
    assert of_batch.abs().max() < 1e-12
    assert of_row.abs().max() > 1e-3


@pytest.mark.parametrize(("on", "wanted"), [("dead", 1.3), ("all", 2.0)])
def test_h6_the_pre_activation_loss_by_hand(on, wanted):
    decoder = torch.diag(torch.tensor([2.0, 1, 1.5, 3])).double()
    dictionary = sae(
        JumpRelu(),
        {
            "W_enc": torch.eye(4).double(),
            "W_dec": decoder,
            "threshold": torch.tensor([1, 2, 1.5, 0.5]).double(),
        },
    )
    h = torch.tensor([[0.5, 1.5, 1, 0.8], [0.8, 2.5, 1.2, 0.2]], dtype=torch.float64)
    term = PreActivationLoss(PreActivationSettings(coefficient=1.0, on=on))
    found = term(seen(dictionary, h, dead=torch.tensor([0, 2])))
    assert found.item() == pytest.approx(wanted, rel=1e-12)
    found.backward()
    reached = {0, 2} if on == "dead" else {0, 1, 2, 3}
    assert set(dictionary.b_enc.grad.nonzero()[:, 0].tolist()) == reached


@pytest.mark.parametrize("gated", [False, True])
def test_the_pre_activation_loss_compares_like_with_like(gated):
    dictionary = random_sae(JumpRelu(), gate_on_decoder_norm=gated)
    n, x = dictionary.decoder_norms(), rows()
    h = (x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
    threshold = dictionary.activation.threshold
    wanted = torch.relu(threshold - h * n) if gated else torch.relu(threshold - h) * n
    term = PreActivationLoss(PreActivationSettings(coefficient=0.3))
    mine, theirs = term(seen(dictionary, x)), 0.3 * wanted.sum(dim=1).mean()
    torch.testing.assert_close(mine, theirs)
    parameters = list(dictionary.parameters())
    found = torch.autograd.grad(mine, parameters, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(theirs, parameters, allow_unused=True, materialize_grads=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def gated_by_definition(dictionary, x, coefficient):
    """§3.6 of the reference, written with dense matrices and plain autograd."""
    z = (x - dictionary.b_dec) @ dictionary.W_enc
    pi = z + dictionary.b_enc
    own = dictionary.activation
    f = (pi > 0) * torch.relu(own.r_mag.exp() * z + own.b_mag)
    error = (x - f @ dictionary.W_dec - dictionary.b_dec).square().sum(dim=1).mean()
    shrunk = (torch.relu(pi) * dictionary.W_dec.norm(dim=1)).sum(dim=1).mean()
    held = dictionary.W_dec.detach(), dictionary.b_dec.detach()
    aux = (x - torch.relu(pi) @ held[0] - held[1]).square().sum(dim=1).mean()
    return error + coefficient * shrunk + aux


def test_gated_training_is_its_definition():
    dictionary, x = random_sae(Gated()), rows()
    loss = LossSettings(sparsity=L1Settings(coefficient=0.7, warmup=0))
    found = terms(loss, dictionary, variance=1.0, total_steps=10)
    assert [term.name for term in found] == ["mse", "sparsity", "gated_aux"]
    mine = sum(term(seen(dictionary, x)) for term in found)
    theirs = gated_by_definition(dictionary, x, 0.7)
    torch.testing.assert_close(mine, theirs)
    names, parameters = zip(*dictionary.named_parameters(), strict=True)
    gradients = zip(
        names, torch.autograd.grad(mine, parameters), torch.autograd.grad(theirs, parameters),
        strict=True,
    )  # fmt: skip
    for name, a, b in gradients:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=name)


def test_the_gates_reconstruction_leaves_the_decoder_alone():
    dictionary = random_sae(Gated(), subtract_b_dec=False)
    GatedAux(GatedAuxSettings())(seen(dictionary, rows())).backward()
    assert dictionary.W_dec.grad is None
    assert dictionary.b_dec.grad is None
    assert dictionary.b_enc.grad.abs().sum() > 0
    assert dictionary.activation.b_mag.grad is None


def test_d5_a_gate_like_its_strength_reconstructs_alike():
    plain = random_sae(Gated())
    bias = plain.tensors()["b_gate"]
    dictionary = changed(plain, r_mag=torch.zeros_like, b_mag=lambda _: bias)
    context = seen(dictionary, rows())
    torch.testing.assert_close(GatedAux(GatedAuxSettings())(context), SquaredError()(context))


WIDTHS = (2, 5, D_SAE)


def truncated(dictionary, x, width):
    """Loss of the SAE that has the first features only, the code computed from all."""
    f = dictionary({HOOK: x}).code.to_sparse().to_dense()[:, :width]
    error = x - f @ dictionary.W_dec[:width] - dictionary.b_dec
    return error.square().sum(dim=1).mean()


@pytest.mark.parametrize(
    "activation", [TopK(k=1), TopK(k=4), BatchTopK(k=3.5), Relu(), JumpRelu(), Gated()], ids=str
)
def test_d7_matryoshka_is_the_mean_of_truncated_losses(activation):
    dictionary, x = random_sae(activation), rows()
    one = Matryoshka(MatryoshkaSettings(widths=(D_SAE,)), D_SAE, 0)
    torch.testing.assert_close(one(seen(dictionary, x)), SquaredError()(seen(dictionary, x)))
    losses = torch.stack([truncated(dictionary, x, width) for width in WIDTHS])
    equal = Matryoshka(MatryoshkaSettings(widths=WIDTHS), D_SAE, 0)
    torch.testing.assert_close(equal(seen(dictionary, x)), losses.mean())
    uneven = MatryoshkaSettings(widths=WIDTHS, weights=(1.0, 1.0, 2.0))
    torch.testing.assert_close(
        Matryoshka(uneven, D_SAE, 0)(seen(dictionary, x)),
        losses @ torch.tensor([0.25, 0.25, 0.5]).double(),
    )


@pytest.mark.parametrize("k", [1, 4])
def test_matryoshka_gradients_are_those_of_its_definition(k):
    dictionary, x = random_sae(TopK(k=k)), rows()
    mine = Matryoshka(MatryoshkaSettings(widths=WIDTHS), D_SAE, 0)(seen(dictionary, x))
    h = (x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
    mask = torch.zeros_like(h, dtype=torch.bool)
    mask.scatter_(1, h.topk(k, dim=1).indices, value=True)
    f = torch.where(mask & (h > 0), h, 0)
    wanted = sum(
        (x - f[:, :m] @ dictionary.W_dec[:m] - dictionary.b_dec).square().sum(dim=1).mean() / 3
        for m in WIDTHS
    )
    parameters = list(dictionary.parameters())
    for a, b in zip(
        torch.autograd.grad(mine, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_prefixes_from_shares_and_draws():
    shares = MatryoshkaSettings(shares=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32))
    assert [width for width, _ in fixed(shares, 64)] == [2, 6, 14, 30, 64]
    with pytest.raises(ConfigError, match=r"loss\.matryoshka\.shares"):
        fixed(shares, 11)
    with pytest.raises(ConfigError, match=r"loss\.matryoshka\.widths"):
        fixed(MatryoshkaSettings(widths=(2, 5)), 11)
    for step in range(50):
        drawn = sampled(6, 1000, seed=3, step=step)
        assert drawn == sampled(6, 1000, seed=3, step=step)
        widths = [width for width, _ in drawn]
        assert widths == sorted(set(widths))
        assert widths[-1] == 1000
        assert widths[0] >= 1
        assert sum(weight for _, weight in drawn) == pytest.approx(1)
    assert sampled(6, 1000, seed=3, step=1) != sampled(6, 1000, seed=3, step=2)
    assert sampled(6, 1000, seed=3, step=1) != sampled(6, 1000, seed=4, step=1)


def test_sampled_prefixes_follow_the_cut_pareto_distribution():
    drawn = np.array(
        [width for step in range(4000) for width, _ in sampled(2, 1000, seed=0, step=step)[:-1]]
    )
    cut = 1 - 1000**-0.5
    for width in (4, 25, 100):
        assert np.mean(drawn <= width) == pytest.approx((1 - width**-0.5) / cut, abs=0.03)


def test_h15_k_falls_as_scheduled():
    linear = KScheduleSettings(initial=64, hold=10, steps=100)
    bent = KScheduleSettings(initial=64, hold=10, steps=100, kind="exponential")
    found = [KSchedule(linear, 8.0, 1000).at(step) for step in (0, 9, 10, 60, 110, 999)]
    assert found == [64, 64, 64, 36, 8, 8]
    assert KSchedule(bent, 8.0, 1000).at(60) == 19
    shares = KScheduleSettings(initial=64, hold=0.01, steps=0.1)
    assert KSchedule(shares, 8.0, 1000).at(60) == 36
    none = KScheduleSettings(initial=64, steps=0)
    assert KSchedule(none, 8.5, 1000).at(0) == 8.5


def test_k_is_kept_while_it_falls_in_training_only():
    dictionary, x = random_sae(TopK(k=2)), rows()
    dictionary.activation.keep_k(6.0)
    positive = (dictionary({HOOK: x}).pre.values > 0).sum(dim=1)
    assert torch.equal(dictionary({HOOK: x}).code.l0(), positive.clamp(max=6))
    assert dictionary.encode(x).l0().max() <= 2
    batch = random_sae(BatchTopK(k=2))
    batch.activation.keep_k(3.0)
    assert batch({HOOK: x}).code.l0().sum() == 39


@pytest.mark.parametrize(
    ("settings", "equal"),
    [
        (L1Settings(coefficient=1.0, warmup=0), True),
        (PNormSettings(coefficient=1.0, warmup=0), True),
        (TanhSettings(coefficient=1.0, warmup=0), True),
        (L0Settings(coefficient=1.0, warmup=0), True),
        (TargetL0RowSettings(coefficient=1.0, target=3.0, warmup=0), True),
        (TargetL0BatchSettings(coefficient=1.0, target=3.0, warmup=0), False),
        (TanhQuadSettings(coefficient=1.0, warmup=0), False),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_i7_which_penalties_are_means_over_rows(settings, equal):
    dictionary, x = random_sae(JumpRelu()), rows(13)
    parts = x[:5], x[5:]
    whole = penalty(settings)(seen(dictionary, x))
    pieces = sum(len(p) * penalty(settings)(seen(dictionary, p)) for p in parts) / 13
    assert torch.allclose(whole, pieces, rtol=1e-12) is equal


def test_i7_batch_top_k_is_none():
    dictionary, x = random_sae(BatchTopK(k=2)), rows(13)
    whole = SquaredError()(seen(dictionary, x))
    parts = x[:5], x[5:]
    pieces = sum(len(p) * SquaredError()(seen(dictionary, p)) for p in parts) / 13
    assert not torch.allclose(whole, pieces, rtol=1e-6)


def test_d15_auxiliary_weights_of_zero_leave_the_base_objective():
    loss = {"aux": {"coefficient": 0}, "gated_aux": {"coefficient": 0}}
    found = terms(LossSettings(**loss), random_sae(Gated()), variance=1.0, total_steps=10)
    assert [term.name for term in found] == ["mse"]


@pytest.mark.parametrize(
    "bad",
    [
        {"matryoshka": {}},
        {"matryoshka": {"widths": [2, 11], "sampled": 3}},
        {"matryoshka": {"widths": [5, 2]}},
        {"matryoshka": {"shares": [0.5, 0.2]}},
        {"matryoshka": {"sampled": 3, "weights": [1, 1, 1]}},
        {"matryoshka": {"widths": [2, 11], "weights": [1]}},
        {"pre_activation": {"dead_after_rows": 10}},
        {"sparsity": {"kind": "l1", "coefficient": 0}},
    ],
    ids=str,
)
def test_settings_that_contradict_themselves_are_refused(bad):
    with pytest.raises(ValidationError):
        LossSettings.model_validate(bad)


def run(activation, dictionary=None, **loss):
    """Settings of a run with an activation function and an objective."""
    return TrainSettings.model_validate(
        {
            "series": "s",
            "name": "n",
            "activations": {"name": "a"},
            "dictionary": {
                "hookpoint": HOOK, "d_sae": 64, "activation": activation, **(dictionary or {})
            },
            "budget": {"epochs": 1.0},
            "loss": loss,
        }
    )  # fmt: skip


L1 = {"kind": "l1", "coefficient": 1.0}
L0 = {"kind": "l0", "coefficient": 1.0}


@pytest.mark.parametrize(
    ("activation", "loss", "reason"),
    [
        ({"kind": "topk", "k": 4}, {"sparsity": L1}, "fixes L0 by itself"),
        ({"kind": "batchtopk", "k": 4}, {"sparsity": L1}, "'batchtopk' fixes L0 by itself"),
        ({"kind": "relu"}, {"sparsity": L0}, "gradient through learnt thresholds only"),
        ({"kind": "gated"}, {"sparsity": L0}, "gradient through learnt thresholds only"),
        (
            {"kind": "jumprelu"},
            {"sparsity": {"kind": "target_l0_row", "coefficient": 1.0, "target": 65}},
            "more than d_sae = 64",
        ),
        ({"kind": "relu"}, {"pre_activation": {}}, "missing to learnt thresholds"),
        ({"kind": "relu"}, {"gated_aux": {}}, "reconstructs from a gate"),
        ({"kind": "relu"}, {"k_schedule": {"initial": 9}}, "keeps no given number"),
        ({"kind": "topk", "k": 4}, {"k_schedule": {"initial": 3}}, "less than activation.k"),
        ({"kind": "topk", "k": 4}, {"k_schedule": {"initial": 65}}, "more than d_sae"),
        ({"kind": "topk", "k": 4}, {"matryoshka": {"widths": [4, 60]}}, "end it with d_sae = 64"),
        ({"kind": "topk", "k": 65}, {}, "k = 65 is more than d_sae = 64"),
        ({"kind": "batchtopk", "k": 64.5}, {}, "k = 64.5 is more than d_sae = 64"),
    ],
    ids=str,
)
def test_combinations_without_sense_are_refused_with_the_reason(activation, loss, reason):
    with pytest.raises(ValidationError, match=reason):
        run(activation, **loss)


@pytest.mark.parametrize("option", [{"gate_on_decoder_norm": True}, {"glu": True}], ids=str)
def test_a_gate_of_its_own_takes_no_other(option):
    with pytest.raises(ValidationError, match="gated"):
        run({"kind": "gated"}, option)


def test_every_other_combination_is_taken():
    for kind in ("relu", "jumprelu", "gated"):
        for sparsity in SMOOTH.values():
            run({"kind": kind}, sparsity=sparsity.model_dump(), matryoshka={"sampled": 4})
    run({"kind": "jumprelu"}, sparsity=L0, pre_activation={"on": "dead"}, aux={})
    run({"kind": "batchtopk", "k": 2.5}, {"glu": True}, k_schedule={"initial": 32}, aux={})
