"""Tiny random language models in Hugging Face's own format, one of each family.

Sizes are awkward on purpose (no powers of two, grouped keys, untied heads), no bias is zero and no
gain is one, so that a transposed matrix or a forgotten bias shows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from saestore.lm.quiet import quiet
from saestore.testing.corpora import PARAGRAPHS


Kind = Literal["gpt2", "neox", "llama", "qwen2", "qwen3"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The families there are tiny models of."""

D_MODEL = 24
N_LAYERS = 4
CONTEXT_SIZE = 512
N_VOCAB = 397
"""Rows of the embedding: more than the tokenizer's tokens, as in many published models."""

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
"""Special tokens; their ids are 0, 1 and 2."""

_GROUPED: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 56,
    "max_position_embeddings": CONTEXT_SIZE,
    "tie_word_embeddings": False,
}

_MAKERS: Mapping[Kind, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (
        GPT2Config,
        GPT2LMHeadModel,
        {
            "n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 3, "n_positions": CONTEXT_SIZE,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        },
    ),
    "neox": (
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        {
            "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "num_attention_heads": 3,
            "intermediate_size": 56, "max_position_embeddings": CONTEXT_SIZE,
        },
    ),
    "llama": (LlamaConfig, LlamaForCausalLM, _GROUPED),
    "qwen2": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {key: value for key, value in _GROUPED.items() if key != "head_dim"},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {**_GROUPED, "head_dim": 10}),
}  # fmt: skip


def tiny_model(kind: Kind, folder: Path, *, seed: int = 0) -> Path:
    """Save a random model of one family with its tokenizer into `folder` and return the folder.

    It has `D_MODEL` dimensions, `N_LAYERS` blocks and a byte-level BPE tokenizer with the special
    tokens `<bos>`, `<eos>` and `<pad>`, which adds none of them by itself.
    """
    config_class, model_class, sizes = _MAKERS[kind]
    tokenizer = tiny_tokenizer()
    config = config_class(
        vocab_size=N_VOCAB,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    model = model_class(config)
    randomise_(model, seed=seed)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def randomise_(model: torch.nn.Module, *, seed: int) -> None:
    """Draw every parameter: matrices keep the scale of their input, gains surround 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                gain = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(gain + 0.2 * noise)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the tiny corpus's paragraphs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=389,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PARAGRAPHS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
