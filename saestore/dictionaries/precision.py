"""In which type each tensor of a dictionary is kept, and in which one computes with it.

Matrices have the type that settings ask for. Vectors are float32 at least, and so are rows, codes,
norms and scores: narrow matrices are widened where they meet them, or read as they lie where
`torch.autocast` asks for narrow products and in the kernels for CUDA.
"""

import torch
from torch import Tensor

from saestore_schemas.dictionary import WeightType


VECTORS = ("b_", "threshold")
"""How names of biases and thresholds begin: they are vectors, whatever shape a file gives them."""


def of_tensor(kind: WeightType, name: str, shape: tuple[int, ...]) -> torch.dtype:
    """Return the type of a tensor of the file in a dictionary whose matrices have a type."""
    matrices: torch.dtype = getattr(torch, kind)
    return wide(matrices) if len(shape) == 1 or name.startswith(VECTORS) else matrices


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which one computes with weights: theirs, float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def rounded(tensors: dict[str, Tensor], kind: WeightType) -> dict[str, Tensor]:
    """Return tensors in the types in which a dictionary keeps them."""
    return {
        name: tensor.to(of_tensor(kind, name, tuple(tensor.shape)))
        for name, tensor in tensors.items()
    }
