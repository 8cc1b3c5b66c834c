"""Optimisers against torch's and against their equations; clipping; thresholds apart; loss scale."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from saestore.train.optimizer import LossScale, Optimizer
from saestore_schemas.optimize import OptimizerSettings


SHAPES = {"encoder": (11, 7), "b_enc": (11,), "W_dec": (11, 7), "b_dec": (7,), "threshold": (11,)}
BETAS, EPS = (0.8, 0.95), 1e-6


def parameters(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }


def gradients(step, *, silent=()):
    draw = torch.Generator().manual_seed(100 + step)
    found = {}
    for name, shape in SHAPES.items():
        each = torch.randn(shape, generator=draw, dtype=torch.float64)
        if name != "b_dec":
            each[list(silent)] = 0
        found[name] = each
    return found


def made(named, **settings):
    given = {"betas": BETAS, "eps": EPS, "clip_norm": None} | settings
    return Optimizer(named, OptimizerSettings(**given), lr=0.03, thresholds={"threshold"})


def run(named, optimizer, steps=7, silent=lambda _: ()):
    for step in range(steps):
        for name, gradient in gradients(step, silent=silent(step)).items():
            named[name].grad = gradient
        optimizer.step(factor=1.0 - 0.1 * step)
    return {name: parameter.detach().clone() for name, parameter in named.items()}


def adam_by_hand(silent=lambda _: (), *, lazy=False, factor=1.0, second=None):
    """Kingma and Ba's algorithm 1, element by element."""
    named = {name: p.detach().clone() for name, p in parameters().items()}
    first = {name: torch.zeros_like(p) for name, p in named.items()}
    squares = {name: torch.zeros_like(p) for name, p in named.items()}
    for step in range(7):
        for name, g in gradients(step, silent=silent(step)).items():
            moved = torch.ones_like(g, dtype=torch.bool)
            if lazy:
                moved = (g.reshape(len(g), -1) != 0).any(dim=1)
                moved = moved.reshape(-1, *[1] * (g.ndim - 1)).expand_as(g)
            m = BETAS[0] * first[name] + (1 - BETAS[0]) * g
            v = BETAS[1] * squares[name] + (1 - BETAS[1]) * g**2
            first[name] = torch.where(moved, m, first[name])
            squares[name] = torch.where(moved, v, squares[name])
            hat = m / (1 - BETAS[0] ** (step + 1))
            used = squares[name] if second is None else second(name, squares[name])
            root = (used / (1 - BETAS[1] ** (step + 1))).sqrt()
            lr = 0.03 * (1 - 0.1 * step) * (factor if name == "threshold" else 1.0)
            named[name] = torch.where(moved, named[name] - lr * hat / (root + EPS), named[name])
    return named


def close(found, wanted, **tolerance):
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **tolerance)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_adam_is_its_algorithm_and_thresholds_have_a_rate_of_their_own(factor):
    named = parameters()
    found = run(named, made(named, threshold_lr_factor=factor))
    close(found, adam_by_hand(factor=factor), rtol=1e-9, atol=1e-12)


def rarely(step):
    return (0, 3, 4) if step % 2 else (1, 3, 9)


def test_sparse_adam_leaves_what_has_no_gradient_alone():
    named = parameters()
    found = run(named, made(named, kind="sparse_adam"), silent=rarely)
    close(found, adam_by_hand(rarely, lazy=True), rtol=1e-9, atol=1e-12)
    start = parameters()
    for name in ("encoder", "b_enc", "W_dec", "threshold"):
        assert torch.equal(found[name][3], start[name].detach()[3])  # never had a gradient


def test_sparse_adam_is_adam_when_everything_moves_and_torchs_sparse_one_otherwise():
    named = parameters()
    close(run(named, made(named, kind="sparse_adam")), adam_by_hand(), rtol=1e-9, atol=1e-12)
    mine, theirs = parameters(), parameters()
    ours = made(mine, kind="sparse_adam", eps=1e-30)
    peer = torch.optim.SparseAdam([theirs["encoder"]], lr=0.03, betas=BETAS, eps=1e-30)
    for step in range(7):
        gradient = gradients(step, silent=rarely(step))["encoder"]
        mine["encoder"].grad = gradient
        theirs["encoder"].grad = gradient.to_sparse(1)
        ours.step(factor=1.0)
        peer.step()
    torch.testing.assert_close(mine["encoder"], theirs["encoder"], rtol=1e-9, atol=1e-12)


def factored(name, squares):
    """The best non-negative outer product with the same sums over rows and columns."""
    if squares.ndim == 1:
        return squares
    return squares.sum(1, keepdim=True) * squares.sum(0, keepdim=True) / squares.sum()


