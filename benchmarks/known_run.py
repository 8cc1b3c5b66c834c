"""One run of the known-dictionary benchmark, in a process of its own: train, evaluate, print JSON.

    python -m benchmarks.known_run LIBRARY VARIANT SEED ARRAY

A process of its own, because peak memory is a process's. Both libraries read the same file in the
same order, start from the same matrices and are measured by the same code.
"""

import ctypes
import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import saestore
from saestore import dictionaries
from saestore.activations import Moments
from saestore.dictionaries import Calibration, SparseCode, SparseDictionary
from saestore.evaluate import known
from saestore.evaluate.reconstruction import Reconstruction
from saestore.testing.known_data import WIDTH, KnownData, stream
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.dictionary import ThresholdInference
from saestore_schemas.train import TrainSettings


HOOK = "synthetic"
D_SAE, K, BATCH, STEPS = 128, 8, 512, 4000
LR, WARMUP, DECAY = 3e-3, 200, 0.2
WIDTHS = (8, 32, 128)
"""Prefixes of Matryoshka."""
EVALUATED = 16_384
"""Fresh rows that are evaluated."""
CALIBRATED = 131_072
"""Training rows on which our BatchTopK threshold is calibrated."""
MEASURED = 32_768
"""Training rows whose variance weighs AuxK."""
DEAD_AFTER = 1000 * BATCH
"""Rows after which a feature is dead: sae-lens' default number of steps."""
LAST = 200
"""Steps over which L0 in training is averaged."""
WARM = 300
"""Steps of a first, discarded run in the same process: more than the schedules' shortest parts."""
MIB = 2**20
PEER = "sae-lens"
PENALTY = 0.78
"""lambda of JumpReLU, found so that L0 comes near k; the same for both libraries."""

OURS: dict[str, dict[str, Any]] = {
    "topk": {"dictionary.activation": {"kind": "topk", "k": K}},
    "batchtopk": {"dictionary.activation": {"kind": "batchtopk", "k": K}},
    "jumprelu": {
        "dictionary.activation": {"kind": "jumprelu", "bandwidth": 2.0, "ste_to_input": True},
        "loss.sparsity": {"kind": "tanh", "coefficient": PENALTY, "stretch": 4.0, "warmup": 0},
        "loss.pre_activation": {
            "coefficient": 3e-6,
            "on": "dead",
            "dead_after_rows": 1000 * BATCH,
        },
    },
    "matryoshka": {
        "dictionary.activation": {"kind": "batchtopk", "k": K},
        "loss.matryoshka": {"widths": WIDTHS},
    },
}
"""Our settings of each variant, by dotted path."""


@dataclass(frozen=True)
class Trained:
    """What a library trained.

    Attributes:
        encode: Rows to codes, as its users would at inference.
        decode: Codes to rows.
        decoder: Decoder vectors.
        l0_train: Firings per row in training, over the last steps.
        seconds: Time of the training loop alone.
    """

    encode: Callable[[Tensor], SparseCode]
    decode: Callable[[SparseCode], Tensor]
    decoder: np.ndarray
    l0_train: float
    seconds: float


