"""`saestore generate` against the bare forward pass of the same model over the same batches.

Bare means Hugging Face's own model, cut after the block of the last hookpoint, without hooks, head
or cache: what capturing activations costs at least. Generate is a whole run with a loaded model, until
the store is finished and synced to disk; it tokenises, captures, converts, sums moments, checksums
and writes in it.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import saestore
from benchmarks.harness import Contender, Goal, Limit, Options, Setup, timed
from saestore import corpus as corpora, generate
from saestore.errors import MissingExtraError
from saestore.generate.plan import batches
from saestore.lake import Lake
from saestore.lm import LanguageModel, default_model, layer_count
from saestore.testing.models import quiet, randomise_, tiny_tokenizer
from saestore_schemas.activations import StoreSettings
from saestore_schemas.corpus import CorpusSettings, StdlibSource
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


CONTEXT_SIZE = 256
FORWARD_CONTEXTS = 8
TOKENS = 32_768
"""Tokens a repetition: finishing a store costs the same for few as for many."""

BLOCK_DOCUMENTS = 8
"""A block is tokenised whole: one of 64 documents is three times the tokens that are kept here."""


@dataclass(frozen=True)
class Job:
    """One store to be made again and again.

    Attributes:
        settings: Generate's settings.
        model: Their model.
        folder: Where lakes are made and removed.
        made: Repetitions so far, to name the next.
    """

    settings: GenerateSettings
    model: LanguageModel
    folder: Path
    made: list[Path] = field(default_factory=list)

    def generate(self) -> tuple[float, float]:
        """Return tokens and seconds of one whole run."""
        place = self.folder / f"lake-{len(self.made)}"
        self.made.append(place)
        seconds = timed(lambda: generate.run(self.settings, Lake.at(place), model=self.model))
        shutil.rmtree(place)
        return self.settings.tokens or 0, seconds

    def batches(self) -> list[torch.Tensor]:
        """Return the batches that generate computes, as token ids."""
        corpus = corpora.open_corpus(self.settings.corpus)
        blocks = corpora.blocks(
            corpus,
            self.settings.corpus,
            self.model.tokenizer,
            prepend_bos=self.settings.lm.prepend_bos,
        )
        room, found = self.settings.tokens or 0, []
        for block in blocks:
            for batch in batches(block, forward_contexts=FORWARD_CONTEXTS, room=room):
                found.append(torch.from_numpy(batch.padded()).to(self.model.device))
                room -= batch.rows
            if room == 0:
                break
        return found


def random_llama(folder: Path, sizes: Mapping[str, int]) -> Path:
    """Save a random Llama of some sizes, and return its folder."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - seconds

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    model = LlamaForCausalLM(config)
    randomise_(model, seed=0)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bare(model: str, blocks: int, device: str) -> nn.Module:
    """Return Hugging Face's model without head, cut after some blocks."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds

    with quiet():
        whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    body = whole.base_model
    for name in ("layers", "h"):
        if hasattr(body, name):
            setattr(body, name, getattr(body, name)[:blocks])
    return body.to(device).eval()


def flops_per_token(body: nn.Module) -> int:
    """Return the floating-point operations of the matrix products of one token."""
    linear = [
        module.weight
        for module in body.modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
        and module.weight.ndim == 2
        and not isinstance(module, nn.Embedding)
    ]
    blocks = len(getattr(body, "layers", None) or body.h)
    # Two products with the other tokens in each block, half of them masked and still computed.
    attention = blocks * 2 * 2 * CONTEXT_SIZE * body.config.hidden_size
    return 2 * sum(weight.numel() for weight in linear) + attention


def products(body: nn.Module, tokens: int, device: str) -> Contender:
    """Return the contender that only multiplies matrices, as much as `tokens` tokens need."""
    rows, width = FORWARD_CONTEXTS * CONTEXT_SIZE, body.config.hidden_size
    left = torch.randn(rows, width, device=device)
    right = torch.randn(width, body.config.intermediate_size, device=device)
    out = left @ right
    needed = tokens * flops_per_token(body) / (2 * rows * right.numel())

    def work() -> tuple[float, float]:
        times = max(round(needed), 1)
        seconds = timed(lambda: [torch.mm(left, right, out=out) for _ in range(times)])
        return tokens * times / needed, seconds

    return Contender("matrix products", work, f"torch {torch.__version__}")


@dataclass(frozen=True)
class Capture:
    """The benchmark, on one model.

    Attributes:
        name: Its name.
        doc: What it says.
        goal: The share of the bare forward's rate that is wanted.
        default: Makes the model, unless the command line names one, in a folder; and how to call it.
        hookpoints: Which to store of a model with so many blocks.
    """

    name: str
    doc: str
    goal: float
    default: Callable[[Path], tuple[Path | str, str]]
    hookpoints: Callable[[int], tuple[str, ...]]

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make the model and the contenders in a folder that is removed afterwards."""
        if options.threads:
            torch.set_num_threads(options.threads)
        with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place:
            folder = Path(place)
            if options.model is None:
                path, called = self.default(folder / "model")
            else:
                path, called = Path(options.model), options.model
            yield self.prepare(str(path), called, folder, options)

    def prepare(self, path: str, called: str, folder: Path, options: Options) -> Setup:
        """Return the contenders."""
        layers = layer_count(path)
        hookpoints = self.hookpoints(layers)
        settings = GenerateSettings(
            name="store",
            lm=LmSettings(model=path),
            corpus=CorpusSettings(
                sources=(StdlibSource(parts=("topics",)),),
                context_size=CONTEXT_SIZE,
                block_documents=BLOCK_DOCUMENTS,
            ),
            hookpoints=hookpoints,
            tokens=TOKENS,
            forward_contexts=FORWARD_CONTEXTS,
            store=StoreSettings(shard_mib=32),
        )
        model = LanguageModel.load(settings.lm, device=options.device)
        job = Job(settings, model, folder)
        blocks = int(hookpoints[-1].split(".")[1]) + 1
        body = bare(path, blocks, options.device)
        held = job.batches()

        def forward() -> tuple[float, float]:
            with torch.inference_mode():
                seconds = timed(lambda: [body(input_ids=each, use_cache=False) for each in held])
            return TOKENS, seconds

        def capture() -> tuple[float, float]:
            return TOKENS, timed(lambda: [model.capture(each, hookpoints) for each in held])

        hugging_face = f"transformers {version('transformers')}, torch {torch.__version__}"
        lens = f"transformer-lens {version('transformer-lens')}"
        return Setup(
            contenders=(
                Contender("generate", job.generate, f"saestore {saestore.__version__}, {lens}"),
                Contender("bare forward", forward, hugging_face),
                Contender("capture alone", capture, lens),
                products(body, TOKENS, options.device),
            ),
            goals=(Goal("generate", "bare forward", "rate", ">=", self.goal),),
            unit="token",
            sizes={
                "model": f"{called}, d_model {model.d_model}, {layers} blocks",
                "captured": f"{', '.join(hookpoints)}; {blocks} blocks computed, stored as bfloat16",
                "batches": f"{len(held)} of at most {FORWARD_CONTEXTS} x {CONTEXT_SIZE} tokens; the "
                f"{TOKENS} stored are counted, for all alike",
                "device": f"{options.device}, float32, {torch.get_num_threads()} threads",
            },
            limit=Limit(
                "matrix products",
                f"at {flops_per_token(body) / 1e6:,.1f} MFLOP a token, nothing else",
            ),
        )


def smollm2(folder: Path) -> tuple[Path | str, str]:
    """Return the installed SmolLM2; or a random Llama of its widths where there is none."""
    try:
        return default_model(), "SmolLM2-135M"
    except MissingExtraError:
        widths = {
            "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3,
        }  # fmt: skip
        return random_llama(folder, widths), "random Llama of SmolLM2's sizes"


def small(folder: Path) -> tuple[Path, str]:
    """Return a random Llama whose forward pass costs little beside storing what it computes."""
    sizes = {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    return random_llama(folder, sizes), "random Llama"


BENCH = Capture(
    name="capture",
    doc="generate's tokens/s against a bare forward of the same model and batches",
    goal=0.9,
    default=smollm2,
    hookpoints=lambda layers: (f"blocks.{max(round(layers / 3), 1)}.hook_resid_post",),
)
SMALL = Capture(
    name="capture_small",
    doc="the same for a small model, every block's output stored: storage counts",
    goal=0.7,
    default=small,
    hookpoints=lambda layers: tuple(f"blocks.{n}.hook_resid_post" for n in range(layers)),
)
