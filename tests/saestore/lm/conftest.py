import pytest
import torch

from saestore.lm import LanguageModel
from saestore.lm.quiet import quiet
from saestore.testing.models import KINDS, N_VOCAB, randomise_, tiny_tokenizer
from saestore_schemas.lm import LmSettings


@pytest.fixture(scope="session")
def models(tiny_models):
    """A function from family and settings to a loaded model, each loaded once."""
    held = {}

    def load(kind, **more):
        key = (kind, *sorted(more.items()))
        if key not in held:
            held[key] = LanguageModel.load(
                LmSettings(model=str(tiny_models(kind)), **more), device="cpu"
            )
        return held[key]

    return load


@pytest.fixture(scope="session")
def vendors(tiny_models):
    """A function from family to Hugging Face's own model."""
    from transformers import AutoModelForCausalLM

    def load(kind):
        with quiet():
            return AutoModelForCausalLM.from_pretrained(
                tiny_models(kind), attn_implementation="eager"
            ).eval()

    return load


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokens():
    return torch.randint(0, N_VOCAB, (3, 21), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory):
    """A model whose gain is 1 + w and whose logits are capped."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny-gemma2")
    config = Gemma2Config(
        vocab_size=N_VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=8, intermediate_size=56, sliding_window=16,
        final_logit_softcapping=3.0, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    randomise_(model, seed=3)
    with quiet():
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder
