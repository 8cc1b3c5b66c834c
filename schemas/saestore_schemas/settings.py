"""Machine facts: where the lake lies, which device computes. Never part of a fingerprint."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class MachineSettings(BaseSettings):
    """Read from `SAESTORE_*` environment variables; command-line flags win."""

    model_config = SettingsConfigDict(
        env_prefix="SAESTORE_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    lake: str = "lake"
    """Folder or fsspec URL of the lake."""
    device: str = "auto"
    """Torch device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; absent, what torch chooses."""
    time_limit_s: float | None = Field(default=None, gt=0)
    """Seconds after which training stops with a checkpoint; absent, never."""
    output: Literal["text", "json"] = "text"
    """How commands answer."""
    no_progress: bool = False
    """Draw no progress bars."""
    author: str | None = None
    """Who annotates; absent, the name of the user who is logged in."""
    cache: str | None = None
    """Folder on a fast local disk that keeps what is read of remote activations; absent, none."""
    cache_gib: float = Field(default=32.0, gt=0)
    """Most GiB that the cache takes; what was not read for the longest time goes first."""
    mongo_uri: SecretStr | None = None
    """MongoDB that holds an index of the lake, such as `mongodb://USER:PASSWORD@HOST:27017/`; absent,
    everything is read from the lake."""
    mongo_db: str = "saestore"
    """Database of the index; one lake each."""
    llm_key: SecretStr | None = None
    """Key of the language model's endpoint that `interpret` asks; absent, `OPENAI_API_KEY`. It is written
    nowhere."""
