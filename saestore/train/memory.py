"""What a run will hold in memory, from its sizes alone: said before it starts."""

from collections.abc import Sequence

import torch

from saestore.dictionaries import backends, products
from saestore.train.trainer import Trainer


_MIB = 2**20


def weights(trainer: Trainer) -> int:
    """Return the bytes of a trainer's weights, gradients and moments.

    Four floats a weight; with `optimizer.states = "lean"` the moments are half a float. Weights and
    gradients of narrow parameters are half as large, and a float of each is kept beside them.
    """
    parameters = [p for p in trainer.dictionary.parameters() if p.requires_grad]
    each = 2 if trainer.settings.optimizer.states == "lean" else 8
    return sum(p.numel() * (_weight_and_gradient(p.element_size()) + each) for p in parameters)


def _weight_and_gradient(size: int) -> int:
    """Return the bytes of a weight and its gradient, and of both in float32 where they are narrow."""
    wide = torch.float32.itemsize
    return 2 * size + (2 * wide if size < wide else 0)


def activations(trainer: Trainer) -> int:
    """Return the bytes of the pre-activations that are there at once: of one batch, or of a part.

    Gate scores that are ranked in each layer, or at each head, are there for one at a time.
    """
    rows = -(-trainer.schedule.batch_rows // trainer.settings.optimizer.accumulate)
    config = trainer.dictionary.config
    gates = rows if config.semantics.gate_on_decoder_norm else 0
    d_sae, backend = trainer.dictionary.d_sae, backends.of(trainer.device)
    share = products.dense_share(next(trainer.dictionary.parameters()))
    if trainer.dictionary.activation.in_parts(d_sae, share) and backend.product_rows is not None:
        rows = min(rows, backend.product_rows)
        gates = min(gates, backend.ranked_rows)
    apart = config.semantics.l0_scope != "row" and not config.semantics.ranks_together
    return (rows * d_sae + gates * (config.d_sae if apart else config.columns)) * 4


def described(trainers: Sequence[Trainer], held_rows: int) -> str:
    """Return about how much memory trainers take together, in words.

    Args:
        trainers: All that run at once.
        held_rows: Rows that their stream holds.
    """
    if not trainers:
        return "nothing is left to train"
    config = trainers[0].dictionary.config
    widths = dict(zip(config.hookpoints_in, config.d_in, strict=True))
    widths |= dict(zip(config.hookpoints_out, config.d_out, strict=True))
    rows = held_rows * sum(widths.values()) * 4
    return (
        f"{len(trainers)} {'dictionary needs' if len(trainers) == 1 else 'dictionaries need'} about "
        f"{sum(map(weights, trainers)) / _MIB:,.0f} MiB of weights, gradients and moments, "
        f"{sum(map(activations, trainers)) / _MIB:,.0f} MiB of pre-activations, and at most "
        f"{rows / _MIB:,.0f} MiB of rows"
    )
