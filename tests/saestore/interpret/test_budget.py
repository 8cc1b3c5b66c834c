"""A budget is never passed, whatever is asked and however answers come."""

import asyncio

import pytest
from hypothesis import given, strategies as st

from saestore.errors import BudgetError
from saestore.interpret.budget import Ledger, Tokens, bound
from saestore.interpret.request import Answer, Asking, Form, Message, Request
from saestore_schemas.interpret import EndpointSettings, PriceSettings, SpendingSettings


PRICES = {"dear": PriceSettings(prompt=3.0, completion=15.0), "cheap": PriceSettings(prompt=0.1)}


def request(model, size, limit, n=0):
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "x" * size}],
        "max_tokens": limit,
        "n": n,
    }
    return Request("chat/completions", body)


def answer(prompt, completion):
    return Answer("0", "", "stop", prompt, completion, 0, "m")


asked = st.tuples(
    st.sampled_from(["dear", "cheap"]),
    st.integers(0, 2000),  # bytes of the prompt
    st.integers(1, 500),  # most tokens of the answer
    st.floats(0, 1),  # share of the bound that it takes
    st.integers(0, 3),  # turns that it takes
    st.booleans(),  # whether it is answered at all
)


@given(
    st.lists(asked, max_size=12),
    st.one_of(st.none(), st.integers(1, 6000)),
    st.one_of(st.none(), st.floats(1e-6, 0.02)),
)
def test_no_sequence_of_requests_passes_the_budget(requests, tokens, money):
    budget = SpendingSettings(tokens=tokens, money=money)
    ledger = Ledger("run", PRICES, budget)
    seen = []

    async def one(n, given):
        model, size, limit, share, turns, answered = given
        try:
            kept = await ledger.reserve(request(model, size, limit, n))
        except BudgetError as error:
            seen.append(error)
            return
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
            if answered:
                used = answer(int(kept.tokens.prompt * share), int(kept.tokens.completion * share))
                ledger.count(model, used, attempts=1)
        finally:
            ledger.release(kept)
        assert tokens is None or ledger.tokens <= tokens
        assert money is None or ledger.money <= money + 1e-12

    async def all_of_them():
        await asyncio.gather(*(one(n, each) for n, each in enumerate(requests)))

    asyncio.run(all_of_them())
    if tokens is None and money is None:
        assert not seen


def test_all_that_fits_is_asked():
    ledger = Ledger("run", {}, SpendingSettings(tokens=2 * bound(request("m", 100, 50)).total))

    async def one(n):
        kept = await ledger.reserve(request("m", 100, 50, n))
        await asyncio.sleep(0)
        ledger.count("m", answer(10, 5), attempts=1)
        ledger.release(kept)

    async def all_of_them():
        return await asyncio.gather(*map(one, range(100)), return_exceptions=True)

    found = asyncio.run(all_of_them())
    left = ledger.budget.tokens - ledger.tokens
    assert left < bound(request("m", 100, 50)).total
    assert {type(each) for each in found} == {BudgetError, type(None)}


def test_a_request_that_waits_is_let_in_when_there_is_room():
    size = bound(request("m", 100, 50)).total
    ledger = Ledger("run", {}, SpendingSettings(tokens=size + 20))

    async def two():
        first = await ledger.reserve(request("m", 100, 50))
        waiting = asyncio.create_task(ledger.reserve(request("m", 100, 50, 1)))
        await asyncio.sleep(0)
        assert not waiting.done()
        ledger.count("m", answer(10, 5), attempts=1)
        ledger.release(first)
        await waiting

    asyncio.run(two())


def test_a_budget_error_says_what_is_used_of_what():
    ledger = Ledger("run", PRICES, SpendingSettings(tokens=100, money=0.5))
    ledger.count("dear", answer(60, 20), attempts=2)
    with pytest.raises(
        BudgetError, match=r"run stopped after 1 requests: 80 tokens and 0\.00048"
    ) as caught:
        asyncio.run(ledger.reserve(request("dear", 10, 30)))
    assert "raise the budget" in caught.value.hint


def test_totals_count_what_was_paid():
    ledger = Ledger("run", PRICES, SpendingSettings())
    ledger.count("dear", answer(1_000_000, 100_000), attempts=1)
    ledger.count("cheap", answer(2_000_000, 0), attempts=3)
    ledger.count("dear", answer(5, 5), attempts=0)
    assert ledger.totals() == {
        "requests": 2, "reused": 1, "retries": 2, "prompt_tokens": 3_000_000,
        "completion_tokens": 100_000, "cost": 3.0 + 1.5 + 0.2, "unpriced": [],
    }  # fmt: skip
    assert ledger.cost_of("dear", answer(1000, 1000)) == pytest.approx(0.018)
    assert ledger.cost_of("unknown", answer(1, 1)) is None
    ledger.count("unknown", answer(1, 1), attempts=1)
    assert ledger.cost is None
    assert ledger.unpriced == ["unknown"]


@given(st.permutations([("dear", 11, 7), ("cheap", 3, 0), ("dear", 5, 5), ("cheap", 1, 9)]))
def test_the_sum_does_not_depend_on_the_order_of_answers(order):
    ledger = Ledger("run", PRICES, SpendingSettings())
    for model, prompt, completion in order:
        ledger.count(model, answer(prompt, completion), attempts=1)
    assert ledger.money == (16 * 3.0 + 12 * 15.0) / 1e6 + 4 * 0.1 / 1e6


def test_a_bound_covers_texts_of_any_script_and_the_form():
    asking = Asking(EndpointSettings(model="m", embedding_model="e", max_tokens=70), seed=0)
    said = [Message("system", "a" * 10), Message("user", "\N{HAIR SPACE}" * 10)]
    plain = bound(asking.chat(said, purpose=""))
    assert plain.prompt >= 10 + 30
    assert plain.completion == 70
    formed = bound(asking.chat(said, purpose="", form=Form("f", {"type": "object"})))
    assert formed.prompt > plain.prompt + len('{"type": "object"}')
    vectors = bound(asking.embed(["a" * 9, "é" * 9], purpose=""))
    assert vectors.prompt >= 27
    assert vectors.completion == 0
    assert Tokens(10, 3).total == 13


def test_an_endpoint_that_counts_more_is_reckoned_with_from_then_on():
    most = bound(request("m", 100, 50))
    ledger = Ledger("run", {}, SpendingSettings(tokens=10 * most.total))
    assert not ledger.surprised(request("m", 100, 50), answer(most.prompt, 50))
    assert ledger.surprised(request("m", 100, 50), answer(most.prompt, 150))
    kept = asyncio.run(ledger.reserve(request("m", 100, 50)))
    assert kept.tokens == Tokens(3 * most.prompt, 150)
