"""Same weights, same batch: codes, loss and every gradient are those of the real sae-lens.

Known differences are not hidden, each is a test that expects it: sae-lens' AuxK is not normalised, so
it is compared with no dead features, where both are 0, and with dead ones up to the normalisation; its
gated decoder is not detached; its Matryoshka sums the prefixes' losses; its pre-activation loss
reaches dead features only; its running threshold starts at 0.
"""

import importlib
import os
import warnings

import pytest
import torch

from saestore.activations import Moments
from saestore.dictionaries import build
from saestore.testing.dictionaries import D_IN, D_SAE, HOOK, random_sae, raw_rows
from saestore.train.objectives import (
    L0,
    AuxK,
    DecoderWeightedL1,
    GatedAux,
    Matryoshka,
    Pass,
    PreActivationLoss,
    SquaredError,
    Tanh,
    TargetL0Row,
)
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.dictionary import BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.objective import (
    AuxSettings,
    GatedAuxSettings,
    L0Settings,
    L1Settings,
    MatryoshkaSettings,
    PreActivationSettings,
    TanhSettings,
    TargetL0RowSettings,
)
from saestore_schemas.train import TrainSettings


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def sae_lens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations, at import
        if os.environ.get("TESTS_REQUIRE_PARTS"):
            return importlib.import_module("sae_lens")
        return pytest.importorskip("sae_lens", reason="sae-lens is not installed")


def like(ours, sae_class, config):
    """Their class with our weights; what it has no place for is left out."""
    result = sae_class(config)
    with torch.no_grad():
        for name, tensor in ours.tensors().items():
            if hasattr(result, name):
                getattr(result, name).copy_(tensor)
    return result


def rows():
    return torch.from_numpy(raw_rows(40))


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_top_k_encodes_and_decodes_alike(sae_lens, k, subtract):
    ours = random_sae(TopK(k=k), scale="none", subtract_b_dec=subtract)
    config = sae_lens.TopKSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", k=k, apply_b_dec_to_input=subtract
    )
    theirs = like(ours, sae_lens.TopKSAE, config)
    with torch.no_grad():
        codes = theirs.encode(rows())
        torch.testing.assert_close(ours.encode(rows()).to_dense(), codes, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            ours.reconstruct(rows())[HOOK], theirs.decode(codes), rtol=1e-12, atol=1e-12
        )


def both(ours, theirs, terms, coefficients, dead=()):
    """Return our summed terms and their step's output on the same rows, ready for backward."""
    from sae_lens.saes.sae import TrainStepInput

    x, inputs = rows(), {HOOK: rows()}
    silent = torch.tensor(sorted(dead), dtype=torch.int64)
    seen = Pass(ours, inputs, inputs, ours(inputs), silent, 0)
    mine = sum(term(seen) for term in terms)
    mask = torch.zeros(D_SAE, dtype=torch.bool)
    mask[silent] = True
    step = TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=mask, n_training_steps=0,
        is_logging_step=False,
    )  # fmt: skip
    return mine, theirs.training_forward_pass(step)


def gradients(ours, theirs):
    """Return pairs of gradients by the names of the file; None as zeros."""
    mine = {
        "W_enc": ours.encoder.grad.T, ours.activation.bias_name: ours.b_enc.grad,
        "W_dec": ours.W_dec.grad, "b_dec": ours.b_dec.grad,
        **{name: each.grad for name, each in ours.activation.named_parameters()},
    }  # fmt: skip
    for name, gradient in mine.items():
        parameter = getattr(theirs, name)
        other = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        yield name, gradient if gradient is not None else torch.zeros_like(other), other


def compare(ours, theirs, terms, coefficients, dead=()):
    mine, output = both(ours, theirs, terms, coefficients, dead)
    torch.testing.assert_close(mine, output.loss, rtol=1e-10, atol=1e-10)
    mine.backward()
    output.loss.backward()
    for name, a, b in gradients(ours, theirs):
        torch.testing.assert_close(
            a.to(b.dtype), b, rtol=1e-6 if b.dtype == torch.float32 else 1e-9, atol=1e-6,
            msg=lambda m, n=name: f"{n}: {m}",
        )  # fmt: skip


@pytest.mark.parametrize("gated", [False, True])
def test_a_top_k_training_step_has_the_same_loss_and_gradients(sae_lens, gated):
    ours = random_sae(TopK(k=1), scale="none", gate_on_decoder_norm=gated)
    config = sae_lens.TopKTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", k=1, apply_b_dec_to_input=True,
        rescale_acts_by_decoder_norm=gated,
    )  # fmt: skip
    theirs = like(ours, sae_lens.TopKTrainingSAE, config)
    compare(ours, theirs, [SquaredError(), AuxK(AuxSettings(), k=3, variance=1.0)], {})


