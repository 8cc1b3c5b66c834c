"""Small dictionaries on which wrong equations show, and the laws every family is held to.

Sizes are neither square nor powers of two, biases are not zero, decoder vectors differ in length and
the data has a mean: with unit norms and zero biases most laws pass on wrong code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saestore import dictionaries
from saestore.dictionaries import SparseDictionary, precision
from saestore.errors import UnsupportedError
from saestore.lake import Storage
from saestore_schemas.dictionary import Activation, ScaleKind
from saestore_schemas.families import DictionarySettings, SaeSettings
from saestore_schemas.train import InitSettings


HOOK = "blocks.2.hook_resid_post"
D_IN, D_SAE, ROWS = 7, 11, 13


@dataclass(frozen=True)
class ExactMoments:
    """Moments of some rows, by definition."""

    rows: Float64[np.ndarray, "row d"]

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.rows)

    @property
    def mean(self) -> Float64[np.ndarray, " d"]:
        """Mean of each dimension."""
        mean: Float64[np.ndarray, " d"] = self.rows.mean(axis=0)
        return mean

    @property
    def m2(self) -> Float64[np.ndarray, " d"]:
        """Squared deviations of each dimension, summed."""
        m2: Float64[np.ndarray, " d"] = np.square(self.rows - self.mean).sum(axis=0)
        return m2

    @property
    def norm_sum(self) -> float:
        """Lengths, summed."""
        return float(np.linalg.norm(self.rows, axis=1).sum())

    @property
    def norm_sq_sum(self) -> float:
        """Squared lengths, summed."""
        return float(np.square(self.rows).sum())


def raw_rows(rows: int = ROWS, width: int = D_IN, *, seed: int = 0) -> Float64[np.ndarray, "row d"]:
    """Return rows in raw units, with a mean and unequal scales."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)) * np.linspace(1, 4, width) + np.linspace(-3, 6, width)


def random_sae(
    activation: Activation,
    *,
    scale: ScaleKind = "dataset_centred_rms",
    gate_on_decoder_norm: bool = False,
    subtract_b_dec: bool = True,
    decoder_norm: str = "free",
    glu: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 3,
) -> SparseDictionary:
    """Return an SAE with random weights, biases and unequal decoder norms."""
    settings = SaeSettings.model_validate(
        {
            "hookpoint": HOOK,
            "d_sae": D_SAE,
            "activation": activation,
            "scale": scale,
            "gate_on_decoder_norm": gate_on_decoder_norm,
            "subtract_b_dec": subtract_b_dec,
            "decoder_norm": decoder_norm,
            "glu": glu,
        }
    )
    return random_dictionary(settings, {HOOK: D_IN}, dtype=dtype, seed=seed)


def random_dictionary(
    settings: DictionarySettings,
    widths: Mapping[str, int],
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 3,
) -> SparseDictionary:
    """Return a dictionary with random weights, biases and unequal decoder norms.

    Its hookpoints are scaled unequally, each by the moments of rows of its own.

    Args:
        settings: What it is.
        widths: Width of each hookpoint.
        dtype: Of the weights.
        seed: Of the weights.
    """
    plain = dictionaries.build(
        settings,
        widths=widths,
        moments={
            hook: ExactMoments(raw_rows(200, width, seed=number) * (1 + number))
            for number, (hook, width) in enumerate(widths.items())
        },
        init=InitSettings(),
        seed=seed,
    )
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
        for name, tensor in plain.tensors().items()
    }
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].abs()
    unit = plain.config.semantics.decoder_norm == "unit"
    for number, name in enumerate([name for name in tensors if name.startswith("W_dec")]):
        count = len(tensors[name])
        lengths = torch.linspace(0.3, 2.5, count, dtype=torch.float64).roll(3 * number)
        vectors = tensors[name].view(count, -1)  # of several targets, if it has them, together
        norms = torch.linalg.vector_norm(vectors, dim=1)
        vectors *= ((torch.ones_like(lengths) if unit else lengths) / norms).unsqueeze(1)
    if dtype.itemsize >= torch.float32.itemsize:
        rounded = {name: each.to(dtype) for name, each in tensors.items()}
        return plain.restore(plain.config, plain.scales, rounded)
    kind = str(dtype).removeprefix("torch.")
    config = plain.config.model_copy(update={"dtype": kind})
    return plain.restore(config, plain.scales, precision.rounded(tensors, config.dtype))