def test_lean_adam_is_adam_with_the_factored_second_moment():
    """First moments are rounded to bfloat16, 2^-9 of themselves at most, and forgotten."""
    named = parameters()
    found = run(named, made(named, states="lean"))
    close(found, adam_by_hand(second=factored), rtol=0, atol=1e-3)
    moved = {n: (found[n] - p).abs().max() for n, p in parameters().items()}
    assert all(each > 0.05 for each in moved.values())


def test_lean_adam_in_blocks_is_lean_adam(monkeypatch):
    named = parameters()
    whole = run(named, made(named, states="lean"))
    monkeypatch.setattr("saestore.train.lean_adam.BLOCK", 21)  # three rows
    named = parameters()
    close(run(named, made(named, states="lean")), whole, rtol=1e-12, atol=1e-12)


def test_lean_adam_is_adam_where_squares_are_an_outer_product():
    """One step: v of row i and column j is then g_ij² itself, and nothing is rounded yet."""
    named, other = parameters(), parameters()
    draw = torch.Generator().manual_seed(5)
    u, w = torch.randn(11, generator=draw).double(), torch.randn(7, generator=draw).double()
    lean, full = made(named, states="lean"), made(other)
    named["encoder"].grad = other["encoder"].grad = torch.outer(u, w)
    lean.step(factor=1.0)
    full.step(factor=1.0)
    torch.testing.assert_close(named["encoder"], other["encoder"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("states", ["full", "lean"])
def test_features_that_never_had_a_gradient_stay_where_they_are(states):
    named, start = parameters(), parameters()
    found = run(named, made(named, states=states), silent=lambda _: range(11))
    assert torch.equal(found["encoder"], start["encoder"].detach())
    assert not torch.equal(found["b_dec"], start["b_dec"].detach())


def test_lean_states_take_a_quarter_of_the_memory():
    def size(states):
        named = {"W": nn.Parameter(torch.zeros(256, 64))}
        optimizer = Optimizer(named, OptimizerSettings(states=states), lr=0.1)
        named["W"].grad = torch.ones(256, 64)
        optimizer.step(factor=1.0)
        return sum(each.nbytes for each in optimizer.state().values()) / named["W"].numel()

    assert size("full") == pytest.approx(8, rel=0.01)
    assert size("lean") == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("changes", [{}, {"kind": "sparse_adam"}, {"states": "lean"}])
def test_saved_moments_go_on_bit_for_bit(changes):
    straight = parameters()
    wanted = run(straight, made(straight, **changes), silent=rarely)
    named = parameters()
    optimizer = made(named, **changes)
    for step in range(7):
        if step == 3:
            saved = {name: each.clone() for name, each in optimizer.state().items()}
            optimizer = made(named, **changes)
            optimizer.load_state(saved)
        for name, gradient in gradients(step, silent=rarely(step)).items():
            named[name].grad = gradient
        optimizer.step(factor=1.0 - 0.1 * step)
    assert all(torch.equal(named[name], each) for name, each in wanted.items())


def test_clipping_is_by_the_plain_l2_norm_of_everything():
    ones = {str(i): nn.Parameter(torch.zeros(100)) for i in range(100)}
    ones["threshold"] = nn.Parameter(torch.zeros(3))
    one = made(ones, clip_norm=7.3)
    for p in ones.values():
        p.grad = torch.ones_like(p)
    ones["threshold"].grad.fill_(100.0)
    assert one.clip_() == pytest.approx(200.0)
    clipped = torch.cat([p.grad for p in ones.values()])
    assert math.isclose(float(clipped.norm()), 7.3, rel_tol=1e-5)
    for p in ones.values():
        p.grad = torch.full_like(p, 0.01)
    assert one.clip_() == pytest.approx(1.0, rel=1e-3)
    assert float(ones["0"].grad[0]) == pytest.approx(0.01)
    ones["threshold"].grad[1] = math.inf
    assert one.clip_() == math.inf


def test_the_loss_scale_doubles_halves_and_gives_up():
    scale = LossScale(used=True)
    assert scale.metrics() == {"loss_scale": 2.0**16}
    for _ in range(LossScale.PATIENCE - 1):
        scale.grow()
    assert scale.value == 2.0**16
    scale.grow()
    assert (scale.value, scale.good) == (2.0**17, 0)
    for _ in range(17):
        assert not scale.exhausted
        scale.shrink()
    assert scale.exhausted
    plain = LossScale(used=False)
    plain.grow()
    assert (plain.value, plain.metrics()) == (1.0, {})
    assert plain.exhausted


def test_two_ways_of_saving_moments_are_one_too_many():
    with pytest.raises(ValidationError, match="choose one"):
        OptimizerSettings(kind="sparse_adam", states="lean")
