"""Narrow matrices are numbers like others: what is computed with them is what float32 ones give."""

import json

import pytest
import torch

from saestore import dictionaries
from saestore.dictionaries import backends, tensor_file
from saestore.errors import UnsupportedError
from saestore.lake import Storage
from saestore.testing.dictionaries import D_IN, HOOK, random_sae, raw_rows
from saestore_schemas.dictionary import BatchTopK, Gated, JumpRelu, Relu, TopK


NARROW = [torch.bfloat16, torch.float16]
KINDS = {
    "topk": (TopK(k=4), {"subtract_b_dec": True}),
    "batchtopk": (BatchTopK(k=3.5), {"decoder_norm": "unit"}),
    "jumprelu": (JumpRelu(bandwidth=1.0), {"gate_on_decoder_norm": True, "glu": True}),
    "relu": (Relu(), {"gate_on_decoder_norm": True}),
    "gated": (Gated(), {}),
}


def pair(kind, dtype):
    """A dictionary with narrow matrices, and one with the same numbers in float32."""
    activation, options = KINDS[kind]
    narrow = random_sae(activation, **options, dtype=dtype)
    wide = narrow.restore(
        narrow.config.model_copy(update={"dtype": "float32"}),
        narrow.scales,
        {name: each.float() for name, each in narrow.tensors().items()},
    )
    return narrow, wide


def one_pass(dictionary, rows):
    output = dictionary(dictionary.normalise({HOOK: rows}))
    loss = (output.reconstruction[HOOK] - rows).square().sum()
    loss = loss + output.code.penalised.weighted_sum(dictionary.decoder_norms()).sum()
    loss.backward()
    gradients = {n: p.grad for n, p in dictionary.named_parameters() if p.grad is not None}
    return output.code.to_sparse().to_dense(), output.reconstruction[HOOK].detach(), gradients


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_computes_in_float32_and_only_gradients_are_rounded(kind, dtype, share, monkeypatch):
    monkeypatch.setattr(backends, "wanted_share", share)
    narrow, wide = pair(kind, dtype)
    rows = torch.from_numpy(raw_rows()).float()
    code, reconstruction, gradients = one_pass(narrow, rows)
    expected = one_pass(wide, rows)
    assert code.dtype == reconstruction.dtype == torch.float32
    torch.testing.assert_close(code, expected[0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(reconstruction, expected[1], rtol=1e-5, atol=1e-4)
    for name, gradient in gradients.items():
        exact = expected[2][name]
        loss = float((gradient.double() - exact.double()).norm() / exact.double().norm())
        matrix = gradient.ndim > 1
        assert gradient.dtype == (dtype if matrix else torch.float32), name
        assert loss < (2 * torch.finfo(dtype).eps if matrix else 1e-5), name


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_kernels_read_narrow_matrices_as_they_lie(kind, with_triton, monkeypatch):
    monkeypatch.setattr(backends, "wanted_share", 1.0)
    rows = torch.from_numpy(raw_rows(5)).float()
    found = []
    for backend in ("torch", "triton"):
        with backends.using(backend):
            found.append(one_pass(pair(kind, torch.bfloat16)[0], rows))
    for mine, theirs in zip(found[1][:2], found[0][:2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][2], found[0][2], rtol=2**-6, atol=1e-2)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_what_describes_features_are_those_of_float32(kind, dtype):
    narrow, wide = pair(kind, dtype)
    rows = torch.from_numpy(raw_rows(300)).float()
    mine, theirs = narrow.encode(rows), wide.encode(rows)
    assert torch.equal(mine.to_dense(), theirs.to_dense())
    assert torch.equal(narrow.decode(mine)[HOOK], wide.decode(theirs)[HOOK])
    for name in ("decoder_norms", "encoder_norms", "encoder_vectors", "enc_dec_cosine"):
        ours = getattr(narrow, name)()
        assert ours.dtype == torch.float32
        assert torch.equal(ours, getattr(wide, name)())


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "gated"])
def test_other_weights_for_the_same_function_are_float32(kind):
    narrow, _ = pair(kind, torch.bfloat16)
    rows = torch.from_numpy(raw_rows()).float()
    folded = narrow.folded()
    assert folded.config.dtype == "float32"
    assert {each.dtype for each in folded.tensors().values()} == {torch.float32}
    expected = narrow.reconstruct(rows)[HOOK]
    torch.testing.assert_close(folded.reconstruct(rows)[HOOK], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32], ids=str)
def test_files_keep_types_and_bytes(dtype, tmp_path):
    one = random_sae(JumpRelu(), dtype=dtype)
    first, second = (Storage.at(tmp_path / name) for name in "ab")
    dictionaries.save(one, first)
    loaded = dictionaries.load_folder(first)
    dictionaries.save(loaded, second)
    assert first.read("weights.safetensors") == second.read("weights.safetensors")
    assert json.loads(first.read("config.json"))["dtype"] == str(dtype).removeprefix("torch.")
    tensors, _ = tensor_file.parse(first.read("weights.safetensors"))
    for name in ("W_enc", "W_dec"):
        assert tensors[name].dtype == dtype
    for name in ("b_enc", "b_dec", "threshold"):
        assert tensors[name].dtype == torch.float32
    assert torch.equal(
        loaded.encode(torch.ones(2, D_IN)).values, one.encode(torch.ones(2, D_IN)).values
    )


def test_types_that_the_config_does_not_say_are_refused(tmp_path):
    one = random_sae(TopK(k=4), dtype=torch.bfloat16)
    with pytest.raises(
        UnsupportedError, match=r"W_enc is torch\.float32; the config says bfloat16"
    ):
        dictionaries.save(one.float(), Storage.at(tmp_path))
