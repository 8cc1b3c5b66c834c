"""What a run used, and whether it may use more: tokens, and money by a table of prices.

Before a request is sent, the most that it could take is reserved, so that requests under way together
never pass the cap. An endpoint that counts more than that (hidden prompts, thoughts beyond the limit) can
pass it once: from then on as many times more is reserved. What was answered is counted as the endpoint counted it. Requests that nobody
answered count nothing: an endpoint that took them and was not heard may bill them all the same.
"""

import asyncio
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pydantic import JsonValue

from saestore.errors import BudgetError
from saestore.interpret.request import Answer, Request
from saestore_schemas.interpret import PriceSettings, SpendingSettings


_PER_REQUEST = 256
_PER_MESSAGE = 16
"""Tokens that chat templates add, at most: some begin with a system prompt of their own."""

MILLION = 1e6
"""Tokens that prices are of."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of one request.

    Attributes:
        prompt: Sent.
        completion: Received.
    """

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        """Both."""
        return self.prompt + self.completion

    def cost(self, price: PriceSettings | None) -> float:
        """Return what they cost; nothing where no price is known."""
        if price is None:
            return 0.0
        return (self.prompt * price.prompt + self.completion * price.completion) / MILLION


def bound(request: Request) -> Tokens:
    """Return the most tokens that a request can take.

    No tokenizer makes more tokens of a text than it has bytes, and no answer is longer than its limit.
    """
    body = request.body
    if request.path == "embeddings":
        texts = body.get("input")
        parts = texts if isinstance(texts, list) else [texts]
        return Tokens(sum(len(str(part).encode()) + _PER_MESSAGE for part in parts), 0)
    messages = body.get("messages")
    parts = messages if isinstance(messages, list) else []
    prompt = _PER_REQUEST + sum(
        len(str(part.get("content")).encode()) + _PER_MESSAGE
        for part in parts
        if isinstance(part, dict)
    )
    if "response_format" in body:  # some endpoints tell the model the form in its prompt
        prompt += len(json.dumps(body["response_format"]))
    limit = body.get("max_completion_tokens", body.get("max_tokens", 0))
    return Tokens(prompt, int(str(limit)))


@dataclass
class Reservation:
    """The most that a request under way can take.

    Attributes:
        model: Which model is asked.
        tokens: Tokens.
        cost: Money.
    """

    model: str
    tokens: Tokens
    cost: float


@dataclass
class Ledger:
    """What a run used and has reserved.

    Attributes:
        name: The run, for messages.
        prices: Of each model.
        budget: What it may use.
        requests: Requests that were answered for this run, this time or before.
        reused: Requests answered by other cassettes.
        retries: How often requests were sent again until they were answered.
        prompt_tokens: Sent with those that were answered.
        completion_tokens: Received.
        money: Their price, of the models that have one.
        models: Models that were asked, with their tokens.
        factor: How many times the most that it should have taken a request took, at least 1.
    """

    name: str
    prices: Mapping[str, PriceSettings]
    budget: SpendingSettings
    requests: int = 0
    reused: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    models: dict[str, Tokens] = field(default_factory=dict)
    factor: float = 1.0
    _reserved: dict[int, Reservation] = field(default_factory=dict)
    _settled: asyncio.Event | None = None

    @property
    def tokens(self) -> int:
        """Tokens that were used."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def unpriced(self) -> list[str]:
        """Models that were asked and have no price."""
        return sorted(model for model in self.models if model not in self.prices)

    @property
    def cost(self) -> float | None:
        """What was used costs; None where a model has no price."""
        return None if self.unpriced else self.money

    def cost_of(self, model: str, answer: Answer) -> float | None:
        """Return the price of one answer; None where its model's is not known."""
        price = self.prices.get(model)
        used = Tokens(answer.prompt_tokens, answer.completion_tokens)
        return None if price is None else used.cost(price)

    async def reserve(self, request: Request) -> Reservation:
        """Keep back the most that a request can take; wait for those under way where that is too much.

        Raises:
            BudgetError: It is too much, and nothing is under way.
        """
        model = str(request.body.get("model"))
        while not self._fits(wanted := self._most(model, request)):
            if not self._reserved:
                raise self._passed()
            if self._settled is None:
                self._settled = asyncio.Event()
            await self._settled.wait()
        self._reserved[id(wanted)] = wanted
        return wanted

    def _most(self, model: str, request: Request) -> Reservation:
        most = bound(request)
        tokens = Tokens(
            math.ceil(most.prompt * self.factor), math.ceil(most.completion * self.factor)
        )
        return Reservation(model, tokens, tokens.cost(self.prices.get(model)))

    def surprised(self, request: Request, answer: Answer) -> bool:
        """Return whether a request took more than was thought possible; it is reckoned with from then on."""
        most = bound(request)
        times = max(
            answer.prompt_tokens / max(1, most.prompt),
            answer.completion_tokens / max(1, most.completion),
        )
        self.factor = max(self.factor, times)
        return times > 1

    def release(self, reservation: Reservation) -> None:
        """Give back what was kept for a request: it is answered and counted, or was given up."""
        with suppress(KeyError):
            del self._reserved[id(reservation)]
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    def count(self, model: str, answer: Answer, *, attempts: int) -> None:
        """Count an answer.

        Args:
            model: Which model was asked.
            answer: What it answered.
            attempts: How often it was sent; 0, another cassette answered.
        """
        if attempts == 0:
            self.reused += 1
            return
        used = Tokens(answer.prompt_tokens, answer.completion_tokens)
        before = self.models.get(model, Tokens(0, 0))
        self.models[model] = Tokens(
            before.prompt + used.prompt, before.completion + used.completion
        )
        self.requests += 1
        self.retries += attempts - 1
        self.prompt_tokens += used.prompt
        self.completion_tokens += used.completion
        # from the sums, so that no order of answers rounds otherwise
        self.money = sum(
            self.models[each].cost(self.prices.get(each)) for each in sorted(self.models)
        )

    def totals(self) -> dict[str, JsonValue]:
        """Return all of it, as a manifest keeps it."""
        return {
            "requests": self.requests,
            "reused": self.reused,
            "retries": self.retries,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost,
            "unpriced": [*self.unpriced],
        }

    def _fits(self, wanted: Reservation) -> bool:
        tokens = self.tokens + wanted.tokens.total
        money = self.money + wanted.cost
        for each in self._reserved.values():
            tokens += each.tokens.total
            money += each.cost
        limits = self.budget
        return (limits.tokens is None or tokens <= limits.tokens) and (
            limits.money is None or money <= limits.money
        )

    def _passed(self) -> BudgetError:
        used, budget = [], []
        if self.budget.tokens is not None:
            used.append(f"{self.tokens:,} tokens")
            budget.append(f"{self.budget.tokens:,} tokens")
        if self.budget.money is not None:
            used.append(f"{self.money:.4g} in money")
            budget.append(f"{self.budget.money:g} in money")
        return BudgetError(
            name=self.name,
            used=" and ".join(used),
            budget=" and ".join(budget),
            done=f"{self.requests:,} requests",
        )