class SparseDictionaryContract:
    """Laws of every family; a subclass says how to make one, in float64 and in float32.

    The float32 one must be the same dictionary, rounded.
    """

    def dictionary(self, dtype: torch.dtype) -> SparseDictionary:
        """Return a trained-looking dictionary whose normalisation is external."""
        raise AssertionError(dtype)

    def inputs(self, rows: int = ROWS) -> dict[str, Float[Tensor, "row _"]]:
        """Return rows in raw units, float64."""
        raise AssertionError(rows)

    def test_forward_and_encode_compute_the_same_code(self) -> None:
        """Training and inference agree, where a row's code in training depends on that row."""
        dictionary, inputs = self.dictionary(torch.float64), self.inputs()
        output = dictionary(dictionary.normalise(inputs))
        code = output.code.to_sparse()
        if dictionary.activation.row_wise:
            torch.testing.assert_close(code.to_dense(), dictionary.encode(inputs).to_dense())
        for hook, rows in dictionary.decode(code, inputs).items():
            mine = dictionary.scales[hook].denormalise(output.reconstruction[hook])
            torch.testing.assert_close(mine.detach(), rows, rtol=1e-12, atol=1e-12)

    def test_a_code_is_ascending_and_without_zeros(self) -> None:
        """Compressed rows are canonical."""
        code = self.dictionary(torch.float64).encode(self.inputs())
        assert (code.values != 0).all()
        for row in range(code.n_rows):
            indices = code.indices[code.offsets[row] : code.offsets[row + 1]]
            assert (indices.diff() > 0).all()

    def test_a_row_does_not_depend_on_its_mates(self) -> None:
        """Alone, in another batch or in another order: the same bits."""
        dictionary, inputs = self.dictionary(torch.float32), self.inputs(rows=300)
        dense = dictionary.encode(inputs).to_dense()
        for chosen in ([5], [290, 3, 5], list(range(17))):
            some = dictionary.encode({hook: rows[chosen] for hook, rows in inputs.items()})
            assert torch.equal(some.to_dense(), dense[chosen])

    def test_no_rows_give_an_empty_code(self) -> None:
        """Zero rows are legal."""
        dictionary = self.dictionary(torch.float32)
        code = dictionary.encode({hook: rows[:0] for hook, rows in self.inputs().items()})
        assert code.n_rows == 0
        assert code.to_dense().shape == (0, dictionary.columns)

    def test_folding_changes_nothing_that_is_computed(self) -> None:
        """Oracle I5: the same codes and reconstructions; folding twice is refused."""
        dictionary, inputs = self.dictionary(torch.float64), self.inputs()
        folded = dictionary.folded()
        before, after = dictionary.encode(inputs), folded.encode(inputs)
        torch.testing.assert_close(after.to_dense(), before.to_dense(), rtol=1e-9, atol=1e-9)
        wanted = dictionary.reconstruct(inputs)
        for hook, rows in folded.reconstruct(inputs).items():
            torch.testing.assert_close(rows, wanted[hook], rtol=1e-9, atol=1e-9)
        with pytest.raises(UnsupportedError) as caught:
            folded.folded()
        assert caught.value.hint

    def test_the_canonical_form_reconstructs_the_same(self) -> None:
        """Raw units, nothing subtracted; activations differ by the factors that are returned."""
        dictionary, inputs = self.dictionary(torch.float64), self.inputs()
        form = dictionaries.canonical(dictionary)
        code = dictionary.encode(inputs).to_dense() * form.factors
        found = form.dictionary.encode(inputs).to_dense()
        torch.testing.assert_close(found, code, rtol=1e-9, atol=1e-9)
        wanted = dictionary.reconstruct(inputs)
        for hook, rows in form.dictionary.reconstruct(inputs).items():
            torch.testing.assert_close(rows, wanted[hook], rtol=1e-9, atol=1e-9)

    def test_saved_and_loaded_is_the_same(self, tmp_path: object) -> None:
        """Save, load, save: identical bytes; load and encode: identical numbers."""
        for state in (self.dictionary(torch.float32), self.dictionary(torch.float32).folded()):
            first, second = (Storage.at(f"{tmp_path}/{n}") for n in "ab")
            dictionaries.save(state, first)
            loaded = dictionaries.load_folder(first)
            dictionaries.save(loaded, second)
            for name in ("config.json", "weights.safetensors"):
                assert first.read(name) == second.read(name)
            inputs = self.inputs()
            assert torch.equal(loaded.encode(inputs).to_dense(), state.encode(inputs).to_dense())
            again = loaded.reconstruct(inputs)
            for hook, rows in state.reconstruct(inputs).items():
                assert torch.equal(rows, again[hook])