class Array:
    """Batches in a file of float32, read one after the other, each into new memory."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.steps = steps

    def __iter__(self) -> Iterator[Tensor]:
        with self.path.open("rb") as file:
            for _ in range(self.steps):
                yield self._next(file)

    def _next(self, file: Any) -> Tensor:
        held = np.empty((BATCH, WIDTH), np.float32)
        if file.readinto(memoryview(held).cast("B")) != held.nbytes:
            message = f"{self.path} ends before step {self.steps}"
            raise EOFError(message)
        return torch.from_numpy(held)


def start(seed: int) -> dict[str, Tensor]:
    """Return the starting matrices: unit decoder, encoder its transpose, no biases.

    Raises:
        RuntimeError: They are nearer to the truth than chance: a stream was shared with it.
    """
    truth = KnownData.p1().directions
    decoder = stream(seed, "init").standard_normal((D_SAE, WIDTH))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    found = known.mcc(known.similarity(decoder, truth))
    floor = known.floor(D_SAE, truth).mcc[0]
    if abs(found - floor) > 0.02:
        message = (
            f"MCC {found:.3f} before training, {floor:.3f} by chance: the start knows the truth"
        )
        raise RuntimeError(message)
    held = torch.from_numpy(decoder).float()
    return {
        "W_dec": held,
        "W_enc": held.T.contiguous(),
        "b_enc": torch.zeros(D_SAE),
        "b_dec": torch.zeros(WIDTH),
    }


def ours(variant: str, seed: int, array: Array, *, unit: bool = False) -> Trained:
    """Train our dictionary by our trainer."""
    settings = settings_of(variant, array.steps, unit=unit)
    moments = Moments.none(WIDTH)
    for batch in Array(array.path, min(MEASURED // BATCH, array.steps)):
        moments = moments.merge(Moments.of(batch.numpy()))
    built = dictionaries.build(
        settings.dictionary,
        widths={HOOK: WIDTH},
        moments={HOOK: moments},
        init=settings.init,
        seed=seed,
    )
    dictionary = built.restore(built.config, built.scales, {**built.tensors(), **start(seed)})
    schedule = Schedule(array.steps, BATCH, dead_after=DEAD_AFTER)
    variance = float(moments.m2.sum()) / moments.count
    trainer = Trainer(dictionary, settings, schedule, variance=variance)
    firings, began = [], time.perf_counter()
    for step, batch in enumerate(array, start=1):
        late = step > array.steps - LAST
        found = trainer.advance({HOOK: batch}, log=late)
        if found is not None:
            firings.append(float(found["l0_mean"]))
    seconds = time.perf_counter() - began
    finished = _calibrated(dictionary, array)
    return Trained(
        finished.encode,
        lambda code: finished.decode(code)[HOOK],
        finished.tensors()["W_dec"].numpy(),
        float(np.mean(firings)),
        seconds,
    )


def settings_of(variant: str, steps: int, *, unit: bool) -> TrainSettings:
    """Return our settings of a variant.

    Args:
        variant: Its name.
        steps: Of the run.
        unit: Whether decoder vectors are held at length 1, which is not the default.
    """
    data: dict[str, Any] = {
        "series": "known",
        "name": variant,
        "activations": {"name": "none", "batch_rows": BATCH},
        "dictionary": {"hookpoint": HOOK, "d_sae": D_SAE, "scale": "none"},
        "budget": {"rows": steps * BATCH},
        "loss": {},
        "optimizer": {"lr": LR},
        "schedule": {"warmup": WARMUP, "cooldown": DECAY},
        "log": {"density_window": None},
    }
    if unit:
        data["dictionary"] |= {"decoder_norm": "unit"}
    for path, value in OURS[variant].items():
        section, _, name = path.partition(".")
        data[section] = {**data[section], name: value}
    return TrainSettings.model_validate(data)


def _calibrated(dictionary: SparseDictionary, array: Array) -> SparseDictionary:
    """Return the dictionary with an exact threshold, if it has one to calibrate."""
    semantics = dictionary.config.semantics
    if semantics.inference.kind != "threshold":
        return dictionary
    calibration = Calibration(float(semantics.activation.model_dump()["k"]))
    last = Array(array.path, min(CALIBRATED // BATCH, array.steps))
    for _ in range(Calibration.PASSES):
        for batch in last:
            for scores in dictionary.gate_scores(batch):
                calibration.add(scores)
        calibration.end_pass()
    found = calibration.found()
    record = ThresholdInference(source="exact", rows=found.rows, l0=found.l0)
    return dictionary.with_threshold(found.threshold, record)


def sae_lens(variant: str, seed: int, array: Array) -> Trained:
    """Train the installed sae-lens' dictionary by its own trainer, and take it as it saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens as library  # noqa: PLC0415 - seconds
        from sae_lens.config import LoggingConfig, SAETrainerConfig  # noqa: PLC0415
        from sae_lens.training.sae_trainer import SAETrainer  # noqa: PLC0415
    sae = _sae_lens_model(library, variant)
    with torch.no_grad():
        for name, tensor in start(seed).items():
            getattr(sae, name).copy_(tensor)
    firings: list[Tensor] = []

    def counted() -> Iterator[Tensor]:
        yield from array

    class Counting(SAETrainer):  # type: ignore[type-arg] # the vendor's generic
        """Their trainer, noting L0 of the last steps."""

        def step(self, sae_in: Tensor) -> Any:
            output = super().step(sae_in)
            if self.n_training_steps >= array.steps - LAST:
                firings.append((output.feature_acts > 0).sum(dim=1).float().mean())
            return output

    config = SAETrainerConfig(
        total_training_samples=array.steps * BATCH, train_batch_size_samples=BATCH, lr=LR,
        lr_end=LR / 10, lr_warm_up_steps=WARMUP, lr_decay_steps=round(DECAY * array.steps),
        device="cpu", logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = Counting(config, sae, data_provider=counted())
    began = time.perf_counter()
    trainer.fit()
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        saved = library.SAE.load_from_disk(folder)

    def encode(rows: Tensor) -> SparseCode:
        with torch.no_grad():
            return SparseCode.from_dense(saved.encode(rows))

    def decode(code: SparseCode) -> Tensor:
        with torch.no_grad():
            return saved.decode(code.to_dense())

    decoder = saved.W_dec.detach().numpy()
    return Trained(encode, decode, decoder, float(torch.stack(firings).mean()), seconds)


def _sae_lens_model(library: Any, variant: str) -> Any:
    common: dict[str, Any] = {
        "d_in": WIDTH, "d_sae": D_SAE, "device": "cpu", "normalize_activations": "none",
        "apply_b_dec_to_input": True,
    }  # fmt: skip
    ranked = {**common, "k": K, "aux_loss_coefficient": 1 / 32}
    if variant == "topk":
        return library.TopKTrainingSAE(library.TopKTrainingSAEConfig(**ranked))
    if variant == "batchtopk":
        return library.BatchTopKTrainingSAE(library.BatchTopKTrainingSAEConfig(**ranked))
    if variant == "matryoshka":
        return library.MatryoshkaBatchTopKTrainingSAE(
            library.MatryoshkaBatchTopKTrainingSAEConfig(**ranked, matryoshka_widths=list(WIDTHS))
        )
    return library.JumpReLUTrainingSAE(
        library.JumpReLUTrainingSAEConfig(
            **common, jumprelu_init_threshold=0.1, jumprelu_bandwidth=2.0,
            jumprelu_sparsity_loss_mode="tanh", jumprelu_tanh_scale=4.0, jumprelu_ste_to_input=True,
            l0_coefficient=PENALTY, pre_act_loss_coefficient=3e-6,
        )
    )  # fmt: skip


LIBRARIES: dict[str, Callable[[str, int, Array], Trained]] = {
    "saestore": ours,
    "saestore-unit": partial(ours, unit=True),
    PEER: sae_lens,
}
"""Who trains: ours with its defaults, ours with decoder vectors of length 1, and the peer."""


def scores(trained: Trained, seed: int) -> dict[str, float]:
    """Return what is compared, on fresh rows."""
    data = KnownData.p1()
    rows, on = data.rows(EVALUATED, stream(seed, "evaluation"))
    similarities = known.similarity(trained.decoder, data.directions)
    counts = known.DetectionCounts(similarities.argmax(axis=1), len(data.directions))
    reconstruction, fired, firings = Reconstruction(), np.zeros(D_SAE, np.int64), 0
    for first in range(0, EVALUATED, 4096):
        part = slice(first, first + 4096)
        code = trained.encode(torch.from_numpy(rows[part]))
        reconstruction.update(rows[part], trained.decode(code).numpy())
        counts.update(code, on[part])
        fired += np.bincount(code.indices.numpy(), minlength=D_SAE)
        firings += len(code.indices)
    detected = counts.result()
    explained = reconstruction.values()["explained_variance"][0]
    return {
        "EV": float("nan") if explained is None else explained,
        "MCC": known.mcc(similarities),
        "MMCS": known.mmcs(similarities),
        "F1": detected.f1,
        "precision": detected.precision,
        "recall": detected.recall,
        "uniqueness": known.uniqueness(similarities),
        "L0 train": trained.l0_train,
        "L0": firings / EVALUATED,
        "dead": int((fired == 0).sum()),
        "seconds": trained.seconds,
    }


def memory(field: str) -> int:
    """Return a line of this process's status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def forget_peak() -> int:
    """Let the peak of memory begin anew from what is held now; return that.

    `getrusage` has a peak too, but that of a process begins with that of the one that started it.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what a warm-up freed counts as free
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def versions(library: str) -> dict[str, str]:
    """Return the versions that made a result."""
    if library == PEER:
        return {"torch": torch.__version__, PEER: metadata.version(PEER)}
    return {"torch": torch.__version__, "saestore": saestore.__version__}


def main(library: str, variant: str, seed: int, array: Path) -> dict[str, object]:
    """Train and score once."""
    torch.set_num_threads(1)
    steps = array.stat().st_size // (4 * BATCH * WIDTH)
    # Importing libraries and loading compiled loops is no part of training.
    LIBRARIES[library](variant, seed, Array(array, min(WARM, steps)))
    before = forget_peak()
    trained = LIBRARIES[library](variant, seed, Array(array, steps))
    peak = memory("VmHWM")
    found = scores(trained, seed)
    return {
        "library": library, "variant": variant, "seed": seed, "steps": steps,
        "versions": versions(library),
        "scores": {**found, "process MiB": peak / MIB, "peak MiB": (peak - before) / MIB},
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
