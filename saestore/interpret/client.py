"""Who answers requests: cassettes first, then an endpoint, within the budget.

    async with open_asker(settings, artefact, name="run") as asker:
        answer = await asker.ask(request)
        asker.seal()

What was answered once is never asked again. A request is sent again where that may help: at once in
another form, else after a pause that the endpoint asks for, or that doubles. What cannot be helped ends
the run, and everyone who asks is told the same.
"""

import asyncio
import copy
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import JsonValue

from saestore.errors import EndpointError, ReplayError, SaestoreError
from saestore.interpret import refusals, wire
from saestore.interpret.budget import Ledger
from saestore.interpret.cassette import Cassette, Line, Shelf, cassette_at
from saestore.interpret.endpoint import Endpoint, Refused, Unreached
from saestore.interpret.request import Answer, Request
from saestore.interpret.retry import Pause, Waits, asked_for
from saestore.lake import Storage
from saestore_schemas.interpret import InterpretSettings


_LEAVE_S = 20.0
"""Seconds that requests under way are given to end when a run stops: they are paid for."""

_SOON_S = 0.5
"""Seconds of that which nobody needs to be told of."""

_TOLD_S = 10.0
"""Pauses this long are told of, each."""

_NEXT_FORM: Mapping[str, Literal["json_object", "none"]] = {
    "json_schema": "json_object",
    "json_object": "none",
}


@runtime_checkable
class Ask(Protocol):
    """Something that answers requests: an endpoint, with a cassette before it; or a cassette alone."""

    async def ask(self, request: Request) -> Answer:
        """Return the answer.

        Raises:
            EndpointError: It cannot be reached or refuses, for good.
            BudgetError: It could take more than the budget leaves.
            ReplayError: Only a cassette answers, and it has none.
        """
        ...


