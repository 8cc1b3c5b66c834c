"""One optimiser step of an autoencoder: ours, its floor, and sae-lens' dense step.

The floor is what no TopK step can leave out on this machine with torch: the encoder's matrix product
and `torch.topk` over its result, forward only. Ours and sae-lens' are whole steps of their trainers:
forward, loss, backward, clipping at norm 1, Adam, dead-feature counters. Both start from the same
matrices and read the same batches, already in memory. JumpReLU starts at the threshold at which as
many features fire as in TopK; ReLU at zero, where about half of them do.
"""

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

import saestore
from benchmarks.harness import Contender, Goal, Limit, Options, Setup, timed
from saestore import dictionaries
from saestore.activations import Moments
from saestore.dictionaries import Calibration, SparseDictionary
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.dictionary import BatchTopK, JumpRelu, Relu, TopK
from saestore_schemas.families import SaeSettings
from saestore_schemas.objective import L0Settings, L1Settings, LossSettings
from saestore_schemas.optimize import PrecisionSettings
from saestore_schemas.train import ActivationsSettings, BudgetSettings, InitSettings, TrainSettings


D_IN, D_SAE, K, BATCH = 512, 8192, 32, 2048
"""The shapes the goals are stated for."""

STEPS, STEPS_ON_DEVICE = 3, 20
"""Steps a repetition, on the CPU and elsewhere."""

HOOK = "synthetic"
LR = 1e-4
RUN_STEPS = 10_000
"""Steps the schedules believe in: long enough that no feature counts as dead meanwhile."""

BANDWIDTH, PENALTY = 0.05, 1e-3
"""Of the JumpReLU step: sae-lens' default window, and a weight that hardly moves L0 meanwhile."""


@dataclass(frozen=True)
class Variant:
    """One kind of step.

    Attributes:
        name: Of the benchmark.
        activation: Our activation function.
        goal: How many times sae-lens' rate is wanted.
        peer: Names of sae-lens' training class, without `TrainingSAE`.
        options: Settings of that class.
        loss: Our objective.
        d_sae: Features.
        d_in: Width of a row.
        batch: Rows of a step.
        autocast: Narrow type of products; None, float32.
    """

    name: str
    activation: Any
    goal: float
    peer: str
    options: dict[str, Any]
    loss: LossSettings = field(default_factory=LossSettings)
    d_sae: int = D_SAE
    d_in: int = D_IN
    batch: int = BATCH
    autocast: str | None = None

    @property
    def shapes(self) -> str:
        """Sizes in words."""
        return f"d_in {self.d_in}, d_sae {self.d_sae}, batch {self.batch}, {self.autocast or 'float32'}"


_SPARSE = {"k": K, "aux_loss_coefficient": 1 / 32}
VARIANTS = (
    Variant("train_step", TopK(k=K), 4.0, "TopK", _SPARSE),
    Variant("train_step_wide", TopK(k=K), 6.0, "TopK", _SPARSE, d_sae=32768),
    Variant("train_step_batchtopk", BatchTopK(k=K), 3.0, "BatchTopK", _SPARSE),
    Variant(
        "train_step_jumprelu", JumpRelu(bandwidth=BANDWIDTH, ste_to_input=False), 3.0, "JumpReLU",
        {"jumprelu_bandwidth": BANDWIDTH, "l0_coefficient": PENALTY},
        LossSettings(sparsity=L0Settings(coefficient=PENALTY, warmup=0)),
    ),
    Variant(
        "train_step_relu", Relu(), 1.2, "Standard", {"l1_coefficient": PENALTY},
        LossSettings(sparsity=L1Settings(coefficient=PENALTY, warmup=0)),
    ),
)  # fmt: skip


def rows(number: int, seed: int, *, width: int = D_IN) -> torch.Tensor:
    """Return sparse sums of random directions around a mean, as activations are."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(4 * width, width, generator=draw) / width**0.5
    firing = torch.rand(number, 4 * width, generator=draw) < 0.02
    values = torch.rand(number, 4 * width, generator=draw) * firing
    return values @ directions + 0.1 * torch.randn(number, width, generator=draw)


def batches_of(variant: Variant) -> list[torch.Tensor]:
    """Return four batches on the CPU."""
    found = rows(4 * variant.batch, seed=1, width=variant.d_in)
    return [part.contiguous() for part in found.split(variant.batch)]


def ours(
    variant: Variant, batches: list[torch.Tensor], device: str
) -> tuple[Trainer, SparseDictionary]:
    """Return our trainer at step 0 and its dictionary."""
    settings = TrainSettings(
        series="bench",
        name="step",
        activations=ActivationsSettings(name="none", batch_rows=variant.batch),
        dictionary=SaeSettings(hookpoint=HOOK, d_sae=variant.d_sae, activation=variant.activation),
        loss=variant.loss,
        budget=BudgetSettings(rows=RUN_STEPS * variant.batch),
        precision=PrecisionSettings(autocast=variant.autocast),
    )
    settings = settings.model_copy(
        update={"optimizer": settings.optimizer.model_copy(update={"lr": LR})}
    )
    dictionary = dictionaries.build(
        settings.dictionary,
        widths={HOOK: variant.d_in},
        moments={HOOK: Moments.of(torch.cat(batches).numpy())},
        init=InitSettings(),
        seed=0,
    )
    if variant.activation.kind == "jumprelu":
        dictionary.activation.threshold.data.fill_(threshold(dictionary, batches[0]))
    dictionary = dictionary.to(device)
    rows = variant.batch
    schedule = Schedule(steps=RUN_STEPS, batch_rows=rows, dead_after=RUN_STEPS * rows)
    return Trainer(dictionary, settings, schedule, variance=float(variant.d_in)), dictionary


def threshold(dictionary: SparseDictionary, batch: torch.Tensor) -> float:
    """Return the threshold that K features exceed on a row on average."""
    calibration = Calibration(float(K))
    for _ in range(Calibration.PASSES):
        for scores in dictionary.gate_scores(batch):
            calibration.add(scores)
        calibration.end_pass()
    return calibration.found().threshold


def sae_lens(variant: Variant, dictionary: SparseDictionary, device: str):
    """Return sae-lens' trainer with the same starting matrices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens as package  # noqa: PLC0415 - seconds
        from sae_lens.config import SAETrainerConfig  # noqa: PLC0415
        from sae_lens.training.sae_trainer import SAETrainer  # noqa: PLC0415
    kind = f"{variant.peer}TrainingSAE"
    sae = getattr(package, kind)(
        getattr(package, f"{kind}Config")(
            d_in=variant.d_in, d_sae=variant.d_sae, device=device, normalize_activations="none",
            apply_b_dec_to_input=True, **variant.options,
        )
    )  # fmt: skip
    start = dictionary.tensors()
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            getattr(sae, name).copy_(start[name])
        if variant.activation.kind == "jumprelu":
            sae.threshold.copy_(start["threshold"])
    config = SAETrainerConfig(
        total_training_samples=RUN_STEPS * variant.batch, train_batch_size_samples=variant.batch,
        lr=LR, lr_end=LR / 10, device=device, dead_feature_window=RUN_STEPS,
        autocast=variant.autocast is not None,
    )  # fmt: skip
    return SAETrainer(config, sae, data_provider=iter(()))


