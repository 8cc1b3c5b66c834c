"""How Lorsas start: at random, or from the attention that they are to replace."""

import numpy as np
import pytest
import torch

from saestore import dictionaries
from saestore.dictionaries import ContextRows, Contexts, HostAttention
from saestore.errors import ConfigError
from saestore.testing.dictionaries import ExactMoments, raw_rows
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import LorsaSettings
from saestore_schemas.train import InitSettings, TrainSettings


READS, WRITES = "blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out"
WIDTHS = {READS: 7, WRITES: 5}
ROWS = 60


def sample():
    """Contexts of 6 rows: a BOS and one document, the BOS not wanted."""
    rows = {hook: torch.from_numpy(raw_rows(ROWS, w, seed=w)) for hook, w in WIDTHS.items()}
    places = torch.arange(ROWS)
    layout = Contexts(torch.arange(0, ROWS + 1, 6), (places % 6 > 0).long(), places[places % 6 > 0])
    return ContextRows(rows, layout)


def started(init=None, *, host=None, d_sae=24, n_qk=4, given=True, qk_norm="none", **more):
    settings = LorsaSettings.model_validate({
        "family": "lorsa", "hookpoint_in": READS, "hookpoint_out": WRITES, "d_sae": d_sae,
        "activation": TopK(k=3), "attention": {"n_qk": n_qk, "d_qk": 3, "qk_norm": qk_norm},
        "dtype": "float64", **more,
    })  # fmt: skip
    return dictionaries.build(
        settings,
        widths=WIDTHS,
        moments={h: ExactMoments(raw_rows(ROWS, w, seed=w)) for h, w in WIDTHS.items()},
        init=init or InitSettings(),
        seed=0,
        sample=sample() if given else None,
        host=host,
    )


def attention(heads=4, key_heads=2, *, biases=True, norms=False):
    draw = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    return HostAttention(
        W_Q=normal(heads, 7, 3), W_K=normal(key_heads, 7, 3), W_V=normal(key_heads, 7, 3),
        W_O=normal(heads, 3, 5),
        b_Q=normal(heads, 3) if biases else None, b_K=normal(key_heads, 3) if biases else None,
        q_norm=normal(3) if norms else None, k_norm=normal(3) if norms else None,
    )  # fmt: skip


