"""Optional packages: which extra of saestore brings a module that is not installed."""

from saestore.errors import MissingExtraError


EXTRAS = {
    "datasets": "model",
    "fastapi": "server",
    "gguf": "demo",
    "h11": "server",
    "s3fs": "remote",
    "jinja2": "server",
    "markupsafe": "server",
    "matplotlib": "report",
    "prometheus_client": "server",
    "openai": "interpret",
    "pymongo": "index",
    "prompt_toolkit": "shell",
    "safetensors": "model",
    "starlette": "server",
    "tokenizers": "model",
    "torch": "model",
    "transformer_lens": "model",
    "transformers": "model",
    "uvicorn": "server",
    "wandb": "wandb",
}
"""Module to extra."""


def missing_extra(error: ModuleNotFoundError, *, purpose: str) -> MissingExtraError | None:
    """Return the error that names the extra to install; None for a module that is in none.

    Args:
        error: What importing raised.
        purpose: What needs it, for the message.
    """
    module = (error.name or "").split(".", 1)[0]
    if module not in EXTRAS:
        return None
    return MissingExtraError(
        package=module.replace("_", "-"), extra=EXTRAS[module], purpose=purpose
    )
