"""Finding contexts that look like a feature's own, as compiled loops over features.

Scratch is as long as there are contexts or tokens; neither features times contexts nor features times
features ever exists. Threads take features each, and share nothing.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt32

from saestore.compiled import compiled


@compiled
def list_contexts(  # noqa: PLR0917 - arrays of one loop
    order: Int64[np.ndarray, " context"],
    start: Int64[np.ndarray, " context"],
    length: Int64[np.ndarray, " context"],
    tokens: Int32[np.ndarray, " row"],
    kept: Bool[np.ndarray, " row"],
    cursor: Int64[np.ndarray, " vocab"],
    places: UInt32[np.ndarray, " pair"],
) -> None:
    """Write the places of the contexts that hold each token at a kept position, ascending.

    Args:
        order: Contexts in random order.
        start: First row of each context.
        length: Rows of each context.
        tokens: Token of each row.
        kept: Whether the row is kept.
        cursor: Where the first place of each token goes; moved to where the next one would.
        places: Written here; without room they are only counted.
    """
    seen = np.full(len(cursor), -1, np.int64)
    for place in range(len(order)):
        context = order[place]
        for row in range(start[context], start[context] + length[context]):
            token = tokens[row]
            if kept[row] and seen[token] != place:
                seen[token] = place
                if len(places) > 0:
                    places[cursor[token]] = place
                cursor[token] += 1


@compiled
def on_token(  # noqa: C901, PLR0912, PLR0915 - one loop, as machine code wants it
    first: int, stop: int, block: Any, everywhere: Any, wanted: Any, out: Any
) -> None:
    """Find contexts that hold a feature's token at a kept position where it does not fire.

    Args:
        first: First feature of the block that is looked at.
        stop: One past the last.
        block: Ends of the features' runs, from 0; context and position of each firing.
        everywhere: First row and length of each context; token of each row, and whether it is kept; ends of
            the tokens' places, their places, and the contexts in random order.
        wanted: How many; each feature's token; where its random order starts.
        out: How many were found of each feature and how many there are; contexts and positions.
    """
    offsets, context, position = block
    starts, lengths, tokens, kept, ends, places, order = everywhere
    n, token_of, start_of = wanted
    found, eligible, out_context, out_position = out
    filled = np.full(len(order), -1, np.int64)  # the feature that fires wherever its token is
    for feature in range(first, stop):
        low, high = offsets[feature], offsets[feature + 1]
        if low == high:
            continue
        token, covered, at = token_of[feature], 0, low
        while at < high:
            here, on = context[at], 0
            while at < high and context[at] == here:
                on += tokens[starts[here] + position[at]] == token
                at += 1
            if on > 0:
                there = 0
                for row in range(starts[here], starts[here] + lengths[here]):
                    there += tokens[row] == token and kept[row]
                if there == on:
                    filled[here] = feature
                    covered += 1
        a, b = ends[token], ends[token + 1]
        eligible[feature] = b - a - covered
        left = min(n, b - a - covered)
        next_place = a + np.searchsorted(places[a:b], start_of[feature])
        while found[feature] < left:
            if next_place == b:
                next_place = a
            here = order[places[next_place]]
            next_place += 1
            if filled[here] == feature:
                continue
            firing = low + np.searchsorted(context[low:high], here)
            for where in range(lengths[here]):
                row = starts[here] + where
                while firing < high and context[firing] == here and position[firing] < where:
                    firing += 1
                fires = firing < high and context[firing] == here and position[firing] == where
                if tokens[row] == token and kept[row] and not fires:
                    out_context[feature, found[feature]] = here
                    out_position[feature, found[feature]] = where
                    found[feature] += 1
                    break


@compiled
def near_others(  # noqa: C901, PLR0915 - one loop, as machine code wants it
    first: int, stop: int, block: Any, others: Any, wanted: Any, out: Any
) -> None:
    """Find contexts where a feature never fires and others do, those of the first ones first.

    Args:
        first: First feature of the block that is looked at.
        stop: One past the last.
        block: Ends of the features' contexts, from 0; contexts.
        others: Ends of every feature's contexts, from 0; contexts, and where it is largest there.
        wanted: How many; the others of each feature, -1 for none; where its random order starts; the
            random rank of each context.
        out: How many were found of each feature and how many there are; contexts and positions.
    """
    offsets, own = block
    ends, context, position = others
    n, others_of, start_of, rank = wanted
    found, eligible, out_context, out_position = out
    total = len(rank)
    seen = np.full(total, -1, np.int64)  # the feature that has this context, its own or another's
    keys = np.zeros(n, np.int64)
    for feature in range(first, stop):
        for at in range(offsets[feature], offsets[feature + 1]):
            seen[own[at]] = feature
        begun = 0  # contexts of this one and those before it
        for which in range(others_of.shape[1]):
            other = others_of[feature, which]
            if other < 0:
                continue
            held = begun
            for at in range(ends[other], ends[other + 1]):
                here = context[at]
                if seen[here] == feature:
                    continue
                seen[here] = feature
                eligible[feature] += 1
                if begun == n:
                    continue
                key = np.int64(rank[here]) - np.int64(start_of[feature])
                if key < 0:
                    key += total
                if held == n:
                    if key > keys[n - 1]:
                        continue
                    place = n - 1
                else:
                    place = held
                    held += 1
                while place > begun and key < keys[place - 1]:
                    keys[place] = keys[place - 1]
                    out_context[feature, place] = out_context[feature, place - 1]
                    out_position[feature, place] = out_position[feature, place - 1]
                    place -= 1
                keys[place] = key
                out_context[feature, place] = here
                out_position[feature, place] = position[at]
            begun = held
        found[feature] = begun
