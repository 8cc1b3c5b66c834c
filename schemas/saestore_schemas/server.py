"""How the server serves: where it listens, who may ask, and how much a question may take."""

from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


LOOPBACK_NAMES = ("localhost",)
"""Names of this machine, to itself."""

TOKEN_LENGTH = 16
"""Characters that a token has at least."""


class ServerSettings(BaseSettings):
    """Read from `SAESTORE_SERVER_*` environment variables; command-line flags win."""

    model_config = SettingsConfigDict(
        env_prefix="SAESTORE_SERVER_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address it listens on. Beyond loopback a token is required."""
    port: int = Field(default=24576, ge=0, le=65_535)
    """Port it listens on; 0 takes a free one."""
    token: SecretStr | None = Field(default=None, min_length=TOKEN_LENGTH)
    """What everyone who asks must know, at least 16 characters: `Authorization: Bearer TOKEN`, or the
    login page."""
    hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Further names that it answers to (`Host` header), commas between, such as that of a proxy in front.
    It answers to its address, loopback names and any IP address."""
    annotate: bool = False
    """Whether annotations may be written."""
    max_body_kib: int = Field(default=1024, ge=1)
    """KiB of what is sent with a request, at most."""
    body_seconds: float = Field(default=20.0, gt=0)
    """Seconds within which it has to arrive, and its head before it."""
    at_once: int = Field(default=256, ge=1)
    """Requests in progress, at most; further ones are told to come back."""
    threads: int = Field(default=8, ge=1)
    """Requests whose answers are made at once; further ones wait. Python makes one after the other: more
    threads take more memory, and answer more only where the lake is far away."""
    memory_mib: int = Field(default=8192, ge=512)
    """MiB of memory beyond what the server has when it starts, where the system can hold it to that
    (Linux). Questions in SQL are answered in processes of their own, and do not count."""
    sql_seconds: float = Field(default=10.0, gt=0)
    """Seconds of one question in SQL. What cannot be interrupted ends 5 seconds later, with its process."""
    sql_rows: int = Field(default=10_000, ge=1)
    """Rows of its answer, at most; the answer says that there were more."""
    sql_answer_mib: int = Field(default=16, ge=1)
    """MiB of its answer, about, at most; likewise."""
    sql_memory_mib: int = Field(default=1024, ge=16)
    """MiB of memory of one question; where the system can hold it to that (Linux), its process takes at most a
    GiB more, whatever it does."""
    sql_threads: int = Field(default=1, ge=1)
    """CPU threads of one question."""
    sql_at_once: int = Field(default=2, ge=1)
    """Questions in SQL at once; further ones wait, as long as one may take, and are then told to come
    back."""
    live_chars: int = Field(default=20_000, ge=1)
    """Characters of the texts of one live question, together."""
    kept_mib: int = Field(default=64, ge=0)
    """MiB of answers about immutable artefacts that are kept."""
    stop_seconds: int = Field(default=10, ge=0)
    """Seconds that requests in progress get to end when it is stopped."""

    @field_validator("hosts", mode="before")
    @classmethod
    def _commas(cls, value: Any) -> Any:
        """Return names with commas between as a list."""
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is of this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
