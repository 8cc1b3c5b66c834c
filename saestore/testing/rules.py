"""Features whose rule is known in words, planted in an analysis: what an explanation should say.

A rule says itself in one phrase and is read back from it, so that who is told the phrase can apply it:
`fires on: w3 10 | w8 5`, `fires after: w5 10`, `fires in texts with: w41 10 | w42 10`, each word with the
strength, of 10, that belongs to it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from saestore.lake import Lake, Ref
from saestore.testing.analyses import Planted, planted_analysis


Kind = Literal["on", "after", "in texts with"]

_SAID = re.compile(r"fires (on|after|in texts with): (\w+ \d+(?: \| \w+ \d+)*)")
_LARGEST = 4.0
"""The value of strength 10."""
_WORDS, _DIALECT = 24, range(41, 51)
"""Words that stand everywhere, and words of one source alone."""


@dataclass(frozen=True)
class Rule:
    """When a feature fires.

    Attributes:
        kind: Whether on a word, on the word after it, or on all words of a text that has it.
        strengths: Words with the strength of firing, 1 to 10.
    """

    kind: Kind
    strengths: Mapping[str, int]

    @classmethod
    def read(cls, text: str) -> "Rule | None":
        """Return the rule that an explanation says; None if it says none."""
        found = _SAID.search(text)
        if found is None:
            return None
        pairs = (each.split(" ") for each in found[2].split(" | "))
        kind: Kind = (
            "on" if found[1] == "on" else "after" if found[1] == "after" else "in texts with"
        )
        return cls(kind, {word: int(strength) for word, strength in pairs})

    @property
    def said(self) -> str:
        """The rule in words."""
        return f"fires {self.kind}: " + " | ".join(f"{w} {s}" for w, s in self.strengths.items())

    def applied(self, words: Sequence[str]) -> list[int]:
        """Return how strongly it fires on each word of a text: 0 to 10."""
        each = [self.strengths.get(word, 0) for word in words]
        if self.kind == "on":
            return each
        if self.kind == "after":
            return [0, *each[:-1]] if words else []
        return [max(each, default=0)] * len(words)


ON = Rule("on", {"w3": 10, "w8": 5})
AFTER = Rule("after", {"w5": 10})
SOURCE = Rule("in texts with", {f"w{n}": 10 for n in _DIALECT})
OTHERS = Rule("on", {"w4": 10, "w9": 3, "w3": 1})
NEVER = Rule("on", {"w55": 10})
RULES = (ON, AFTER, SOURCE, OTHERS, NEVER)
"""The rules of features 0 to 4: a token, the token before, a source, a feature like the first, and a word
that stands nowhere."""


def rules_analysis(lake: Lake, *, contexts: int = 240, seed: int = 0) -> Ref:
    """Analyse activations that follow `RULES`; the source of every third context has words of its own.

    Args:
        lake: Where.
        contexts: How many contexts.
        seed: Of their texts.
    """
    rng = np.random.default_rng((seed, 11))
    lengths = rng.integers(8, 20, contexts)
    tokens = rng.integers(1, _WORDS + 1, int(lengths.sum()))
    starts = np.cumsum(lengths) - lengths
    for start, length in zip(starts[::3], lengths[::3], strict=True):
        some = slice(start + 2, start + length, 4)
        tokens[some] = rng.choice(_DIALECT, len(tokens[some]))
    tokens[starts] = 0
    values = np.zeros((len(tokens), len(RULES)), np.float32)
    for start, length in zip(starts, lengths, strict=True):
        here = slice(start + 1, start + length)
        words = [f"w{token}" for token in tokens[here]]
        for feature, rule in enumerate(RULES):
            values[here, feature] = np.array(rule.applied(words)) * np.float32(_LARGEST / 10)
    known = Planted(values, tokens, tokens != 0, lengths)
    ref, _ = planted_analysis(lake, planted=known)
    return ref
