"""What each feature writes to each hookpoint: how much, and how alike it is at two of them."""

from itertools import combinations_with_replacement

import numpy as np
import pyarrow as pa
import torch

from saestore.dictionaries import SparseDictionary
from saestore.features import arrow
from saestore_schemas import tables


def decoder_rows(folded: SparseDictionary) -> pa.Table:
    """Return the table `decoders` of a dictionary in raw units."""
    hooks = folded.hookpoints_out
    lengths = [
        torch.linalg.vector_norm(folded.decoder_vectors_at(hook).double(), dim=1) for hook in hooks
    ]
    norms = torch.stack(lengths, dim=1).detach().cpu().numpy()
    feature, head = np.nonzero(norms)
    total = norms.sum(axis=1)
    found = norms[feature, head]
    columns = {
        "feature": feature.astype(np.uint32),
        "head": head.astype(np.uint16),
        "hookpoint": np.array(hooks, dtype=object)[head],
        "norm": found.astype(np.float32),
        "relative_norm": (found / total[feature]).astype(np.float32),
    }
    return arrow.rows(tables.DECODERS.schema(), columns)


def pair_rows(folded: SparseDictionary) -> pa.Table:
    """Return the table `decoder_pairs` of a dictionary in raw units."""
    vectors = [folded.decoder_vectors_at(hook).detach().double() for hook in folded.hookpoints_out]
    pairs = list(combinations_with_replacement(range(len(vectors)), 2))
    products = np.full((folded.d_sae, len(pairs)), np.nan)
    cosines = products.copy()
    for place, (a, b) in enumerate(pairs):
        left, right = vectors[a], vectors[b]
        if left.shape == right.shape:
            product = torch.linalg.vecdot(left, right)
            lengths = torch.linalg.vector_norm(left, dim=1) * torch.linalg.vector_norm(right, dim=1)
            products[:, place] = product.cpu().numpy()
            cosines[:, place] = (product / lengths).clamp(-1, 1).cpu().numpy()  # 0/0 stays NaN
    schema = tables.DECODER_PAIRS.schema()
    heads = np.array(pairs, dtype=np.uint16)
    columns = {
        "feature": np.repeat(np.arange(folded.d_sae, dtype=np.uint32), len(pairs)),
        "head_a": np.tile(heads[:, 0], folded.d_sae),
        "head_b": np.tile(heads[:, 1], folded.d_sae),
    }
    for name, values in (("cosine", cosines), ("inner_product", products)):
        flat = values.reshape(-1).astype(np.float32)
        columns[name] = arrow.column(flat, schema.field(name).type, null=np.isnan(flat))
    return arrow.rows(schema, columns)
