"""A lake served: the server, and the language models that run texts for it."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from saestore.api import config
from saestore.api.extras import missing_extra
from saestore.api.looking_up import LookingUp
from saestore.errors import ConfigError
from saestore.progress import Progress


if TYPE_CHECKING:
    from saestore.analyze import LiveDictionary
    from saestore.features import Passages
    from saestore.server import Place
    from saestore_schemas.server import ServerSettings

_LOADED = 2
"""Dictionaries that are kept loaded, each with its language model."""

OWN_MODEL = "auto"
"""Instead of a language model's name: the one that each store says it is of."""


class LiveModels:
    """Runs texts for a server: loads what a text needs when it is first asked about.

    Attributes:
        model: What texts are run through.
    """

    def __init__(self, model: str, load: "Callable[[str], LiveDictionary]") -> None:
        """Load nothing yet.

        Args:
            model: What texts are run through.
            load: From an analysis to its dictionary and language model.
        """
        self.model = model
        self._load = load
        self._loaded: OrderedDict[str, LiveDictionary] = OrderedDict()
        self._lock = Lock()

    def encode(self, analysis: str, texts: Sequence[str]) -> "Passages":
        """Return what fires in some texts, with the rules of an analysis.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            ConfigError: There is no such language model, or no store says which it is of.
            MissingExtraError: torch or TransformerLens is not installed.
        """
        with self._lock:  # one text after the other: they share the machine
            return self.dictionary(analysis).encode(list(texts))

    def dictionary(self, analysis: str) -> "LiveDictionary":
        """Return the dictionary of an analysis with its language model, loaded or kept.

        Raises:
            SaestoreError: See `encode`.
        """
        found = self._loaded.pop(analysis, None)
        if found is None:
            while len(self._loaded) >= _LOADED:  # first, so that all need not fit beside it
                self._loaded.popitem(last=False)
            found = self._load(analysis)
        self._loaded[analysis] = found
        return found


class Serving(LookingUp):
    """A lake, served to browsers and programs."""

    def serve(
        self,
        settings: "ServerSettings | None" = None,
        *,
        live: str | None = None,
        started: "Callable[[Place], None] | None" = None,
        log: str = "warning",
        progress: Progress | None = None,
    ) -> None:
        """Serve pages and a JSON API until the process is told to end (SIGINT, SIGTERM).

        Args:
            settings: How; absent, what `SAESTORE_SERVER_*` variables say.
            live: Name or directory of the language model that runs texts, or `auto` for the one that each
                store says it is of; absent, no texts are run. That of the first analysis is loaded before
                anything is served.
            started: Called when it listens, with where.
            log: `warning`, or `info` for a line of each request.
            progress: Where to report what is loaded.

        Raises:
            ConfigError: The address cannot be listened on, or needs a token and has none; or there is no
                such language model.
            MissingExtraError: The extra `server` is not installed.
        """
        from saestore_schemas.server import ServerSettings

        try:
            from saestore import server
        except ModuleNotFoundError as error:
            raise missing_extra(error, purpose="serving a lake") or error from error
        chosen = config.from_environment(ServerSettings) if settings is None else settings
        models = None
        if live is not None:
            lm = None if live == OWN_MODEL else live
            named = "the language model of each store" if lm is None else lm
            models = LiveModels(named, lambda name: self.live(name, lm=lm, progress=progress))
            for first in self.lake.refs("features")[:1]:
                models.dictionary(first.name)
        server.serve(self.lake, chosen, live=models, started=started, log=log)


def token_in(file: Path) -> str:
    """Return the token that a file holds, without spaces around it.

    Raises:
        ConfigError: The file cannot be read, or is empty.
    """
    try:
        found = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            field="--token-file",
            found=str(file),
            problem=f"cannot read {file}: {getattr(error, 'strerror', None) or error}",
            expected="a file that holds the token",
            hint="make one: openssl rand -hex 32 > token && chmod 600 token",
        ) from error
    if not found:
        raise ConfigError(
            field="--token-file",
            found=str(file),
            problem=f"{file} is empty",
            expected="a file that holds the token",
            hint="make one: openssl rand -hex 32 > token && chmod 600 token",
        )
    return found
