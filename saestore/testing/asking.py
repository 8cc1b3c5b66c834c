"""A run's requests without the run: what is asked, and what came of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from saestore.interpret.budget import Ledger
from saestore.interpret.client import Asker, open_asker
from saestore.interpret.request import Answer, Asking, Form, Message, Request
from saestore.interpret.retry import Waits
from saestore.lake import Storage
from saestore.testing.llm import LlmServer
from saestore_schemas.interpret import InterpretSettings


QUICK = Waits(first_s=0.01, most_s=0.05, patience_s=5.0)
"""Pauses that tests can wait for."""


class Bench:
    """A run's folder and settings beside a server: it asks some questions and tells what came of them.

    Attributes:
        form: A form of answers.
        server: Who is asked; None, nobody is there.
        folder: Where all of it lies.
        artefact: The run's folder.
        notes: What was told.
        endpoint: Settings of the endpoint; may be changed.
        settings: Other settings; may be changed.
    """

    form = Form("said", {"type": "object", "properties": {"word": {"type": "string"}}})

    def __init__(self, folder: Path, server: LlmServer | None) -> None:
        self.folder, self.server = folder, server
        self.artefact = Storage.at(folder / "run")
        self.notes: list[str] = []
        self.endpoint: dict[str, Any] = {
            "model": "test-model",
            "embedding_model": "test-model",
            "attempts": 4,
        }
        self.settings: dict[str, Any] = {}
        self._ledger: Ledger | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the run used, when it was last open."""
        assert self._ledger is not None
        return self._ledger.totals()

    @property
    def cassette(self) -> Path:
        """The run's cassette."""
        return self.artefact.path("cassette.jsonl")

    def beside(self, name: str, server: LlmServer | None) -> "Bench":
        """Return another run with the same settings."""
        other = Bench(self.folder / name, server)
        other.settings = dict(self.settings)
        return other

    def made(self) -> InterpretSettings:
        """Return the run's settings."""
        url = "http://127.0.0.1:9/v1" if self.server is None else self.server.url
        given = {"endpoint": {"base_url": url, **self.endpoint}, **self.settings}
        return InterpretSettings.model_validate({"features": "series/name", **given})

    def question(self, n: int = 0, *, form: Form | None = None, logprobs: int = 0) -> Request:
        """Return one of many questions."""
        messages = [Message("system", "say"), Message("user", f"what is {n}?")]
        asking = Asking(self.made().endpoint, seed=0)
        return asking.chat(messages, purpose=f"question {n}", form=form, logprobs=logprobs)

    def vectors(self, *texts: str) -> Request:
        """Return a question for the vectors of texts."""
        return Asking(self.made().endpoint, seed=0).embed(texts, purpose="vectors")

    @asynccontextmanager
    async def opened(self, **given: Any) -> AsyncIterator[Asker]:
        """Open what answers its requests."""
        given = {"waits": QUICK, "note": self.notes.append, **given}
        async with open_asker(self.made(), self.artefact, name="run", **given) as asker:
            self._ledger = asker.ledger
            yield asker

    def ask(self, *requests: Request, seal: bool = False, **given: Any) -> list[Answer]:
        """Return the answers to requests that are made at once."""

        async def all_of_them() -> list[Answer]:
            async with self.opened(**given) as asker:
                answers = await asyncio.gather(*map(asker.ask, requests))
                if seal:
                    asker.seal()
            return list(answers)

        return asyncio.run(all_of_them())