@dataclass
class Asker:
    """Answers the requests of one run.

    Attributes:
        shelf: Its cassettes.
        ledger: What it used.
        endpoint: Who is asked; None, nobody.
        concurrency: Requests under way at once.
        note: Is told what a person should know.
        waits: Pauses between attempts.
    """

    shelf: Shelf
    ledger: Ledger
    endpoint: Endpoint | None
    concurrency: int
    note: Callable[[str], None]
    waits: Waits = field(default_factory=Waits)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.concurrency)
        self._pause = Pause()
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._sending: set[str] = set()
        self._told: set[str] = set()
        self._refused_forms: set[str] = set()
        self._ended: SaestoreError | None = None
        self._sealed = False

    async def ask(self, request: Request) -> Answer:
        """Return the answer; the same request is sent once, however often and by whomever it is asked.

        Raises:
            EndpointError: The endpoint cannot be reached or refuses, for good.
            BudgetError: It could take more than the budget leaves.
            ReplayError: Only cassettes answer, and they have none.
            DamagedArtefactError: A cassette was changed.
            StorageError: The answer cannot be kept: disk full, or the like.
        """
        found = self.shelf.find(request)
        if found is not None:
            answer, added = found
            if added:
                self.ledger.count(str(request.body.get("model")), answer, attempts=0)
            return answer
        if self._ended is not None:
            raise copy.copy(self._ended)
        if self.endpoint is None:
            raise ReplayError(
                cassette=", ".join(each.name for each in (*self.shelf.others, self.shelf.own)),
                request=request.hash,
                purpose=request.purpose or "a request",
            )
        task = self._under_way.get(request.hash)
        if task is None:
            # in a task of its own: whoever asked may be cancelled, and it is paid for
            task = asyncio.create_task(self._one(request, self.endpoint))
            self._under_way[request.hash] = task
            task.add_done_callback(lambda done: self._done(request.hash, done))
        return await asyncio.shield(task)

    def seal(self) -> None:
        """Sort the run's cassette and put it into its folder: all has been asked.

        Raises:
            StorageError: Disk full, read-only or permission; or the store is unreachable.
        """
        self.shelf.own.seal()
        self._sealed = True

    async def close(self) -> None:
        """Let requests that are on their way end, for some seconds, and keep what they bring."""
        waiting = [task for key, task in self._under_way.items() if key not in self._sending]
        for task in waiting:
            task.cancel()
        self._ended = self._ended or _stopped(self.endpoint)
        tasks = list(self._under_way.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_SOON_S)
            if late:
                self.note(
                    f"{len(late)} requests are on their way and paid for: their answers are awaited for "
                    f"{_LEAVE_S:g} s at most; Ctrl-C again leaves at once"
                )
                await asyncio.wait(late, timeout=_LEAVE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sealed:
            self.shelf.own.drop()
        else:
            self.shelf.own.keep()

    def _done(self, key: str, task: asyncio.Task[Answer]) -> None:
        del self._under_way[key]
        if not task.cancelled() and isinstance(error := task.exception(), SaestoreError):
            self._ended = self._ended or error

    async def _one(self, request: Request, endpoint: Endpoint) -> Answer:
        """Send a request until it is answered; keep and count the answer."""
        async with self._slots:
            if self._ended is not None:
                raise copy.copy(self._ended)
            kept_back = await self.ledger.reserve(request)
            try:
                answer, attempts = await self._answered(request, endpoint)
                self.shelf.own.add(Line(request, answer, attempts))
                self.ledger.count(kept_back.model, answer, attempts=attempts)
                if self.ledger.surprised(request, answer):
                    self._tell(
                        "more",
                        f"the endpoint counts {self.ledger.factor:.2g} times the tokens that a request "
                        "should take at most: as many times more is kept back of the budget",
                    )
            finally:
                self.ledger.release(kept_back)
        return answer

    async def _answered(self, request: Request, endpoint: Endpoint) -> tuple[Answer, int]:
        """Return the answer, and how often it was asked for."""
        sent = failed = 0
        while True:
            await self._pause.over()
            if self._ended is not None:
                raise copy.copy(self._ended)
            body = self._in_form(request.body)
            self._sending.add(request.hash)
            try:
                outcome = await endpoint.send(request.path, body)
            finally:
                self._sending.discard(request.hash)
            sent += 1
            if isinstance(outcome, dict):
                try:
                    return self._read(request, outcome, endpoint), sent
                except wire.UnreadableError as error:
                    outcome = Unreached(f"answered {request.path} with what is no answer: {error}")
            if isinstance(outcome, Refused) and refusals.about_form(outcome, body):
                self._other_form(body, outcome)
                continue
            failed += 1
            await self._wait(outcome, endpoint, body, failed)

    def _read(self, request: Request, sent: dict[str, Any], endpoint: Endpoint) -> Answer:
        found = wire.read(request, sent, hide=endpoint.key.hide)
        if not found.counted:
            self._tell(
                "usage",
                "the endpoint does not say how many tokens it used: the most it can have been is counted",
            )
        return found.answer

    async def _wait(
        self,
        outcome: Refused | Unreached,
        endpoint: Endpoint,
        body: Mapping[str, JsonValue],
        failed: int,
    ) -> None:
        """Wait before the next attempt.

        Raises:
            EndpointError: Another would not help, or there were enough.
        """
        helps = not outcome.final if isinstance(outcome, Unreached) else refusals.come_back(outcome)
        seconds = self.waits.after(failed)
        if isinstance(outcome, Refused):
            told = asked_for(outcome.headers, now=datetime.now(UTC))
            seconds = seconds if told is None else told
        too_long = seconds > self.waits.patience_s
        if not helps or too_long or failed >= endpoint.settings.attempts or self._ended:
            self._ended = self._ended or await refusals.final_error(
                outcome, endpoint, body, attempts=failed
            )
            raise copy.copy(self._ended)
        if isinstance(outcome, Refused):
            said = f"{outcome.status}: {outcome.message}"
            if refusals.everyone_waits(outcome):
                self._pause.until(seconds)
        else:
            said = outcome.reason
        self._tell(
            f"{seconds}" if seconds >= _TOLD_S else "attempts",
            f"the endpoint does not answer for now ({said}); it is asked again after {seconds:g} s",
        )
        await asyncio.sleep(seconds)

    def _in_form(self, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Return a body whose answer is wanted in a form that was not refused yet."""
        while (form := _form(body)) in self._refused_forms:
            rest = {name: value for name, value in body.items() if name != "response_format"}
            following = _NEXT_FORM[form]
            body = rest if following == "none" else {**rest, "response_format": {"type": following}}
        return body

    def _other_form(self, body: Mapping[str, JsonValue], refused: Refused) -> None:
        form = _form(body)
        self._refused_forms.add(form)
        self._tell(
            form,
            f"the endpoint refuses response_format {form} ({refused.message}); "
            f"it is asked with {_NEXT_FORM[form]}",
        )

    def _tell(self, what: str, message: str) -> None:
        """Say something once."""
        if what not in self._told:
            self._told.add(what)
            self.note(message)


def _form(body: Mapping[str, JsonValue]) -> str:
    found = body.get("response_format")
    return str(found.get("type")) if isinstance(found, dict) else "none"


def _stopped(endpoint: Endpoint | None) -> EndpointError:
    return EndpointError(
        place=endpoint.settings.base_url if endpoint is not None else "of a replay",
        reason="is no longer asked: the run stops",
        expected="a run that goes on",
        hint="what was answered is kept: run the same command again to go on",
    )


@asynccontextmanager
async def open_asker(
    settings: InterpretSettings,
    artefact: Storage,
    *,
    name: str,
    replay: str | PathLike[str] | None = None,
    cassettes: Sequence[str | PathLike[str]] = (),
    note: Callable[[str], None] = lambda _: None,
    waits: Waits | None = None,
) -> AsyncIterator[Asker]:
    """Open what answers the requests of a run; on leaving, what was answered is kept.

    Args:
        settings: Of the run.
        artefact: Its folder, which nobody else writes to.
        name: What messages call it.
        replay: A cassette that alone answers: nobody is asked, and no key is needed.
        cassettes: Others that are asked before the endpoint.
        note: Is told, once each, what a person should know.
        waits: Pauses between attempts; absent, 1 s and more.

    Raises:
        ConfigError: There is no key.
        DamagedArtefactError: A line of a cassette is not what was written.
        MissingExtraError: openai is not installed.
        StorageError: A cassette is not there, or the run's cannot be written.
    """
    async with AsyncExitStack() as stack:
        own = Cassette(artefact, name=name)
        stack.callback(own.close)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saestore-")))
        others = []
        for path in [*([] if replay is None else [replay]), *cassettes]:
            others.append(cassette_at(path, scratch))
            stack.callback(others[-1].close)
        endpoint = None
        if replay is None:
            endpoint = Endpoint(settings.endpoint)
            stack.push_async_callback(endpoint.close)
        ledger = Ledger(name, settings.prices, settings.budget)
        for line in own.lines():
            attempts = line.attempts if replay is None else 0
            ledger.count(str(line.request.body.get("model")), line.answer, attempts=attempts)
        asker = Asker(
            Shelf(own, tuple(others), verbatim=replay is not None),
            ledger,
            endpoint,
            settings.concurrency,
            note,
            waits or Waits(),
        )
        stack.push_async_callback(asker.close)
        yield asker
