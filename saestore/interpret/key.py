"""The key of an endpoint: where it comes from, and how it is kept out of everything that is written."""

import base64
import os
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from saestore.errors import ConfigError
from saestore_schemas.server import is_loopback
from saestore_schemas.settings import MachineSettings


VARIABLE = "SAESTORE_LLM_KEY"
"""Where the key stands."""

OTHER_VARIABLE = "OPENAI_API_KEY"
"""Where the key stands for OpenAI's own programs too."""

HIDDEN = "[the key]"
"""What stands for it."""

_SECRET = 8
"""Characters that a secret has at least: shorter ones, such as `EMPTY`, are said to servers that want any."""


@dataclass(frozen=True)
class Key:
    """What an endpoint is given to know who asks.

    Attributes:
        value: The key.
        variable: Where it was found; None, nowhere: this machine's own servers want any.
    """

    value: SecretStr
    variable: str | None = None

    @property
    def advice(self) -> str:
        """What to do where it is refused."""
        if self.variable is None:
            return f"set {VARIABLE} to the key that the endpoint wants"
        return f"check the key in {self.variable}: it is for another endpoint, or no longer valid"

    def hide(self, text: str) -> str:
        """Return a text without the key, in whichever spelling."""
        key = self.value.get_secret_value()
        if len(key) < _SECRET:
            return text
        for spelled in (key, quote(key, safe=""), base64.b64encode(key.encode()).decode()):
            text = text.replace(spelled, HIDDEN)
        return text


def find_key(base_url: str) -> Key:
    """Return the key of an endpoint, from the environment.

    Args:
        base_url: Where the endpoint answers. One of this machine needs no key.

    Raises:
        ConfigError: There is none, or it cannot be sent.
    """
    own = MachineSettings().llm_key
    found = {
        VARIABLE: own.get_secret_value() if own is not None else "",
        OTHER_VARIABLE: os.environ.get(OTHER_VARIABLE, ""),
    }
    for variable, text in found.items():
        if key := text.strip():
            if not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError(
                    field=variable,
                    problem="holds characters that no key has",
                    expected="letters, digits and marks",
                    hint="copy it again; it is not shown here",
                )
            return Key(SecretStr(key), variable)
    if not is_loopback(urlsplit(base_url).hostname or ""):
        raise ConfigError(
            field=VARIABLE,
            problem=f"is not set, and {OTHER_VARIABLE} neither",
            expected=f"the key of the endpoint {base_url}",
            hint=f"export {VARIABLE}=…; it is written nowhere. Where none is needed, any text will do",
        )
    return Key(SecretStr("none"))