@pytest.mark.parametrize("biases", [True, False])
def test_its_queries_and_keys_are_the_hosts_of_rows_as_stored(biases):
    host = attention(biases=biases)
    tensors = started(host=host, n_qk=8).folded().tensors()
    rows = torch.from_numpy(raw_rows(9))
    for side, heads in (("Q", [0, 1, 2, 3]), ("K", [0, 0, 1, 1])):
        weights, own = getattr(host, f"W_{side}"), getattr(host, f"b_{side}")
        for group in range(8):
            head = heads[group // 2]
            wanted = rows @ weights[head] + (0 if own is None else own[head])
            found = rows @ tensors[f"W_{side}"][group] + tensors[f"b_{side}"][group]
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_norms_of_queries_and_keys_are_copied_to_every_group():
    host = attention(norms=True)
    tensors = started(host=host, qk_norm="rms").tensors()
    for name in ("q_norm", "k_norm"):
        assert torch.equal(tensors[name], getattr(host, name).expand(4, 3))


def test_a_feature_writes_what_its_head_writes_for_what_it_reads():
    host = attention()
    tensors = started(host=host).tensors()
    x = raw_rows(ROWS, 7, seed=7)[np.arange(ROWS) % 6 > 0]
    for feature in (0, 5, 6, 13, 23):
        head = feature // 6
        value = host.W_V[head // 2]
        reads, writes = tensors["W_V"][feature], tensors["W_O"][feature]
        wanted = reads @ value @ host.W_O[head]
        torch.testing.assert_close(writes, wanted / wanted.norm(), rtol=1e-9, atol=1e-9)
        assert float(reads.norm()) == pytest.approx(1)
        seen = torch.from_numpy(x) @ value @ value.T
        within = torch.linalg.lstsq((seen - seen.mean(dim=0)).T, reads.unsqueeze(1)).solution
        missed = (seen - seen.mean(dim=0)).T @ within - reads.unsqueeze(1)
        assert float(missed.abs().max()) < 1e-9


def test_features_that_hardly_fire_change_sign_and_write_the_same():
    plain, turned = (started(InitSettings(sign_flip=flip), scale="none") for flip in (False, True))
    inputs = plain.normalise(sample())
    z = plain.pre_activations(dictionaries.contexts.only(inputs, (READS,)))
    seldom = (z > 0).double().mean(dim=0) < 0.2
    assert 0 < int(seldom.sum()) < 24
    signs = torch.where(seldom, -1.0, 1.0).double().unsqueeze(1)
    for name in ("W_V", "W_O"):
        assert torch.equal(turned.tensors()[name], plain.tensors()[name] * signs)
    again = turned.pre_activations(dictionaries.contexts.only(inputs, (READS,)))
    assert ((again > 0).double().mean(dim=0) >= 0.2).all()


def test_the_mean_of_z_may_be_taken_off():
    one = started(InitSettings(center_encoder_bias=True))
    inputs = dictionaries.contexts.only(one.normalise(sample()), (READS,))
    mean = one.pre_activations(inputs).mean(dim=0)
    torch.testing.assert_close(mean, torch.zeros(24).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("host", [None, attention()])
def test_decoder_vectors_may_start_where_targets_vary(host):
    one = started(InitSettings(active_subspace=2), host=host, decoder_norm="unit")
    rows = one.normalise(sample())[WRITES]
    _, _, directions = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    outside = one.tensors()["W_O"] @ directions[2:].T
    assert float(outside.abs().max()) < 1e-9
    torch.testing.assert_close(one.decoder_norms(), torch.ones(24).double())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"host": attention(), "n_qk": 6}, "multiple of the host's 4 heads"),
        ({"host": attention(norms=True)}, "rms, as the host has"),
        ({"host": attention(), "qk_norm": "rms"}, "the host has no norm"),
        ({"init": InitSettings(sign_flip=True), "given": False}, "no sample of rows"),
    ],
)
def test_what_does_not_fit_is_refused(change, reason):
    with pytest.raises(ConfigError, match=reason):
        started(**change)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (
            {"init": {"data_points": True}},
            "init.data_points says nothing about how weights of family 'lorsa'",
        ),
        ({"init": {"tie": True}}, "init.tie says nothing"),
        ({"activations": {"sources": [{"name": "a"}, {"name": "b"}]}}, "whole contexts: give one"),
        ({"activations": {"name": "a", "shuffle": {"window_rows": 9}}}, "window_rows mixes single"),
    ],
)
def test_settings_that_mean_nothing_are_refused_when_they_load(section, reason):
    run = {"series": "s", "name": "n", "activations": {"name": "a"}, "budget": {"rows": 9000}}
    lorsa = {
        "family": "lorsa", "hookpoint_in": READS, "hookpoint_out": WRITES, "d_sae": 12,
        "activation": {"kind": "topk", "k": 3}, "attention": {"n_qk": 3, "d_qk": 4},
    }  # fmt: skip
    TrainSettings.model_validate({**run, "dictionary": lorsa, "init": {"sign_flip": True}})
    with pytest.raises(ValueError, match=reason):
        TrainSettings.model_validate({**run, "dictionary": lorsa, **section})
    sae = {"hookpoint": READS, "d_sae": 9, "activation": {"kind": "topk", "k": 2}}
    with pytest.raises(
        ValueError, match="sign_flip says nothing about how weights of family 'sae'"
    ):
        TrainSettings.model_validate({**run, "dictionary": sae, "init": {"sign_flip": True}})
