"""Every backend is the dense reference: values and gradients, whatever the pairs are.

Without CUDA, Triton's kernels run through numpy here, as they stand; with it, on the device.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saestore.dictionaries import backends, selection
from saestore.dictionaries.kernels import Pairs, decoded, picked
from saestore.errors import ConfigError


pytestmark = pytest.mark.usefixtures("with_triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_mask(rows, d_sae, share=0.3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(rows, d_sae, generator=draw) < share


def awkward_mask():
    """Rows without a pair, features that nobody uses, one that all do."""
    mask = random_mask(13, 11)
    mask[2:4] = False
    mask[:, [0, 7, 10]] = False
    mask[:, 5] = True
    mask[12] = False
    return mask


PIECE, LINE = 8, 64
"""Smaller than on a device, so that small cases have several."""


@pytest.fixture(autouse=True)
def _small_programs(with_triton, monkeypatch):
    from saestore.dictionaries.backends import triton_backend

    monkeypatch.setattr(triton_backend, "PIECE", PIECE)
    monkeypatch.setattr(triton_backend, "LINE", LINE)


def frequent_mask():
    """One feature that every row uses, in three pieces; one that fills a piece; others rare."""
    mask = random_mask(2 * PIECE + 5, 7, share=0.05)
    mask[:, 3] = True
    mask[:, 4] = torch.arange(len(mask)) < PIECE
    return mask


MASKS = {
    "awkward": (awkward_mask(), 7),
    "a frequent feature": (frequent_mask(), 3),
    "wide": (random_mask(3, 5), 768),
    "width 1": (random_mask(3, 5), 1),
    "all features": (torch.ones(5, 11, dtype=torch.bool), 13),
    "long rows": (random_mask(2, 90, share=0.9), 7),
    "one row": (random_mask(1, 11), 7),
    "no rows": (torch.zeros(0, 11, dtype=torch.bool), 7),
    "no pairs": (torch.zeros(3, 11, dtype=torch.bool), 7),
}


def tensors(mask, width, dtype=torch.float64):
    """Rows, vectors and one value a pair, rounded to a type."""
    draw = torch.Generator().manual_seed(1)
    rows, d_sae = mask.shape
    made = (
        torch.randn(rows, width, generator=draw, dtype=torch.float64),
        torch.randn(d_sae, width, generator=draw, dtype=torch.float64),
        torch.randn(int(mask.sum()), generator=draw, dtype=torch.float64),
    )
    return [each.to(DEVICE, dtype) for each in made]


def everything(backend, mask, rows, vectors, values):
    """What is ever asked of a backend about pairs, by name."""
    with backends.using(backend):
        pairs = Pairs(*selection.of_mask(mask.to(DEVICE)), mask.shape[1])
        weights = values.clone().requires_grad_()
        bags = pairs.by_rows(weights, vectors)
        (dots,) = torch.autograd.grad((bags * rows).sum(), weights)
        return {
            "bags": bags.detach(),
            "dots": dots,
            "long bags": pairs.by_features(values, rows),
            "row sums": pairs.row_sums(values),
            "feature sums": pairs.feature_sums(values),
        }


def densely(mask, rows, vectors, values):
    """The same by dense float64 products."""
    mask = mask.to(DEVICE)
    rows, vectors, values = rows.double(), vectors.double(), values.double()
    code = torch.zeros(mask.shape, dtype=torch.float64, device=DEVICE)
    code[mask] = values
    return {
        "bags": code @ vectors,
        "dots": (rows @ vectors.T)[mask],
        "long bags": code.T @ rows,
        "row sums": code.sum(dim=1),
        "feature sums": code.sum(dim=0),
    }


@pytest.mark.parametrize("case", MASKS)
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_work_on_pairs_is_the_dense_work(backend, case):
    mask, width = MASKS[case]
    given = tensors(mask, width)
    expected = densely(mask, *given)
    for name, found in everything(backend, mask, *given).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_narrow_vectors_are_added_up_in_float32(backend, dtype):
    mask, width = MASKS["awkward"]
    rows, vectors, values = tensors(mask, width, dtype)
    rows, values = rows.float(), values.float()
    found = everything(backend, mask, rows, vectors, values)
    expected = densely(mask, rows, vectors, values)
    for name, each in found.items():
        assert each.dtype == torch.float32
        torch.testing.assert_close(each.double(), expected[name], rtol=1e-6, atol=1e-6, msg=name)


def test_sums_of_narrow_numbers_are_rounded_once():
    mask, width = MASKS["a frequent feature"]
    given = tensors(mask, width, torch.bfloat16)
    found = everything("triton", mask, *given)
    for name, exact in densely(mask, *given).items():
        assert found[name].dtype == torch.bfloat16
        # The interpreter cuts bits off where a device rounds.
        torch.testing.assert_close(found[name].double(), exact, rtol=2**-7, atol=1e-3, msg=name)


@pytest.mark.parametrize("case", ["awkward", "a frequent feature"])
def test_results_are_the_same_bits_every_time(case):
    mask, width = MASKS[case]
    given = tensors(mask, width, torch.float32)
    first, second = (everything("triton", mask, *given) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_equal_central_differences():
    mask, width = awkward_mask()[:5, :6], 3
    rows, vectors, _ = tensors(mask, width)
    bias = torch.linspace(-1, 1, mask.shape[1], dtype=torch.float64, device=DEVICE)
    with backends.using("triton"):
        pairs = Pairs(*selection.of_mask(mask.to(DEVICE)), mask.shape[1])

        def pass_through(rows, encoder, bias, decoder):
            h = rows @ encoder.T + bias
            kept = picked(rows, None, encoder, bias, pairs.of(h.detach()), pairs)
            return decoded(kept.square(), decoder, pairs)

        given = [rows, vectors, bias, vectors.flip(0) / 2]
        given = [each.clone().requires_grad_() for each in given]
        assert torch.autograd.gradcheck(pass_through, given, atol=1e-6, fast_mode=True)


def scores_with_ties(rows, d_sae):
    draw = torch.Generator().manual_seed(3)
    scores = torch.randn(rows, d_sae, generator=draw)
    scores[::2] = scores[::2].round()
    scores[0, 1] = torch.nan
    return scores.to(DEVICE)


@pytest.mark.parametrize("shape", [(5, 11), (1, 1), (2, 2 * LINE + 7), (0, 11)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_what_exceeds_a_limit_is_found_everywhere(shape, dtype):
    scores = scores_with_ties(*shape).to(dtype) if shape[0] and shape[1] > 1 else torch.ones(shape)
    scores = scores.to(DEVICE, dtype)
    limits = torch.linspace(-1, 1, shape[1], device=DEVICE).to(dtype)
    keep = scores > limits
    count = int(keep.sum())
    for name in ("torch", "triton", *(["loops"] if DEVICE.type == "cpu" else [])):
        with backends.using(name):
            offsets, indices = selection.above(scores, limits, most=count)
            assert count == 0 or selection.above(scores, limits, most=count - 1) is None
        assert offsets.tolist() == [0, *keep.sum(dim=1).cumsum(0).tolist()]
        assert indices.tolist() == keep.nonzero()[:, 1].tolist()


def test_scores_need_not_lie_side_by_side():
    scores = scores_with_ties(5, 16)
    limits = torch.zeros(5, device=DEVICE)
    for part in (scores[:, 3:8], scores[:, ::3][:, :5], scores.T[3:8, :]):
        with backends.using("triton"):
            offsets, indices = selection.above(part, limits[: part.shape[1]], most=99)
        keep = part > 0
        assert offsets.tolist() == [0, *keep.sum(dim=1).cumsum(0).tolist()]
        assert indices.tolist() == keep.nonzero()[:, 1].tolist()


@pytest.mark.parametrize("backend", ["loops", "torch", "triton"])
def test_pairs_by_feature_keep_the_order_of_rows(backend):
    if backend == "loops" and DEVICE.type != "cpu":
        return
    mask = awkward_mask()
    with backends.using(backend):
        pairs = Pairs(*selection.of_mask(mask.to(DEVICE)), mask.shape[1])
        order, rows, starts = pairs.by_feature()
    features, expected = mask.T.nonzero(as_tuple=True)
    assert rows.tolist() == expected.tolist()
    assert pairs.indices[order].tolist() == features.tolist()
    assert starts.tolist() == [0, *mask.sum(dim=0).cumsum(0).tolist()]


def test_the_device_decides_unless_somebody_does():
    assert backends.of(torch.device("cpu")).name == "loops"
    assert backends.of(torch.device("cuda")).name == "triton"
    assert backends.of(torch.device("mps")).name == "torch"
    with backends.using("triton"):
        assert backends.of(torch.device("cpu")).name == "triton"
    assert backends.of(torch.device("cpu")).name == "loops"


def test_an_unknown_backend_names_the_nearest():
    with (
        pytest.raises(ConfigError, match="backend: found 'tritton'") as caught,
        backends.using("tritton"),
    ):
        pass
    assert "triton" in caught.value.hint


@pytest.mark.parametrize(("rows", "count", "wide"), [(3, 700, 8), (1, 1, 32), (0, 5, 4), (2, 3, 2)])
def test_maxima_of_stretches_are_torchs(with_triton, rows, count, wide):
    scores = torch.randn(rows, count * wide + 3, generator=torch.Generator().manual_seed(1))
    inside = scores.to(DEVICE)[:, : count * wide]
    wanted = backends.BACKENDS["cuda"]().maxima(inside, wide)
    assert torch.equal(backends.BACKENDS["triton"]().maxima(inside, wide), wanted)


@pytest.mark.parametrize(
    "cases", [["bf16"], pytest.param(["fp32", "fp64", "fp16"], marks=pytest.mark.slow)], ids=str
)
def test_every_kernel_compiles_for_real_devices_and_spills_nothing(cases, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_kernels.py")
    run = subprocess.run(
        [sys.executable, script, *cases],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    names = {"bags", "pieces", "joined", "dots", "sums", "count_above", "fill_above", "maxima"}
    assert {(line[0], line[1]) for line in lines} == {(n, case) for n in names for case in cases}
    assert {line[3] for line in lines} == {"0"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_device_agrees_at_the_sizes_of_training(dtype, monkeypatch):
    from saestore.dictionaries.backends import triton_backend

    monkeypatch.setattr(triton_backend, "PIECE", 64)
    mask = random_mask(2048, 8192, share=0.004)
    mask[:, 77] = True
    rows, vectors, values = tensors(mask, 768, dtype)
    rows, values = rows.float(), values.float()
    expected = densely(mask, rows, vectors, values)
    for backend in ("torch", "triton"):
        found = [everything(backend, mask, rows, vectors, values) for _ in range(2)]
        for name, exact in expected.items():
            torch.testing.assert_close(found[0][name].double(), exact, rtol=1e-4, atol=1e-4)
            assert torch.equal(found[0][name], found[1][name])
