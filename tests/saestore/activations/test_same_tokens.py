"""Stores that can be trained on together are told from those that cannot, and why."""

import numpy as np
import pytest

from saestore.activations import same_tokens as module
from saestore.activations.same_tokens import same_tokens
from saestore.testing import stores as testing
from saestore.testing.stores import synthetic_rows


def synthetic_store(lake, name, **given):
    return testing.synthetic_store(lake, name, **({"rows": 300} | given))


def tokens_of(rows=300, *, seed=0):
    tokens = np.random.default_rng(seed).integers(1, 58, rows)
    tokens[::32] = 0
    return tokens


def test_other_activations_of_the_same_tokens_are_together(lake):
    tokens = tokens_of()
    stores = [
        synthetic_store(
            lake, name, tokens=tokens, dtype=dtype,
            values={hook: synthetic_rows(300, width, seed=width)},
        )
        for name, dtype, hook, width in [
            ("a", "float32", "blocks.1.hook_resid_post", 7),
            ("b", "bfloat16", "blocks.9.hook_mlp_out", 33),
            ("c", "float16", "blocks.0.hook_resid_pre", 5),
        ]
    ]  # fmt: skip
    found = same_tokens(stores)
    assert found.same
    assert found.groups == (("a", "b", "c"),)
    assert [(each.store, each.beside, each.differences) for each in found.compared] == [
        ("b", "a", ()), ("c", "a", ()),
    ]  # fmt: skip
    assert same_tokens(stores[:1]).same


def test_the_first_other_token_is_placed_and_all_are_counted(lake, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 50)
    tokens = tokens_of()
    changed = tokens.copy()
    changed[[100, 101, 290]] = [57, 57, 57]
    tokens[[100, 101, 290]] = [3, 3, 3]
    one = synthetic_store(lake, "base", tokens=tokens)
    other = synthetic_store(lake, "other", tokens=changed)
    twin = synthetic_store(lake, "twin", tokens=changed)
    found = same_tokens([one, other, twin])
    assert found.groups == (("base",), ("other", "twin"))
    assert [(each.store, each.beside) for each in found.compared] == [
        ("other", "base"), ("twin", "other"),
    ]  # fmt: skip
    (difference,) = found.compared[0].differences
    assert (difference.part, difference.count, difference.total) == ("tokens", 3, 300)
    assert difference.first.startswith("row 100 (context 3, position 4), after '<bos> w")
    assert difference.first.endswith("' w3' (3) in base, ' w57' (57) in other")
    assert found.compared[1].together


def test_contexts_cut_elsewhere_are_named_and_the_rows_before_are_compared(lake):
    tokens = tokens_of()
    one = synthetic_store(lake, "one", tokens=tokens, lengths=np.array([100, 100, 100]))
    other = synthetic_store(lake, "other", tokens=tokens, lengths=np.array([100, 120, 80]))
    shorter = synthetic_store(
        lake, "shorter", tokens=tokens[:200], rows=200, lengths=np.array([100, 100])
    )
    found = same_tokens([one, other, shorter])
    assert not found.same
    first, second = found.compared
    (contexts,) = first.differences
    assert (contexts.part, contexts.count, contexts.total) == ("contexts", 2, 3)
    assert contexts.first == (
        "context 1, which begins with row 100, has 100 tokens in one, 120 in other"
    )
    assert second.differences[0].first == "one has 3 contexts, shorter 2"


def test_other_flags_and_documents_are_said_and_part_nothing(lake):
    tokens = tokens_of()
    one = synthetic_store(lake, "one", tokens=tokens)
    flags = (tokens == 0).astype(np.uint8)
    flags[40] = 2
    other = synthetic_store(lake, "other", tokens=tokens, flags=flags)
    found = same_tokens([one, other])
    assert found.same
    (difference,) = found.compared[0].differences
    assert (difference.part, difference.count, difference.apart) == ("flags", 1, False)
    assert difference.first.startswith("row 40 (context 1, position 8), ' w")
    assert difference.first.endswith("flags 0 in one, 2 in other")


def test_another_tokenizer_is_named_even_if_all_ids_are_equal(lake, monkeypatch):
    tokens = tokens_of()
    one = synthetic_store(lake, "one", tokens=tokens)
    table = testing.synthetic_vocabulary()
    pieces = table["bytes"].to_pylist()
    pieces[5], pieces[6] = pieces[6], pieces[5]
    names = [piece.decode(errors="replace") for piece in pieces]
    swapped = table.set_column(1, "token", [names]).set_column(2, "bytes", [pieces])
    monkeypatch.setattr(testing, "synthetic_vocabulary", lambda: swapped)
    other = synthetic_store(lake, "other", tokens=tokens)
    found = same_tokens([one, other])
    assert not found.same
    (difference,) = found.compared[0].differences
    assert (difference.part, difference.count) == ("vocabulary", 2)
    assert "id 5 is ' w5' to synthetic (one), ' w6' to synthetic (other)" in difference.first


@pytest.mark.parametrize("seeds", [(0, 0, 1), (0, 1, 0), (1, 0, 0)])
def test_the_order_of_stores_leaves_who_belongs_to_whom(lake, seeds):
    stores = [
        synthetic_store(lake, f"s{n}", tokens=tokens_of(seed=seed)) for n, seed in enumerate(seeds)
    ]
    groups = {frozenset(group) for group in same_tokens(stores).groups}
    expected = {
        frozenset(f"s{n}" for n, seed in enumerate(seeds) if seed == each) for each in (0, 1)
    }
    assert groups == expected