def test_an_l1_training_step_has_the_same_loss_and_gradients(sae_lens):
    ours = random_sae(Relu(), scale="none")
    config = sae_lens.StandardTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", apply_b_dec_to_input=True, l1_coefficient=0.7
    )
    theirs = like(ours, sae_lens.StandardTrainingSAE, config)
    penalty = DecoderWeightedL1(L1Settings(coefficient=0.7, warmup=0), 10)
    compare(ours, theirs, [SquaredError(), penalty], {"l1": 0.7})


@pytest.mark.parametrize("gated", [False, True])
def test_a_batch_top_k_training_step_has_the_same_loss_and_gradients(sae_lens, gated):
    ours = random_sae(BatchTopK(k=2.5), scale="none", gate_on_decoder_norm=gated)
    config = sae_lens.BatchTopKTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", k=2.5, apply_b_dec_to_input=True,
        rescale_acts_by_decoder_norm=gated,
    )  # fmt: skip
    theirs = like(ours, sae_lens.BatchTopKTrainingSAE, config)
    compare(ours, theirs, [SquaredError(), AuxK(AuxSettings(), k=3, variance=1.0)], {})


def test_their_running_threshold_starts_at_zero_and_ours_does_not(sae_lens):
    ours = random_sae(BatchTopK(k=2), scale="none")
    config = sae_lens.BatchTopKTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", k=2, apply_b_dec_to_input=True,
        rescale_acts_by_decoder_norm=False,
    )  # fmt: skip
    theirs = like(ours, sae_lens.BatchTopKTrainingSAE, config)
    both(ours, theirs, [SquaredError()], {})
    assert theirs.topk_threshold.item() == pytest.approx(0.01 * ours.activation.running_mean())


MODES = {
    "step": ({}, lambda: L0(L0Settings(coefficient=0.7, warmup=0), 10)),
    "quadratic": (
        {"target_l0": 3.0},
        lambda: TargetL0Row(TargetL0RowSettings(coefficient=0.7, target=3.0, warmup=0), 10),
    ),
    "tanh": (
        {"jumprelu_tanh_scale": 4.0},
        lambda: Tanh(TanhSettings(coefficient=0.7, warmup=0), 10),
    ),
}


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_jumprelu_training_step_has_the_same_loss_and_gradients(sae_lens, mode, to_input):
    ours = random_sae(JumpRelu(bandwidth=1.5, ste_to_input=to_input), scale="none")
    options, penalty = MODES[mode]
    # Their thresholds are float32 whatever the weights are: take numbers both can hold.
    with torch.no_grad():
        ours.activation.threshold.copy_(ours.activation.threshold.float())
    config = sae_lens.JumpReLUTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", apply_b_dec_to_input=True,
        jumprelu_bandwidth=1.5, jumprelu_ste_to_input=to_input, jumprelu_sparsity_loss_mode=mode,
        pre_act_loss_coefficient=0.3, **options,
    )  # fmt: skip
    theirs = like(ours, sae_lens.JumpReLUTrainingSAE, config)
    silent = PreActivationLoss(PreActivationSettings(coefficient=0.3, on="dead"))
    compare(ours, theirs, [SquaredError(), penalty(), silent], {"l0": 0.7}, dead=(1, 4, 8))


def gated_pair(sae_lens):
    ours = random_sae(Gated(), scale="none")
    config = sae_lens.GatedTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", apply_b_dec_to_input=True, l1_coefficient=0.7
    )
    return ours, like(ours, sae_lens.GatedTrainingSAE, config)


def test_a_gated_step_differs_by_their_attached_decoder_alone(sae_lens):
    ours, theirs = gated_pair(sae_lens)
    terms = [
        SquaredError(),
        DecoderWeightedL1(L1Settings(coefficient=0.7, warmup=0), 10),
        GatedAux(GatedAuxSettings()),
    ]
    mine, output = both(ours, theirs, terms, {"l1": 0.7})
    torch.testing.assert_close(mine, output.loss, rtol=1e-10, atol=1e-10)
    mine.backward()
    output.loss.backward()
    attached = dict.fromkeys(("W_dec", "b_dec"), 0.0)
    x = rows()
    gate = torch.relu((x - ours.b_dec) @ ours.W_enc + ours.b_enc).detach()
    decoder = [each.detach().requires_grad_() for each in (ours.W_dec, ours.b_dec)]
    missed = (x - gate @ decoder[0] - decoder[1]).square().sum(dim=1).mean()
    attached["W_dec"], attached["b_dec"] = torch.autograd.grad(missed, decoder)
    for name, a, b in gradients(ours, theirs):
        torch.testing.assert_close(
            a + attached.get(name, 0.0), b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_matryoshka_is_theirs_over_the_number_of_prefixes(sae_lens):
    widths = [2, 5, D_SAE]
    ours = random_sae(BatchTopK(k=2.5), scale="none")
    config = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", k=2.5, apply_b_dec_to_input=True,
        rescale_acts_by_decoder_norm=False, matryoshka_widths=widths,
    )  # fmt: skip
    theirs = like(ours, sae_lens.MatryoshkaBatchTopKTrainingSAE, config)
    term = Matryoshka(MatryoshkaSettings(widths=tuple(widths)), D_SAE, 0)
    mine, output = both(ours, theirs, [term], {})
    torch.testing.assert_close(3 * mine, output.loss, rtol=1e-10, atol=1e-10)
    mine.backward()
    output.loss.backward()
    for name, a, b in gradients(ours, theirs):
        torch.testing.assert_close(3 * a, b, rtol=1e-9, atol=1e-9, msg=name)


