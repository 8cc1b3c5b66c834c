"""The two halves of a float32: rounding as torch rounds, and back exactly."""

import numpy as np
import pytest
import torch

from saestore.activations import halves


TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(params=["instructions", "none"])
def processor(request, monkeypatch):
    if request.param == "none":
        monkeypatch.setattr(halves, "knows_float16", lambda: False)
    elif not halves.knows_float16():
        pytest.skip("this processor has no instruction for float16")


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_any_bits_are_rounded_as_torch_rounds_them(half):
    bits = np.random.default_rng(0).integers(0, 1 << 32, (301, 7), dtype=np.uint32)
    values = bits.view(np.float32)
    out = np.empty(values.shape, np.uint16)
    stored = out.view(np.float16) if half == "float16" else out
    assert not halves.narrow(values, stored, half)
    expected = torch.from_numpy(values).to(TORCH[half]).view(torch.uint16).numpy()
    number = ~np.isnan(values)
    assert np.array_equal(out[number], expected[number])
    assert np.isnan(back(stored, half)[~number]).all()


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize(("half", "largest"), [("float16", 65_519.0), ("bfloat16", 3.3895e38)])
def test_the_largest_value_is_finite_and_what_rounds_beyond_is_told(half, largest):
    values = np.zeros((5, 3), np.float32)
    values[3, 1] = -largest
    out = np.empty(values.shape, np.float16 if half == "float16" else np.uint16)
    assert halves.narrow(values, out, half)
    for beyond in (largest * np.float32(1.003), np.inf, -np.inf, np.nan):
        values[3, 1] = beyond
        assert not halves.narrow(values, out, half)


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_every_pattern_stands_for_what_torch_says(half):
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    stored = bits.view(np.float16) if half == "float16" else bits
    expected = torch.from_numpy(bits).view(TORCH[half]).float().numpy()
    assert np.array_equal(back(stored, half), expected, equal_nan=True)


def test_rows_with_gaps_are_refused():
    values = np.zeros((4, 6), np.float32)[:, ::2]
    with pytest.raises(ValueError, match="contiguous"):
        halves.narrow(values, np.zeros((4, 3), np.uint16), "bfloat16")


def back(stored, half):
    out = np.empty(stored.shape, np.float32)
    halves.widen(stored, out, half)
    return out
