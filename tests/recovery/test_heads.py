"""Features that two models share, and those of one alone, are found in their stores and told apart."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from saestore import analyze, features, train
from saestore.testing.stores import scratch_lake, synthetic_store
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.train import TrainSettings


SHARED, ALONE, WIDTH, ROWS = 6, 3, 20, 3000
SCALES = {"base": 1.0, "tuned": 6.0}
HOOK = "blocks.1.hook_resid_post"
KINDS = [*SHARED * [("shared", None)], *ALONE * [("alone", "base")], *ALONE * [("alone", "tuned")]]


def planted():
    """The vectors of each model, zero where it lacks the feature, and rows made of them."""
    rng = np.random.default_rng(np.random.SeedSequence([0, *b"stores"]))
    strength = rng.random((ROWS, len(KINDS))) < 0.1
    strength = strength * rng.uniform(1, 1.5, strength.shape)
    vectors = {}
    for name in SCALES:
        own = rng.standard_normal((len(KINDS), WIDTH))
        own[:SHARED] = vectors["base"][:SHARED] if vectors else own[:SHARED]  # one basis
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        vectors[name] = own * [[owner in {None, name}] for _, owner in KINDS]
    rows = {name: SCALES[name] * (strength @ own + 2) for name, own in vectors.items()}
    return vectors, {name: each.astype(np.float32) for name, each in rows.items()}


def test_what_both_have_and_what_one_has_are_found_and_told_apart():
    vectors, rows = planted()
    with scratch_lake() as lake:
        for name, values in rows.items():
            synthetic_store(lake, name, values={HOOK: values}, lm=name)
        heads = [{"name": name, "store": name, "hookpoint": HOOK} for name in rows]
        settings = {
            "series": "s",
            "name": "planted",
            "activations": {"heads": heads, "batch_rows": 256, "held_out": 0.02},
            "dictionary": {
                "family": "crosscoder",
                "hookpoints": list(rows),
                "d_sae": 15,
                "activation": {"kind": "batchtopk", "k": 0.1 * len(KINDS)},
            },
            "budget": {"epochs": 20.0},
            "optimizer": {"lr": 1e-2},
            "loss": {"aux": {"dead_after_rows": 5120}},
        }
        found = train.run(TrainSettings.model_validate(settings), lake, device="cpu")
        analyze.run(AnalyzeSettings(dictionary="s/planted", logits=None), lake, device="cpu")
        told = features.query(lake, "SELECT * FROM feature_heads ORDER BY feature").to_pylist()
    folded = found.in_raw_units()
    ours = [folded.decoder_vectors_at(n).detach().numpy() / s for n, s in SCALES.items()]
    theirs, ours = (np.concatenate(list(each), axis=1) for each in (vectors.values(), ours))
    lengths = np.linalg.norm(theirs, axis=1)[:, None] * np.linalg.norm(ours, axis=1)
    _, matched = linear_sum_assignment(-(theirs @ ours.T) / lengths)
    assert (((theirs @ ours.T) / lengths)[np.arange(len(KINDS)), matched] > 0.98).all()
    for (verdict, owner), feature in zip(KINDS, matched, strict=True):
        assert told[feature]["verdict"] == verdict
        assert owner in {None, told[feature]["hookpoint"]}
