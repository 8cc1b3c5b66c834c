"""Latent scaling: against dense least squares, and telling features that were shrunk from those of one head."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from saestore import analyze, dictionaries, features
from saestore.activations import JoinedStore
from saestore.analyze import scaling_loops
from saestore.analyze.scaling import HeadScaling, measurable
from saestore.lake import Ref, manifest as manifests
from saestore.lake.lock import writing
from saestore.testing.dictionaries import random_dictionary, raw_rows
from saestore.testing.stores import scratch_lake, synthetic_store
from saestore_schemas.activations import HeadSettings
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.families import CrossCoderSettings, SaeSettings
from saestore_schemas.train import InitSettings, TrainSettings


WIDTHS = {"base": 7, "tuned": 7, "wide": 5}
ROWS = 13


def crosscoder(hookpoints, **chosen):
    return CrossCoderSettings.model_validate(
        {"family": "crosscoder", "hookpoints": list(hookpoints), "d_sae": 11, **chosen}
    )


def scales_of(dictionary, rows, kept):
    """Latent scaling of rows that come in three blocks."""
    found = HeadScaling(dictionary)
    for start, stop in pairwise((0, 5, 6, ROWS)):
        part = {hook: each[start:stop] for hook, each in rows.items()}
        found.update(dictionary.encode(part), part, kept[start:stop])
    return found


def least_squares(design, target):
    """β that makes `‖β design − target‖` least; NaN without anything to scale."""
    if not design.any():
        return np.nan
    return float(np.linalg.lstsq(design.reshape(-1, 1), target.reshape(-1), rcond=None)[0][0])


@pytest.mark.parametrize("gating", ["shared", "per_head"])
def test_scales_are_those_of_dense_least_squares(gating):
    settings = crosscoder(WIDTHS, activation={"kind": "topk", "k": 2}, gating=gating)
    plain = random_dictionary(settings, WIDTHS, dtype=torch.float64)
    lengths = torch.from_numpy(np.random.default_rng(0).uniform(0.2, 2, (11, len(WIDTHS))))
    with torch.no_grad():
        plain.W_dec.mul_(lengths.repeat_interleave(torch.tensor(list(WIDTHS.values())), dim=1))
    rows = {
        hook: torch.from_numpy(raw_rows(ROWS, width, seed=number) * (1 + number))
        for number, (hook, width) in enumerate(WIDTHS.items())
    }
    kept = np.arange(ROWS) % 4 != 1
    found = scales_of(plain.in_raw_units(), rows, kept)
    scales = found.scales()
    # Everything again, in the units of training and with dense arrays of the plain dictionary.
    code = plain.encode(rows).to_dense().numpy()[kept]
    f = dict(
        zip(WIDTHS, np.split(code, 3, axis=1) if gating == "per_head" else 3 * [code], strict=True)
    )
    x = {hook: each.numpy()[kept] for hook, each in plain.normalise(rows).items()}
    vectors = plain.writes.split(plain.decoder_vectors())
    d = {hook: vectors[hook].numpy() for hook in WIDTHS}
    bias = plain.writes.split(plain.b_dec.detach())
    written = {hook: f[hook] @ d[hook] + bias[hook].numpy() for hook in WIDTHS}
    lengths = np.stack([np.linalg.norm(d[hook], axis=1) for hook in WIDTHS], axis=1)
    assert np.array_equal(found.owner, lengths.argmax(axis=1))
    owners = [list(WIDTHS)[o] for o in found.owner]
    assert found.firings.tolist() == [(f[hook][:, i] != 0).sum() for i, hook in enumerate(owners)]
    assert 0 < (found.firings == 0).sum() < 11
    assert len(set(owners)) == 3
    for i, (o, owner) in enumerate(zip(found.owner, owners, strict=True)):
        design = f[owner][:, i, None] * d[owner][i]
        beta = np.full((2, 3), np.nan)
        for m, hook in enumerate(WIDTHS):
            if WIDTHS[hook] == WIDTHS[owner]:
                without = written[hook] - f[hook][:, i, None] * d[hook][i]
                beta[:, m] = [least_squares(design, y) for y in (x[hook] - without, written[hook])]
        wanted = [lengths[i] / lengths[i, o], *beta, *(beta / beta[:, [o]])]
        for name, value in zip(vars(scales), wanted, strict=True):
            assert getattr(scales, name)[i] == pytest.approx(value, rel=1e-9, nan_ok=True), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_gathered_vectors(dtype):
    generator = torch.Generator().manual_seed(0)
    vectors, targets = (
        torch.randn(*n, 7, dtype=dtype, generator=generator) for n in ([11], [4, 13])
    )
    feature, row = (torch.randint(n, (2500,), generator=generator) for n in (11, 13))
    found = scaling_loops.products(vectors, targets, feature, row)
    other = torch.zeros_like(found)
    scaling_loops.gather(vectors, targets, feature, row, other)
    torch.testing.assert_close(found, other, rtol=1e-12, atol=1e-12)


def test_what_it_cannot_say_is_not_said():
    one = SaeSettings(hookpoint="base", d_sae=11, activation={"kind": "relu"})
    assert not measurable(random_dictionary(one, WIDTHS))
    assert measurable(random_dictionary(crosscoder(WIDTHS, activation={"kind": "relu"}), WIDTHS))


WIDTH, COUNT = 9, 1200
HOOK = "blocks.1.hook_resid_post"
PLANTED = ("shared", "alone", "shrunk", "decoupled")
"""What becomes of features 0 to 3; 4 is the other head's copy of 3."""