def test_their_aux_k_is_ours_without_the_normalisation(sae_lens):
    dead = (1, 4, 5, 8)
    ours = random_sae(TopK(k=2), scale="none")
    config = sae_lens.TopKTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", k=2, apply_b_dec_to_input=True,
        rescale_acts_by_decoder_norm=False, aux_loss_coefficient=0.5,
    )  # fmt: skip
    theirs = like(ours, sae_lens.TopKTrainingSAE, config)
    term = AuxK(AuxSettings(coefficient=0.5), k=D_IN // 2, variance=7.0)
    mine, output = both(ours, theirs, [term], {}, dead)
    x = rows()
    residual = (x - ours({HOOK: x}).reconstruction[HOOK]).detach()
    spread = (residual - residual.mean(dim=0)).square().sum()
    unnormalised = mine / 7.0 * spread / len(x)
    torch.testing.assert_close(
        unnormalised, output.losses["auxiliary_reconstruction_loss"], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("activation", "name"),
    [(JumpRelu(), "JumpReLUSAE"), (Gated(), "GatedSAE"), (Relu(), "StandardSAE")],
    ids=lambda value: getattr(value, "kind", value),
)
def test_other_kinds_encode_and_decode_alike(sae_lens, activation, name):
    ours = random_sae(activation, scale="none")
    config = getattr(sae_lens, f"{name}Config")(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", apply_b_dec_to_input=True
    )
    theirs = like(ours, getattr(sae_lens, name), config)
    with torch.no_grad():
        codes = theirs.encode(rows())
        torch.testing.assert_close(ours.encode(rows()).to_dense(), codes, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            ours.reconstruct(rows())[HOOK], theirs.decode(codes), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
def test_thirty_steps_of_both_trainers_leave_the_same_weights(sae_lens, kind):
    """With our defaults: free decoders, lengths ranked, all gradients clipped together, Adam, warm-up."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    steps, batch, width, d_sae = 30, 64, 16, 24
    activation = {"kind": "topk", "k": 3} if kind == "topk" else {"kind": "jumprelu"}
    loss = {} if kind == "topk" else {"sparsity": {"kind": "tanh", "coefficient": 0.5, "warmup": 0}}
    settings = TrainSettings.model_validate({
        "series": "s", "name": "n", "activations": {"name": "a", "batch_rows": batch},
        "dictionary": {"hookpoint": HOOK, "d_sae": d_sae, "activation": activation, "scale": "none"},
        "budget": {"rows": steps * batch}, "loss": loss, "optimizer": {"lr": 3e-3},
        "schedule": {"warmup": 5, "cooldown": 6},
    })  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    given = torch.randn(steps, batch, width, generator=draw) * 3
    moments = {HOOK: Moments.of(given.reshape(-1, width).numpy())}
    ours = build(
        settings.dictionary, widths={HOOK: width}, moments=moments, init=settings.init, seed=0
    )
    common = {"d_in": width, "d_sae": d_sae, "apply_b_dec_to_input": True}
    if kind == "topk":
        config = sae_lens.TopKTrainingSAEConfig(**common, k=3)
        theirs = like(ours, sae_lens.TopKTrainingSAE, config)
    else:
        config = sae_lens.JumpReLUTrainingSAEConfig(
            **common, jumprelu_init_threshold=0.1, jumprelu_bandwidth=2.0, l0_coefficient=0.5,
            jumprelu_sparsity_loss_mode="tanh", jumprelu_tanh_scale=4.0, jumprelu_ste_to_input=True,
        )  # fmt: skip
        theirs = like(ours, sae_lens.JumpReLUTrainingSAE, config)
    mine = Trainer(ours, settings, Schedule(steps, batch, steps * batch), variance=1.0)
    logger = LoggingConfig(log_to_wandb=False)
    peer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * batch, train_batch_size_samples=batch, lr=3e-3,
            lr_end=3e-4, lr_warm_up_steps=5, lr_decay_steps=6, device="cpu", logger=logger,
        ),
        theirs, data_provider=iter(()),
    )  # fmt: skip
    for each in given:
        mine.advance({HOOK: each}, log=False)
        peer.step(each)
    for name, tensor in ours.tensors().items():
        wanted = getattr(theirs, name).detach()
        torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5, msg=name)