class TrainStep:
    """The benchmark of one variant."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.name = variant.name
        shapes = f"{variant.d_in} -> {variant.d_sae}"
        kind = variant.activation.kind
        self.doc = f"a step of {kind}, {shapes}, {variant.batch} rows, against floor and sae-lens"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make trainers and batches in memory."""
        if options.threads:
            torch.set_num_threads(options.threads)
        yield prepare(self.variant, options.device)


def prepare(variant: Variant, device: str) -> Setup:
    """Return the contenders."""
    batches = batches_of(variant)
    trainer, dictionary = ours(variant, batches, device)
    raw = itertools.cycle([batch.to(device) for batch in batches])
    scaled = itertools.cycle(
        [dictionary.normalise(dictionary.as_inputs(batch))[HOOK].clone() for batch in batches]
    )
    kind = getattr(torch, variant.autocast or "float32")
    start = {name: each.clone().to(device, kind) for name, each in dictionary.tensors().items()}
    narrow = itertools.cycle([next(scaled).to(kind) for _ in batches])
    k = getattr(variant.activation, "k", K)
    absent = {}
    contenders = [
        Contender(
            "saestore step",
            lambda: repeated(
                lambda: trainer.advance({HOOK: next(raw)}, log=False), variant, device
            ),
            f"saestore {saestore.__version__}, torch {torch.__version__}",
        ),
        Contender(
            "floor: encoder + topk",
            lambda: repeated(lambda: floor(start, next(narrow), k), variant, device),
            f"torch {torch.__version__}",
        ),
        Contender(
            "matrix products",
            lambda: repeated(lambda: products(start, next(narrow)), variant, device),
            f"torch {torch.__version__}",
        ),
    ]
    try:
        peer = sae_lens(variant, dictionary, device)
    except ImportError as error:
        absent["sae-lens step"] = f"{error}; pip install sae-lens==6.54.12"
    else:
        import sae_lens as package  # noqa: PLC0415 - it is there, or we were not here

        contenders.append(
            Contender(
                "sae-lens step",
                lambda: repeated(lambda: peer.step(next(scaled)), variant, device),
                f"sae-lens {package.__version__}, dense",
            )
        )
    goals = [Goal("saestore step", "sae-lens step", "rate", ">=", variant.goal)]
    if variant.activation.kind == "topk":
        goals.insert(0, Goal("saestore step", "floor: encoder + topk", "time", "<=", 1.5))
    return Setup(
        contenders=tuple(contenders),
        goals=tuple(goals),
        unit="row",
        sizes={
            "shapes": variant.shapes,
            "activation": f"{variant.activation!r}, {l0(dictionary, batches[0]):.1f} fire on a row",
            "device": f"{device}, {torch.get_num_threads()} threads",
        },
        limit=Limit("matrix products", "the encoder's product alone, 2 d_in d_sae FLOP a row"),
        absent=absent,
        rounds=5,
    )


def l0(dictionary: SparseDictionary, batch: torch.Tensor) -> float:
    """Return how many features fire on a row in training."""
    with torch.no_grad():
        given = dictionary.normalise(dictionary.as_inputs(batch))
        return float(dictionary(given).code.l0().double().mean())


def floor(start: dict[str, torch.Tensor], batch: torch.Tensor, k: int) -> None:
    """Multiply and rank, as any TopK step must."""
    with torch.inference_mode():
        torch.topk(torch.addmm(start["b_enc"], batch, start["W_enc"]), k, dim=1, sorted=False)


def products(start: dict[str, torch.Tensor], batch: torch.Tensor) -> None:
    """Multiply only."""
    with torch.inference_mode():
        torch.addmm(start["b_enc"], batch, start["W_enc"])


def repeated(step, variant: Variant, device: str) -> tuple[float, float]:
    """Return rows and seconds of some steps."""
    there = device.startswith("cuda")
    steps = STEPS_ON_DEVICE if there else STEPS

    def work() -> None:
        for _ in range(steps):
            step()
        if there:
            torch.cuda.synchronize()

    return steps * variant.batch, timed(work)


BENCHES = {variant.name: TrainStep(variant) for variant in VARIANTS}
