"""Kept gradients are autograd's, in memory that is the same in every step."""

import pytest
import torch

from saestore.dictionaries import gradients
from saestore.dictionaries.backends import loops_backend
from saestore.testing.dictionaries import D_IN, HOOK, random_sae
from saestore_schemas.dictionary import BatchTopK, JumpRelu, TopK


def rows(seed):
    return torch.randn(13, D_IN, generator=torch.Generator().manual_seed(seed)).double()


def backward(dictionary, inputs):
    """Leave gradients of a loss that uses each matrix twice."""
    output = dictionary({HOOK: inputs})
    features = torch.tensor([0, 2, 3, 7, 9])
    revived = dictionary.reconstruct_with({HOOK: inputs}, output, features, 2)[HOOK]
    loss = (output.reconstruction[HOOK] - inputs).square().sum() + revived.square().sum()
    (loss + dictionary.decoder_norms().sum()).backward()


def gradients_of(dictionary):
    return {n: p.grad for n, p in dictionary.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [1, 3 * D_IN * 8, 1 << 20], ids=["one", "three", "all"])
@pytest.mark.parametrize("kind", [TopK(k=1), BatchTopK(k=1.0), JumpRelu()], ids=lambda k: k.kind)
def test_kept_gradients_are_those_of_autograd(kind, size, monkeypatch):
    monkeypatch.setattr(loops_backend.Loops, "gradient_bytes", size)
    monkeypatch.setattr(loops_backend.Loops, "product_rows", 5)
    plain, ours = (
        random_sae(kind, subtract_b_dec=True, gate_on_decoder_norm=True, glu=True) for _ in range(2)
    )
    memory = gradients.Kept(p for p in ours.parameters() if p.ndim > 1)
    for parts in (1, 2):  # of one backward pass, and added up over two
        for one in (plain, ours):
            one.zero_grad(set_to_none=True)
        for seed in range(parts):
            backward(plain, rows(seed))
            with gradients.kept(memory):
                backward(ours, rows(seed))
        wanted = gradients_of(plain)
        torch.testing.assert_close(gradients_of(ours), wanted, rtol=1e-12, atol=1e-12)


def test_memory_of_gradients_is_kept_lent_and_shared_by_those_that_take_turns():
    one, other = (random_sae(TopK(k=1)) for _ in range(2))
    places = []
    for dictionary in (one, other, one):
        memory = gradients.Kept([dictionary.encoder, dictionary.W_dec])
        with gradients.kept(memory):
            assert gradients.spare(2, D_IN, dictionary.encoder) is not None
            assert gradients.spare(2, D_IN, dictionary.encoder.float()) is None
            assert gradients.spare(1 << 10, D_IN, dictionary.encoder) is None
            backward(dictionary, rows(0))
            # A gradient is in it now, and a second pass of the same step must leave it alone.
            assert gradients.spare(2, D_IN, dictionary.encoder) is None
        places.append(dictionary.encoder.grad.data_ptr())
        held = memory  # noqa: F841 - until the next one has found it
        dictionary.zero_grad(set_to_none=True)
    assert len(set(places)) == 1


def test_without_kept_memory_autograd_returns_gradients():
    dictionary = random_sae(TopK(k=1))
    output = dictionary({HOOK: rows(0)})
    (found,) = torch.autograd.grad(output.reconstruction[HOOK].sum(), [dictionary.encoder])
    assert found.abs().sum() > 0
    assert dictionary.encoder.grad is None
