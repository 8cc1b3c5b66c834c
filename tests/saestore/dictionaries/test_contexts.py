"""Laws of rows with their contexts: a mapping of the wanted rows, whole where somebody attends."""

import pytest
import torch

from saestore.dictionaries import ContextRows, Contexts, contexts
from saestore.errors import HookpointNotFoundError


HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


def given():
    rows = {hook: torch.arange(22.0).reshape(11, 2) + 100 * n for n, hook in enumerate(HOOKS)}
    layout = Contexts(
        torch.tensor([0, 4, 5, 11]),
        torch.tensor([0, 1, 1, 2, 1, 0, 0, 1, 1, 2, 2]),
        torch.tensor([1, 3, 4, 7, 8, 10]),
    )
    return ContextRows(rows, layout)


def test_it_is_a_mapping_of_the_wanted_rows():
    one = given()
    assert list(one) == list(HOOKS)
    assert len(one) == 2
    assert HOOKS[0] in one
    assert "elsewhere" not in one
    assert one.get("elsewhere") is None
    for hook in HOOKS:
        assert torch.equal(one[hook], one.whole[hook][one.contexts.wanted])


def test_a_part_is_some_of_the_rows_with_the_contexts_of_these():
    one = given()
    for start in range(7):
        for stop in range(start, 7):
            part = contexts.part(one, start, stop)
            for hook in HOOKS:
                assert torch.equal(part[hook], one[hook][start:stop])
                touched = {
                    int(torch.searchsorted(one.contexts.offsets, w, right=True)) - 1
                    for w in one.contexts.wanted[start:stop]
                }
                rows = [row for row in range(11) if owner(row) in touched]
                assert torch.equal(part.whole[hook], one.whole[hook][rows])
                assert torch.equal(part.contexts.documents, one.contexts.documents[rows])
            assert int(part.contexts.offsets[-1]) == len(part.contexts.documents)


def owner(row):
    return 0 if row < 4 else 1 if row < 5 else 2


def test_changes_and_choices_keep_the_contexts():
    one = given()
    changed = contexts.each(one, lambda hook, rows: rows * (2 if hook == HOOKS[0] else 3))
    assert torch.equal(changed[HOOKS[1]], 3 * one[HOOKS[1]])
    assert torch.equal(contexts.only(changed, HOOKS[:1])[HOOKS[0]], 2 * one[HOOKS[0]])
    with pytest.raises(HookpointNotFoundError):
        contexts.only(one, ("elsewhere",))


def test_plain_rows_are_one_context():
    rows = torch.zeros(5, 2)
    whole, layout = contexts.around({HOOKS[0]: rows}, HOOKS[0])
    assert whole is rows
    assert layout.spans() == [(0, 5, 0, 5)]
    assert layout.positions.tolist() == [0, 1, 2, 3, 4]
    plain = contexts.part({HOOKS[0]: rows}, 1, 3)
    assert plain[HOOKS[0]].shape == (2, 2)


def test_places_and_spans_of_several_contexts():
    layout = given().contexts
    assert layout.positions.tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5]
    assert layout.spans() == [(0, 4, 0, 2), (4, 5, 2, 3), (5, 11, 3, 6)]
    rows = [each.tolist() for each in layout.by_length()]
    assert rows == [[[4]], [[0, 1, 2, 3]], [[5, 6, 7, 8, 9, 10]]]


def test_hidden_is_what_lies_behind_and_other_documents():
    layout = given().contexts
    (rows,) = (each for each in layout.by_length() if each.shape[1] == 6)
    seen = [[key for key in range(6) if not row[key]] for row in layout.hidden(rows)[0].tolist()]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 4, 5]]
