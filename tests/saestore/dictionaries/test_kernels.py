"""The sparse path is the dense path: values and every gradient, to 1e-12 in float64."""

import pytest
import torch

from saestore.dictionaries import backends, selection
from saestore.dictionaries.backends import loops_backend
from saestore.testing.dictionaries import D_IN, D_SAE, HOOK, random_sae
from saestore_schemas.dictionary import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TopK


KINDS = {
    "topk": TopK(k=4),
    "batchtopk": BatchTopK(k=3.5),
    "jumprelu": JumpRelu(bandwidth=1.0),
    "relu": Relu(),
    "gated": Gated(),
    "abstopk": AbsTopK(k=4),
}


def outputs_and_gradients(dictionary, inputs, upstream):
    dictionary.zero_grad(set_to_none=True)
    output = dictionary({HOOK: inputs})
    code, reconstruction = output.code, output.reconstruction[HOOK]
    weights = torch.linspace(0.1, 1, D_SAE, dtype=inputs.dtype, device=inputs.device)
    loss = (reconstruction * upstream).sum()
    loss = loss + code.penalised.weighted_sum(weights).square().sum()
    if code.steps is not None:
        loss = loss + (code.row_sums(code.steps()) - 2).square().sum()
    part = code.between(2, 7).decoded(dictionary.W_dec[2:7])
    loss = loss + part.square().sum() + code.feature_sums(code.scaled(weights)).square().sum()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in dictionary.named_parameters() if p.grad is not None}
    return code.to_sparse().to_dense(), reconstruction.detach(), gradients


def few_rows_at_a_time(monkeypatch):
    """Let 13 rows be encoded as 5, 5 and 3, and ranked two by two."""
    monkeypatch.setattr(loops_backend.Loops, "product_rows", 5)
    monkeypatch.setattr(loops_backend.Loops, "ranked_rows", 2)


def cases():
    draw = torch.Generator().manual_seed(8)
    random = torch.randn(13, D_IN, generator=draw, dtype=torch.float64)
    yield "random", random, None
    tied = random.clone()
    yield "equal columns", tied, "tie"
    zeros = random.clone()
    zeros[3:6] = 0
    yield "rows without a firing", zeros, "silent"
    yield "features never selected", random, "dead"


OPTIONS = (
    {"subtract_b_dec": False},
    {"subtract_b_dec": True},
    {"gate_on_decoder_norm": True},
    {"gate_on_decoder_norm": True, "glu": True},
)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_and_dense_paths_agree(case, kind, options, monkeypatch):
    if kind == "gated" and "gate_on_decoder_norm" in options:
        return
    _, inputs, how = case
    dictionary = random_sae(KINDS[kind], **options)
    with torch.no_grad():
        if how == "tie":
            dictionary.encoder[1::2] = dictionary.encoder[0:-1:2]
            dictionary.b_enc[1::2] = dictionary.b_enc[0:-1:2]
            dictionary.W_dec.div_(dictionary.decoder_norms().unsqueeze(1))
        if how == "silent":
            dictionary.b_enc[:] = -0.1
            dictionary.b_dec[:] = 0
            if kind == "abstopk":
                dictionary.b_enc[:] = 0
        if how == "dead":
            dictionary.b_enc[::2] = -100
    upstream = torch.randn(13, D_IN, generator=torch.Generator().manual_seed(9)).double()
    few_rows_at_a_time(monkeypatch)
    found = {}
    for path, share in (("dense", 0.0), ("sparse", 1.0)):
        monkeypatch.setattr(backends, "wanted_share", share)
        found[path] = outputs_and_gradients(dictionary, inputs, upstream)
    if how == "silent":
        assert (found["dense"][0][3:6] == 0).all()
    for mine, theirs in zip(found["sparse"][:2], found["dense"][:2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["sparse"][2], found["dense"][2], rtol=1e-12, atol=1e-12)


def test_pre_activations_of_a_small_top_k_never_exist_whole(monkeypatch):
    few_rows_at_a_time(monkeypatch)
    inputs = torch.randn(13, D_IN, generator=torch.Generator().manual_seed(8)).double()
    for k, whole in ((1, False), (4, True)):  # of 11 features: below and above an eighth
        dictionary = random_sae(TopK(k=k), gate_on_decoder_norm=True)
        output = dictionary({HOOK: inputs})
        dictionary.reconstruct_with({HOOK: inputs}, output, torch.arange(5), 2)
        assert output.pre.linear.known == whole


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "gated"])
def test_kernels_for_cuda_agree_with_the_dense_path(kind, with_triton, monkeypatch):
    options = {} if kind == "gated" else OPTIONS[-1]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # else interpreted
    dictionary = random_sae(KINDS[kind], **options).to(device)
    inputs = torch.randn(5, D_IN, generator=torch.Generator().manual_seed(8)).double().to(device)
    with torch.no_grad():
        dictionary.b_enc[::3] = -100
    found = {}
    for path, share, backend in (("dense", 0.0, "torch"), ("sparse", 1.0, "triton")):
        monkeypatch.setattr(backends, "wanted_share", share)
        with backends.using(backend):
            found[path] = outputs_and_gradients(dictionary, inputs, inputs.flip(0))
    torch.testing.assert_close(found["sparse"], found["dense"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
def test_gradients_equal_central_differences(share, monkeypatch):
    monkeypatch.setattr(backends, "wanted_share", share)
    dictionary = random_sae(TopK(k=4))
    inputs = torch.randn(5, D_IN, generator=torch.Generator().manual_seed(4)).double()
    names = [name for name, _ in dictionary.named_parameters()]

    def loss(*values):
        output = torch.func.functional_call(
            dictionary, dict(zip(names, values, strict=True)), ({HOOK: inputs},)
        )
        return (output.reconstruction[HOOK] - inputs).square().sum() + output.code.weighted_sum(
            torch.linspace(0, 1, D_SAE).double()
        ).square().sum()

    values = [p.detach().clone().requires_grad_() for p in dictionary.parameters()]
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_a_step_is_reproducible_bit_for_bit(kind, monkeypatch):
    monkeypatch.setattr(backends, "wanted_share", 1.0)
    dictionary = random_sae(KINDS[kind], dtype=torch.float32)
    inputs = torch.randn(500, D_IN, generator=torch.Generator().manual_seed(4))
    upstream = torch.ones(500, D_IN)
    first = outputs_and_gradients(dictionary, inputs, upstream)[2]
    for _ in range(3):
        again = outputs_and_gradients(dictionary, inputs, upstream)[2]
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("k", [1, 4, D_SAE - 1, D_SAE])
def test_the_fast_selection_is_the_reference_one(k):
    draw = torch.Generator().manual_seed(k)
    scores = torch.randint(-3, 4, (300, D_SAE), generator=draw).double()  # ties everywhere
    wanted, expected = selection.exactly_largest(scores, k)
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, wanted, expected > 0)
    offsets, indices = selection.largest(scores, k)
    assert torch.equal(offsets.diff(), mask.sum(dim=1))
    assert torch.equal(indices, mask.nonzero()[:, 1])
