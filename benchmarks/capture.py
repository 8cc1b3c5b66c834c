"""`saestore generate` against the bare forward pass of the same model over the same batches.

Bare means Hugging Face's own model, cut after the block of the hookpoint, without hooks, head or
cache: what capturing activations costs at least. Generate's time runs from the moment its model is
loaded until the store is finished and synced to disk; it tokenises, captures, converts, sums
moments, checksums and writes in it.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import saestore
from benchmarks.harness import Contender, Goal, Limit, Options, Setup, timed
from saestore import corpus as corpora, generate
from saestore.generate.plan import batches
from saestore.lake import Lake
from saestore.lm import LanguageModel, default_model, layer_count
from saestore.progress import Silent
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


class Stopwatch(Silent):
    """Starts when generate opens its bar: the model is loaded then, and nothing is computed."""

    def __init__(self) -> None:
        self.started = 0.0

    @contextmanager
    def task(self, label, *, total, unit, done=0):
        self.started = time.perf_counter()
        with super().task(label, total=total, unit=unit, done=done) as task:
            yield task


@dataclass(frozen=True)
class Job:
    """One store to be made again and again.

    Attributes:
        settings: Generate's settings.
        device: Torch device.
        folder: Where lakes are made and removed.
        made: Repetitions so far, to name the next.
    """

    settings: GenerateSettings
    device: str
    folder: Path
    made: list[Path] = field(default_factory=list)

    def generate(self) -> tuple[float, float]:
        """Return tokens and seconds of one whole run."""
        place = self.folder / f"lake-{len(self.made)}"
        self.made.append(place)
        watch = Stopwatch()
        store = generate.run(self.settings, Lake.at(place), device=self.device, progress=watch)
        seconds = time.perf_counter() - watch.started
        shutil.rmtree(place)
        return store.n_rows, seconds

    def batches(self, model: LanguageModel) -> list[torch.Tensor]:
        """Return the batches that generate computes, as token ids."""
        corpus = corpora.open_corpus(self.settings.corpus)
        blocks = corpora.blocks(
            corpus, self.settings.corpus, model.tokenizer, prepend_bos=self.settings.lm.prepend_bos
        )
        room, found = self.settings.tokens or 0, []
        for block in blocks:
            for batch in batches(block, forward_contexts=FORWARD_CONTEXTS, room=room):
                found.append(torch.from_numpy(batch.padded()).to(self.device))
                room -= batch.rows
            if room == 0:
                break
        return found


def random_llama(folder: Path) -> Path:
    """Save a random Llama with SmolLM2's widths and fewer blocks, and return its folder."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - seconds

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=576, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
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


class Capture:
    """The benchmark."""

    name = "capture"
    doc = "generate's tokens/s against a bare forward of the same model and batches"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make the model and the contenders in a folder that is removed afterwards."""
        if options.threads:
            torch.set_num_threads(options.threads)
        with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place:
            folder = Path(place)
            yield prepare(folder, options)


def prepare(folder: Path, options: Options) -> Setup:
    """Return the contenders."""
    given = options.model
    path = str(default_model()) if given == "smollm2" else given or str(random_llama(folder / "m"))
    layers = layer_count(path)
    block = max(round(layers / 3), 1)
    hookpoint = f"blocks.{block}.hook_resid_post"
    job = Job(
        GenerateSettings(
            name="store",
            lm=LmSettings(model=path),
            corpus=CorpusSettings(
                sources=(StdlibSource(parts=("topics",)),),
                context_size=CONTEXT_SIZE,
                block_documents=BLOCK_DOCUMENTS,
            ),
            hookpoints=(hookpoint,),
            tokens=TOKENS,
            forward_contexts=FORWARD_CONTEXTS,
            store=StoreSettings(shard_mib=32),
        ),
        options.device,
        folder,
    )
    model = LanguageModel.load(job.settings.lm, device=options.device)
    body = bare(path, block + 1, options.device)
    held = job.batches(model)

    def forward() -> tuple[float, float]:
        with torch.inference_mode():
            seconds = timed(lambda: [body(input_ids=each, use_cache=False) for each in held])
        return sum(each.numel() for each in held), seconds

    def capture() -> tuple[float, float]:
        seconds = timed(lambda: [model.capture(each, [hookpoint]) for each in held])
        return sum(each.numel() for each in held), seconds

    hugging_face = f"transformers {version('transformers')}, torch {torch.__version__}"
    lens = f"transformer-lens {version('transformer-lens')}"
    return Setup(
        contenders=(
            Contender("generate", job.generate, f"saestore {saestore.__version__}, {lens}"),
            Contender("bare forward", forward, hugging_face),
            Contender("capture alone", capture, lens),
            products(body, TOKENS, options.device),
        ),
        goals=(Goal("generate", "bare forward", "rate", ">=", 0.9),),
        unit="token",
        sizes={
            "model": f"{given or 'random Llama'}, d_model {model.d_model}, {layers} blocks",
            "captured": f"{hookpoint}, {block + 1} blocks computed, stored as bfloat16",
            "batches": f"{len(held)} of {FORWARD_CONTEXTS} x {CONTEXT_SIZE} tokens, {TOKENS} kept",
            "device": f"{options.device}, float32, {torch.get_num_threads()} threads",
        },
        limit=Limit(
            "matrix products", f"at {flops_per_token(body) / 1e6:,.1f} MFLOP a token, nothing else"
        ),
    )


BENCH = Capture()
