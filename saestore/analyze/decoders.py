"""How much each feature writes to each hookpoint: which layers a feature of several belongs to."""

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
