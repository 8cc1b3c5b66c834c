"""Write the chunks of this folder with llamascopium itself (2.0.0b34, in its own environment).

    .bench/llamascopium/bin/python tests/agreement/llamascopium_chunks/make.py [FOLDER]

A small transformer's place is taken by numbers that say where they stand; everything after it is
llamascopium's own: its filter and batcher for rows, its writer for files. The mask is made as its
language model makes it: 0 at padding and at BOS.
"""

import sys
from pathlib import Path

import torch
from llamascopium.activation.processors.activation import ActivationBatchler, ActivationTransformer
from llamascopium.activation.writer import ActivationWriter, ActivationWriterConfig


HOOKS = {"blocks.0.hook_resid_post": 6, "blocks.1.hook_mlp_out": 5}
BOS, PAD = 1, 0
TEXTS = [7, 3, 0, 8, 5, 8, 1]
"""Tokens of each context after its BOS; 0 is a context of a BOS alone."""
LENGTH = 8
BATCH = 2


def batches(dtype):
    """Yield what llamascopium's generator yields: contexts padded to one length, two at a time."""
    for start in range(0, len(TEXTS), BATCH):
        numbers = range(start, min(start + BATCH, len(TEXTS)))
        tokens = torch.full((len(numbers), LENGTH), PAD)
        for row, number in zip(tokens, numbers, strict=True):
            row[0] = BOS
            length = min(TEXTS[number], LENGTH - 1)
            row[1 : 1 + length] = torch.arange(10 * number + 2, 10 * number + 2 + length)
        mask = torch.logical_and(tokens.ne(PAD), tokens.ne(BOS)).int()
        place = torch.tensor(numbers)[:, None, None] * 100 + torch.arange(LENGTH)[None, :, None]
        yield {
            **{
                hook: (place + torch.arange(width) / 16 + layer * 1000).to(dtype)
                for layer, (hook, width) in enumerate(HOOKS.items())
            },
            "tokens": tokens,
            "mask": mask,
            "attention_mask": mask.clone(),
            "meta": [
                {
                    "model_name": "tiny",
                    "context_idx": number,
                    "dataset_name": "numbers",
                    "shard_idx": 0,
                    "n_shards": 1,
                }
                for number in numbers
            ],
        }


def write(folder, data, *, file_format="safetensors", samples=None):
    """Write one set of chunks."""
    config = ActivationWriterConfig(
        hook_points=list(HOOKS), cache_dir=str(folder), format=file_format,
        n_samples_per_chunk=samples,
    )  # fmt: skip
    ActivationWriter(config).process(data)


def main(root):
    """Write every set."""
    write(root / "contexts", batches(torch.float32))
    write(root / "half", batches(torch.bfloat16), file_format="pt")
    write(root / "stacked", list(batches(torch.float16))[:2], samples=2)
    filtered = ActivationTransformer().process(batches(torch.float32))
    write(root / "rows", ActivationBatchler(batch_size=16).process(filtered))


if __name__ == "__main__":
    torch.manual_seed(0)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
