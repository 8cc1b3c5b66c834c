"""A store is told from what another model, other weights or another layer would have given."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saestore import generate
from saestore.errors import ConfigError, UnsupportedError
from saestore.generate import recompute
from saestore.lm import LanguageModel
from saestore.progress import Recorder
from saestore.testing.models import tiny_model
from saestore.testing.stores import synthetic_store
from saestore_schemas.lm import LmSettings


HOOK = "blocks.1.hook_resid_post"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_a_store_agrees_with_its_model(lake, plan, dtype):
    settings = plan(dtype=dtype, tokens=300, capture=("final_norm_scale",))
    store = generate.run(settings, lake, device="cpu")
    seen = Recorder()
    found = generate.against_model(store, 9, seed=1, device="cpu", progress=seen)
    assert found.agrees
    assert not list(recompute.problems(found))
    assert (found.contexts, found.of) == (9, store.n_contexts)
    *_, scale = found.hookpoints
    assert [each.hookpoint for each in found.hookpoints] == [*store.hookpoints, "final_norm_scale"]
    assert scale.relative < 1e-5  # of whatever type the activations are
    for each in found.hookpoints:
        assert each.rows == seen.tasks[0]["advanced"] == seen.tasks[0]["total"]
        assert each.noise < 1e-4
        rounding = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1, "int8": 0.5}[dtype]
        assert each.relative < rounding
        worst = each.worst
        first = store.contexts()[worst.context, 0]
        assert worst.row == first + worst.position
        here = worst.row, worst.row + 1
        read = store.captured if each is scale else store.read
        stored = read(each.hookpoint, *here).reshape(1, -1)[0, worst.dimension]
        assert stored == np.float32(worst.stored)
    assert generate.against_model(store, 10**6, device="cpu").contexts == store.n_contexts


def test_one_changed_weight_is_found(lake, plan, tmp_path):
    folder = tiny_model("gpt2", tmp_path / "model")
    store = generate.run(plan(lm=LmSettings(model=str(folder)), tokens=200), lake, device="cpu")
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("h.0.mlp.c_proj.weight"))
    weights[name][3, 5] += 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = generate.against_model(store, 5, device="cpu")
    assert found.other_weights
    assert not found.agrees
    assert all(each.wrong_rows > 0 for each in found.hookpoints)
    lines = list(recompute.problems(found))
    assert "its weights are" in lines[0]
    (mlp,) = (each for each in found.hookpoints if "mlp" in each.hookpoint)
    assert mlp.worst.dimension == 5


def test_rows_of_the_next_layer_are_found(lake, plan, tiny_gpt2):
    """A store whose rows are a model's, of another hookpoint than it says."""
    made = generate.run(plan(hookpoints=("blocks.2.hook_resid_post",), tokens=200), lake)
    rows = made.read("blocks.2.hook_resid_post", 0, made.n_rows)
    store = synthetic_store(
        lake, "mislabelled", values={HOOK: rows}, tokens=made.tokens().astype(np.int64),
        lengths=made.contexts()[:, 1],
    )  # fmt: skip
    lm = store.record.lm.model_copy(update={"model": str(tiny_gpt2)})
    store.record = store.record.model_copy(update={"lm": lm})
    found = generate.against_model(store, 6, device="cpu")
    (check,) = found.hookpoints
    assert check.wrong_rows == check.rows
    assert not found.other_weights  # a store that was made by hand states none
    (line,) = recompute.problems(found)
    assert (
        f"{HOOK}: {check.rows} of {check.rows} rows are not the model's; the worst at row" in line
    )


def test_one_value_off_by_a_few_spacings_is_found_where_rounding_is_coarse(lake, plan, tiny_gpt2):
    made = generate.run(plan(hookpoints=(HOOK,), dtype="bfloat16", tokens=100), lake)
    rows = made.read(HOOK, 0, made.n_rows)
    column = int(np.abs(rows[50]).argmax())
    rows[50, column] *= 1 + 3 / 128
    store = synthetic_store(
        lake, "touched", values={HOOK: rows}, dtype="bfloat16",
        tokens=made.tokens().astype(np.int64), lengths=made.contexts()[:, 1],
    )  # fmt: skip
    store.record = store.record.model_copy(update={"lm": LmSettings(model=str(tiny_gpt2))})
    (check,) = generate.against_model(store, 10**6, device="cpu").hookpoints
    assert (check.wrong_rows, check.worst.row, check.worst.dimension) == (1, 50, column)
    assert 2 <= check.worst.spacings <= 4.5


def test_what_cannot_be_compared_is_refused(lake, plan, tmp_path):
    imported = synthetic_store(lake, "imported", imported=True)
    with pytest.raises(UnsupportedError, match="'imported' do not say which language model"):
        generate.against_model(imported, 3)
    with pytest.raises(ConfigError, match="--against-model: found 0"):
        generate.against_model(imported, 0)
    gone = synthetic_store(lake, "gone")
    gone.record = gone.record.model_copy(update={"lm": LmSettings(model="./nowhere")})
    with pytest.raises(ConfigError, match=r"lm\.model"):
        generate.against_model(gone, 3)


def test_spacing_is_that_of_the_type():
    values = np.array([[0.0, 1.0, -1.5, 3e-6, 60000.0, 1e-8]], np.float32)
    half = recompute.spacing(values, "float16")
    assert np.array_equal(half, np.abs(np.spacing(values.astype(np.float16))).astype(np.float64))
    single = recompute.spacing(values, "float32")
    assert np.array_equal(single, np.abs(np.spacing(values)).astype(np.float64))
    brain = torch.tensor([1.0, 1.5, 60000.0], dtype=torch.bfloat16)
    above = torch.nextafter(brain, torch.tensor(torch.inf, dtype=torch.bfloat16)) - brain
    found = recompute.spacing(brain.float().numpy()[None], "bfloat16")[0]
    assert np.array_equal(found, above.float().numpy().astype(np.float64))


@pytest.mark.slow
def test_a_real_model_s_store_agrees_and_its_next_layer_does_not(lake, plan):
    """SmolLM2, bfloat16: rows of a middle layer, and the same rows under the next layer's name."""
    from saestore.lm import default, default_model

    if default.installed() is None:
        pytest.skip(f"the demo's model is not installed: {default.INSTALL}")
    lm = LmSettings(model=str(default_model()))
    hook, following = "blocks.10.hook_resid_post", "blocks.11.hook_resid_post"
    captured = ("final_norm_scale",)
    made = generate.run(
        plan(lm=lm, hookpoints=(hook,), dtype="bfloat16", tokens=400, capture=captured),
        lake,
        device="cpu",
    )
    first, length = made.contexts()[3].tolist()
    tokens = torch.from_numpy(made.tokens(first, first + length).astype(np.int64))[None]
    place = "ln_final.hook_scale"  # TransformerLens' own
    scale = LanguageModel.load(lm, device="cpu").capture(tokens, [place])[place][0, :, 0]
    found = made.captured("final_norm_scale", first, first + length)
    np.testing.assert_allclose(found, scale.numpy(), rtol=1e-4)
    found = generate.against_model(made, 12, device="cpu")
    assert found.agrees
    assert found.hookpoints[0].noise < 1e-3
    store = synthetic_store(
        lake, "mislabelled", values={following: made.read(hook, 0, made.n_rows)}, dtype="bfloat16",
        tokens=made.tokens().astype(np.int64), lengths=made.contexts()[:, 1],
    )  # fmt: skip
    store.record = made.record.model_copy(update={"capture": ()})
    (check,) = generate.against_model(store, 12, device="cpu").hookpoints
    assert check.wrong_rows == check.rows
