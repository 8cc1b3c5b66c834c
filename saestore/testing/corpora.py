"""A tiny corpus with everything that goes wrong in big ones."""

import json
from pathlib import Path


PARAGRAPHS = (
    "The lighthouse keeper climbed the stairs every evening and lit the lamp before the ships came.",
    "A sparse dictionary writes every activation as a sum of a few directions, mostly silent ones.",
    "Return the number of rows in the table. Raises ValueError if the table has no columns.",
    "In 1969 two people walked on the Moon; 600 million others watched them, in 53 countries.",
    'def area(width, height):\n    """Return the area."""\n    return width * height\n',
    "“Not at all,” said the fox — naïve as ever — “I prefer my grapes sour.”",
    "Der Zug nach Köln fährt um 8.15 Uhr; bitte seien Sie pünktlich!",
    "東京の朝は静かで、駅だけが忙しい。",
    "Emoji with joiners 👩‍🔬👨‍👩‍👧 and combining marks: e\u0301, n\u0303, a\u0323\u030a.",
    "one\ttwo\r\nthree\n\n\n   four",
    "She opened the window, and the rain, which had been falling since noon, stopped at once.",
    "for i in range(10):\n    if i % 2:\n        continue\n    print(i, i * i)\n",
    "The committee of the town met on Tuesday to talk about the bridge, the school and the budget.",
    "x = (-b ± √(b² - 4ac)) / 2a, unless a = 0.",
)
"""Prose, code, numbers, three scripts, emoji made of several code points, awkward white space."""


def tiny_documents(n: int = 40) -> list[dict[str, object]]:
    """Return `n` documents with id, text and two metadata fields.

    Among them are empty ones, ones of a single character and one of about 9 000 characters.
    """
    documents = []
    for index in range(n):
        chosen = [PARAGRAPHS[(index * 5 + step * 3) % len(PARAGRAPHS)] for step in range(index % 4)]
        text = " ".join(chosen)
        if index % 11 == 5:
            text = "á"
        if index == n // 2:
            text = " ".join(PARAGRAPHS[(3 * step) % len(PARAGRAPHS)] for step in range(100))
        documents.append(
            {"id": f"doc-{index}", "text": text, "shelf": "ABC"[index % 3], "year": 1990 + index}
        )
    return documents


def tiny_corpus(folder: Path, *, n: int = 40) -> Path:
    """Write `tiny.jsonl` with `tiny_documents(n)` into a folder and return its path."""
    path = folder / "tiny.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(each, ensure_ascii=False) for each in tiny_documents(n)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
