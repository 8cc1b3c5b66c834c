"""Where a model comes from: a local directory, which is never looked up anywhere, or a hub."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from saestore.errors import ConfigError, nearest
from saestore.lm.quiet import quiet
from saestore_schemas.lm import LmSettings


FIELD = "lm.model"
"""The setting that names a model where nothing else does."""


@dataclass(frozen=True)
class Place:
    """A model's whereabouts.

    Attributes:
        name: The local directory, or the hub name.
        revision: Commit, tag or branch; None for local directories.
        local: Whether it is a directory: no socket is opened for it.
        field: The setting that names it, for errors.
    """

    name: str
    revision: str | None
    local: bool
    field: str

    @cached_property
    def here_only(self) -> bool:
        """Whether to read from this machine alone: a directory, or a hub that cannot be found.

        Asking an absent hub takes half a minute of retries; what was downloaded before is here.
        """
        return self.local or not hub_known()

    @classmethod
    def of(cls, settings: LmSettings, *, field: str) -> "Place":
        """Return where the model of some settings is.

        Args:
            settings: Which model.
            field: The setting that names it, for errors.

        Raises:
            ConfigError: It is spelled as a path and nothing is there, or the directory holds no
                model.
        """
        path = Path(settings.model).expanduser()
        if path.is_dir():
            if not (path / "config.json").is_file():
                holds = ", ".join(sorted(each.name for each in path.iterdir())[:8]) or "nothing"
                raise ConfigError(
                    field=field,
                    found=settings.model,
                    expected="a Hugging Face directory, which has a config.json",
                    hint=f"that folder holds {holds}; name the folder that save_pretrained wrote",
                )
            return cls(str(path), None, local=True, field=field)
        if (
            path.exists()
            or settings.model.startswith((".", "~", os.sep))
            or (settings.model.count("/") > 1)
        ):
            raise ConfigError(
                field=field,
                found=settings.model,
                expected="a directory, or a hub name such as EleutherAI/pythia-70m",
                hint=_near(path),
            )
        return cls(settings.model, settings.revision, local=False, field=field)


def hub_known() -> bool:
    """Return whether the hub's address can be looked up, or a proxy would do so."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if endpoint.scheme in getproxies():
        return True
    try:
        socket.getaddrinfo(endpoint.hostname, endpoint.port or 443)
    except OSError:
        return False
    return True


@contextmanager
def loading(place: Place, what: str) -> Iterator[None]:
    """Turn the errors of loading from a place into ours, and draw no bars.

    Raises:
        ConfigError: The model or a part of it is not there, or cannot be read.
    """
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if place.local:
            expected = f"a directory with a {what} that can be read"
            hint = line
        else:
            expected = f"a {what} on the hub, or a local directory of that name"
            hint = (
                f"{line} (offline? download it once where there is a network, or name a local "
                "directory)"
            )
        raise ConfigError(
            field=place.field, found=place.name, expected=expected, hint=hint
        ) from error


def _near(path: Path) -> str:
    if path.is_file():
        return f"that is a file; the model's directory may be {path.parent}"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    close = nearest(path.name, [each.name for each in path.parent.iterdir() if each.is_dir()])
    if close:
        return f"did you mean {', '.join(str(path.parent / name) for name in close)}?"
    return f"{path.parent.absolute()} holds no folder of a similar name"