def planted(lake):
    """Stores of two models, and a crosscoder of them that misses some of what the second has."""
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0][:5].astype(np.float32)
    strength = (rng.random((COUNT, 5)) < 0.2) * rng.uniform(1, 2, (COUNT, 5))
    strength = strength.astype(np.float32)
    # The last one has no feature: both models have four directions, and rows of about one length.
    there = {"base": np.array([1, 1, 1, 1, 0]), "tuned": np.array([1, 0, 1, 1, 1])}
    noise = {name: 0.02 * rng.normal(size=(COUNT, WIDTH)) for name in there}
    heads = [HeadSettings(name=name, store=name, hookpoint=HOOK) for name in there]
    for name, some in there.items():
        values = ((strength * some) @ vectors + noise[name]).astype(np.float32)
        scaled = values if name == "base" else 5 * values  # another model's activations are longer
        synthetic_store(lake, name, values={HOOK: scaled}, lm=name)
    store = JoinedStore.of(lake, heads)
    settings = TrainSettings.model_validate(
        {
            "series": "s",
            "name": "planted",
            "activations": {"heads": [head.model_dump() for head in heads]},
            "dictionary": {
                "family": "crosscoder",
                "hookpoints": list(there),
                "d_sae": 6,
                "activation": {"kind": "relu"},
                "scale": "dataset_mean_norm",
            },
            "budget": {"epochs": 1.0},
        }
    )
    made = dictionaries.build(
        settings.dictionary,
        widths=dict.fromkeys(there, WIDTH),
        moments={name: store.moments(name) for name in there},
        init=InitSettings(),
        seed=0,
    )
    a, b = (made.scales[name].record.a * scale for name, scale in zip(there, (1, 5), strict=True))
    u, nothing = torch.from_numpy(vectors), torch.zeros(WIDTH)
    reads = [(u[i], nothing) for i in range(4)] + [(nothing, u[3]), (nothing, nothing)]
    writes = [
        (u[0], u[0]), (u[1], nothing), (u[2], 0.1 * u[2]), (u[3], 0.02 * u[3]), (nothing, u[3]),
        (nothing, nothing),
    ]  # fmt: skip
    with torch.no_grad():
        made.encoder.copy_(torch.stack([torch.cat([x / a, y / b]) for x, y in reads]))
        made.W_dec.copy_(torch.stack([torch.cat([a * x, b * y]) for x, y in writes]))
        made.b_enc.fill_(-0.1)
    run = manifests.Run.of(Ref("dictionary", "s/planted"), settings, store.parents)
    artefact = lake.artefact(run.ref)
    with writing(artefact, name=run.ref.name):
        manifests.begin(artefact, run)
        dictionaries.save(made, artefact)
        manifests.finish(artefact, run, arrays={}, counts={}, facts={})


def test_a_shrunk_feature_is_told_from_one_that_a_head_has_alone():
    with scratch_lake() as lake:
        planted(lake)
        question = "SELECT * FROM feature_heads ORDER BY feature"
        columns = features.query(lake, question).schema
        analyze.run(AnalyzeSettings(dictionary="s/planted", logits=None), lake, device="cpu")
        table = features.query(lake, question)
        assert table.schema.equals(columns)
        found = table.to_pylist()
        assert [line["verdict"] for line in found] == [*PLANTED, "decoupled", "unknown"]
        assert [line["hookpoint"] for line in found[1:5]] == ["base"] * 3 + ["tuned"]
        by_norm = [line["norm_ratio"] < 0.2 for line in found[:5]]
        assert by_norm == [False, True, True, True, True]  # which says nothing of three of them
        alone, shrunk, decoupled = (found[i] for i in (1, 2, 3))
        assert max(abs(alone["nu_error"]), abs(alone["nu_reconstruction"])) < 0.05
        assert shrunk["nu_error"] == pytest.approx(1, abs=0.15)
        assert shrunk["nu_reconstruction"] < 0.2
        assert decoupled["nu_error"] < 0.2
        assert decoupled["nu_reconstruction"] == pytest.approx(1, abs=0.15)
        at_base, at_tuned = features.Analysis.open(lake, "s/planted/default").feature(2).writes
        assert at_base.nu_error is None
        assert at_tuned.nu_error == shrunk["nu_error"]
        told = features.run_named(lake, "exclusive_features", {"hookpoint": "base"})
        assert told["feature"].to_pylist() == [1, 3, 2]
        plain = AnalyzeSettings(
            dictionary="s/planted", name="plain", logits=None, head_scaling=False
        )
        analyze.run(plain, lake, device="cpu")
        assert "head_scaling" not in lake.manifest(Ref("features", "s/planted/plain")).arrays
