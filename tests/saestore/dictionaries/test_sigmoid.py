"""The sigmoid of GLU encoders."""

import pytest
import torch

from saestore.dictionaries.sigmoid import sigmoid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_value_has_the_same_bits_wherever_it_stands(dtype):
    values = torch.randn(211, 37, generator=torch.Generator().manual_seed(0)).to(dtype) * 4
    whole = sigmoid(values)
    for row in range(211):
        assert torch.equal(sigmoid(values[row].clone()), whole[row])
    assert torch.equal(sigmoid(values.flip(0)).flip(0), whole)


def test_it_is_torch_s_within_rounding_and_ends_at_0_and_1():
    values = torch.linspace(-30, 30, 4001)
    torch.testing.assert_close(sigmoid(values), torch.sigmoid(values), rtol=3e-7, atol=0)
    ends = torch.tensor([-torch.inf, -200.0, 200.0, torch.inf])
    assert sigmoid(ends).tolist() == [0, 0, 1, 1]


def test_its_gradient_is_that_of_finite_differences_and_is_finite_everywhere():
    values = torch.linspace(-5, 5, 23, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sigmoid, (values,))
    assert torch.autograd.gradgradcheck(sigmoid, (values,))
    far = torch.tensor([-1e4, -90.0, 90.0, 1e4], requires_grad=True)
    sigmoid(far).sum().backward()
    assert far.grad is not None
    assert far.grad.tolist() == [0, 0, 0, 0]
