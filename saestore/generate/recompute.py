"""`saestore verify --against-model N`: compute some contexts again and compare them with a store.

A stored value is what the model gave, rounded once to the store's type. Computing it again does not
give the same bits: in a forward pass of another shape the same sums are added in another order. How
much that changes is measured on the spot, by running contexts alone and together: the noise of a
hookpoint, relative to the root mean square of a row. A stored value may then differ from its
recomputation by half the spacing of its type plus a few times that noise. Another layer, another
model or a transposed matrix differ by the size of the values themselves.

The forward passes are not those of `generate`, whose shapes depend on documents the store need not
have; so this also works for imported and shuffled stores, as long as their contexts are whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from saestore.activations import ActivationStore
from saestore.activations.codecs import LARGEST_INT8
from saestore.errors import ConfigError, UnsupportedError
from saestore.lm import LanguageModel
from saestore.progress import Progress, Silent
from saestore_schemas.activations import StoreDtype


TOGETHER = 8
"""Contexts of one forward pass."""
ALONE = 4
"""Contexts run alone as well, to measure the noise."""
MARGIN = 8.0
"""Noise seen between two shapes, to noise allowed: more contexts show more of it."""
_FLOOR = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
"""Noise allowed at least, by the type the model computes in: a few dozen of its roundings."""


@dataclass(frozen=True)
class Worst:
    """The value that is farthest from its recomputation, measured by what is allowed.

    Attributes:
        row: Row of the store.
        context: Its context.
        position: Its place there.
        dimension: Which element.
        stored: As the store has it.
        computed: As the model gives it.
        spacings: Their difference, in steps of the store's type at that value.
        allowed: How large the difference may be.
    """

    row: int
    context: int
    position: int
    dimension: int
    stored: float
    computed: float
    spacings: float
    allowed: float


@dataclass(frozen=True)
class HookCheck:
    """One hookpoint against the model, or what was captured beside.

    Attributes:
        hookpoint: Its name.
        rows: Rows compared.
        wrong_rows: Rows with a value farther off than is allowed.
        noise: What another shape of the forward pass changes, relative to a row's root mean square.
        relative: Largest difference, relative to its row's root mean square.
        worst: The value farthest off.
    """

    hookpoint: str
    rows: int
    wrong_rows: int
    noise: float
    relative: float
    worst: Worst


@dataclass(frozen=True)
class ModelCheck:
    """A store against the language model that made it.

    Attributes:
        model: The model's name.
        contexts: Contexts compared, of `of`.
        of: Contexts of the store.
        dtype: How the store holds values.
        fingerprint: Digest of the weights the store was made with; None, it does not say.
        found_fingerprint: Digest of the weights that were loaded.
        hookpoints: One check each.
    """

    model: str
    contexts: int
    of: int
    dtype: StoreDtype
    fingerprint: str | None
    found_fingerprint: str
    hookpoints: tuple[HookCheck, ...]

    @property
    def other_weights(self) -> bool:
        """Whether the model has other weights than the store was made with."""
        return self.fingerprint is not None and self.fingerprint != self.found_fingerprint

    @property
    def agrees(self) -> bool:
        """Whether weights and rows are those of the store."""
        return not self.other_weights and not any(each.wrong_rows for each in self.hookpoints)


def against_model(
    store: ActivationStore,
    contexts: int,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> ModelCheck:
    """Compute random contexts again with the model that made a store, and compare every value.

    Args:
        store: The store.
        contexts: How many; at most all of them.
        seed: Which.
        device: Torch device.
        progress: Where to report.

    Raises:
        ConfigError: `contexts` is below 1, or the model is not where it was.
        UnsupportedError: The store does not say which model it is of.
        HookpointNotFoundError: The model has no such hookpoint.
        DamagedArtefactError: Rows that are compared are damaged.
        MissingExtraError: TransformerLens is not installed.
    """
    if contexts < 1:
        raise ConfigError(
            field="--against-model", found=contexts, expected="1 or more contexts", hint="try 16"
        )
    if store.record.lm is None:
        raise UnsupportedError(
            f"activations {store.ref.name!r} do not say which language model they are of",
            found="a store imported without its model",
            expected="a model to compute its contexts again",
            hint="import it again and name the model",
        )
    model = LanguageModel.load(store.record.lm, device=device)
    stated = store.manifest.facts.get("lm")
    fingerprint = stated.get("fingerprint") if isinstance(stated, dict) else None
    chosen = np.random.default_rng((seed, store.n_contexts)).permutation(store.n_contexts)
    picked = np.sort(chosen[:contexts])
    spans = store.contexts()[picked]
    names = [*store.hookpoints, *store.record.capture]
    checks = {name: _Checked(store, name) for name in names}
    noise = _noise(store, model, spans[: max(ALONE, 2)], names)
    tokens = int(spans[:, 1].sum())
    floor = _FLOOR[store.record.lm.dtype]
    label = f"verify {store.ref.name} against {model.name}"
    with (progress or Silent()).task(label, total=tokens, unit="tokens") as task:
        for start in range(0, len(spans), TOGETHER):
            some = spans[start : start + TOGETHER]
            computed = _forward(store, model, some, names)
            for place, (first, length) in enumerate(some.tolist()):
                for name in names:
                    allowed = MARGIN * max(noise[name], floor)
                    values = computed[name][place][:length]
                    checks[name].add(values, first, int(picked[start + place]), allowed)
            task.advance(int(some[:, 1].sum()))
    return ModelCheck(
        model=model.name,
        contexts=len(picked),
        of=store.n_contexts,
        dtype=store.record.dtype,
        fingerprint=fingerprint
        if isinstance(fingerprint, str) and fingerprint.strip("0")
        else None,
        found_fingerprint=model.fingerprint,
        hookpoints=tuple(checks[name].result(noise[name]) for name in names),
    )


def _forward(
    store: ActivationStore,
    model: LanguageModel,
    spans: Int64[np.ndarray, "context 2"],
    names: Sequence[str],
) -> dict[str, Float32[np.ndarray, "context position d"]]:
    """Return what the model gives for some contexts in one pass, padded at their ends."""
    padded = np.zeros((len(spans), int(spans[:, 1].max())), np.int64)
    for out, (first, length) in zip(padded, spans.tolist(), strict=True):
        out[:length] = store.tokens(first, first + length)
        out[length:] = out[length - 1]
    hookpoints = [name for name in names if name in store.hookpoints]
    beside = [name for name in store.record.capture if name in names]
    captured = model.capture(torch.from_numpy(padded), hookpoints, beside)
    return {name: values.float().cpu().numpy() for name, values in captured.items()}


def _noise(
    store: ActivationStore,
    model: LanguageModel,
    spans: Int64[np.ndarray, "context 2"],
    names: Sequence[str],
) -> Mapping[str, float]:
    """Return by how much values change between running contexts together and alone."""
    together = _forward(store, model, spans, names)
    largest = dict.fromkeys(names, 0.0)
    for place, span in enumerate(spans):
        alone = _forward(store, model, span[None], names)
        for name in names:
            one, other = alone[name][0], together[name][place][: span[1]]
            change = np.abs(one - other).max(axis=1) / _scale(one)
            largest[name] = max(largest[name], float(change.max()))
    return largest


class _Checked:
    """What is found about one hookpoint, context after context."""

    def __init__(self, store: ActivationStore, hookpoint: str) -> None:
        self._store = store
        self._hookpoint = hookpoint
        self._beside = next((each for each in store.record.capture if each == hookpoint), None)
        self._dtype: StoreDtype = "float32" if self._beside else store.record.dtype
        self._rows = self._wrong = 0
        self._relative = 0.0
        self._share = -1.0
        self._worst = Worst(0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)

    def add(
        self,
        computed: Float32[np.ndarray, "position d"],
        first: int,
        context: int,
        allowed: float,
    ) -> None:
        """Compare one context's rows.

        Args:
            computed: What the model gives.
            first: The context's first row.
            context: Its number.
            allowed: Noise allowed, relative to a row's root mean square.
        """
        stored = self._read(first, first + len(computed))
        scale = _scale(computed)
        step = self._step(stored, first)
        error = np.abs(stored.astype(np.float64) - computed)
        limit = step / 2 + allowed * scale[:, None]
        share = np.where(self._clipped(stored, computed, step), 0.0, error / limit)
        self._rows += len(computed)
        self._wrong += int((share > 1).any(axis=1).sum())
        self._relative = max(self._relative, float((error / scale[:, None]).max()))
        row, column = (int(x) for x in np.unravel_index(int(share.argmax()), share.shape))
        if share[row, column] > self._share:
            self._share = float(share[row, column])
            self._worst = Worst(
                row=first + row,
                context=context,
                position=row,
                dimension=column,
                stored=float(stored[row, column]),
                computed=float(computed[row, column]),
                spacings=float(error[row, column] / step[row, column]),
                allowed=float(limit[row, column]),
            )

    def _read(self, start: int, stop: int) -> Float32[np.ndarray, "row d"]:
        if self._beside is not None:
            return self._store.captured(self._beside, start, stop)[:, None]
        return self._store.read(self._hookpoint, start, stop)

    def _step(
        self, stored: Float32[np.ndarray, "row d"], first: int
    ) -> Float64[np.ndarray, "row d"]:
        """Return the distance of what can be stored around some values."""
        dtype = self._dtype
        if dtype != "int8":
            return spacing(stored, dtype)
        scales = self._store.scales(self._hookpoint, first, first + len(stored))
        deviations = self._store.deviations(self._hookpoint).astype(np.float64)
        steps: Float64[np.ndarray, "row d"] = scales[:, None] * deviations
        steps[steps == 0] = np.finfo(np.float64).tiny
        return steps

    def _clipped(
        self,
        stored: Float32[np.ndarray, "row d"],
        computed: Float32[np.ndarray, "row d"],
        step: Float64[np.ndarray, "row d"],
    ) -> Bool[np.ndarray, "row d"]:
        """Return which int8 values are at the end of their range, and were beyond it."""
        if self._dtype != "int8":
            return np.zeros(stored.shape, np.bool_)
        full: Bool[np.ndarray, "row d"] = np.abs(stored) > (LARGEST_INT8 - 0.5) * step
        full &= (np.sign(stored) == np.sign(computed)) & (np.abs(computed) >= np.abs(stored))
        return full

    def result(self, noise: float) -> HookCheck:
        return HookCheck(
            self._hookpoint, self._rows, self._wrong, noise, self._relative, self._worst
        )


def _scale(rows: Float32[np.ndarray, "row d"]) -> Float64[np.ndarray, " row"]:
    """Return the root mean square of each row; of a row of zeros, the smallest number."""
    squares = np.einsum("rd,rd->r", rows, rows, dtype=np.float64) / rows.shape[1]
    scale: Float64[np.ndarray, " row"] = np.maximum(np.sqrt(squares), np.finfo(np.float64).tiny)
    return scale


_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
"""Bits of the fraction."""
_SMALLEST = {"float32": -126, "float16": -14, "bfloat16": -126}
"""Exponent of the smallest normal number: below it, spacing stays."""


def spacing(
    values: Float32[np.ndarray, "row d"], dtype: StoreDtype
) -> Float64[np.ndarray, "row d"]:
    """Return the distance of neighbouring numbers of a floating type around some values."""
    normal = np.maximum(np.abs(values), 2.0 ** _SMALLEST[dtype])
    step: Float64[np.ndarray, "row d"] = np.ldexp(1.0, np.frexp(normal)[1] - 1 - _BITS[dtype])
    return step


def problems(check: ModelCheck) -> Iterator[str]:
    """Yield one line for everything in which a store is not its model's."""
    if check.other_weights:
        yield (
            f"{check.model}: its weights are {check.found_fingerprint[:12]}, "
            f"the store was made with {str(check.fingerprint)[:12]}"
        )
    for each in check.hookpoints:
        if each.wrong_rows:
            worst = each.worst
            yield (
                f"{each.hookpoint}: {each.wrong_rows} of {each.rows} rows are not the model's; the "
                f"worst at row {worst.row} (context {worst.context}, position {worst.position}), "
                f"dimension {worst.dimension}: stored {worst.stored:g}, computed {worst.computed:g}"
            )
