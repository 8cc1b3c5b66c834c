"""Where SQL statements end, as DuckDB's own tokenizer sees them."""

import duckdb


def split(text: str) -> tuple[list[str], str]:
    """Return the statements that a semicolon ends, without it, and the text after the last one.

    A semicolon in quotes, between dollars or in a comment ends nothing.

    >>> split("SELECT 1; SELECT ';'")
    (['SELECT 1'], "SELECT ';'")
    """
    raw = text.encode()
    tokens = duckdb.tokenize(text)
    ends = [
        at for at, kind in tokens if kind is duckdb.token_type.operator and raw[at : at + 1] == b";"
    ]
    starts = [0, *(at + 1 for at in ends)]
    found = [raw[a:b].decode().strip() for a, b in zip(starts, ends, strict=False)]
    return [each for each in found if each], raw[starts[-1] :].decode().strip()


def empty(text: str) -> bool:
    """Return whether there is nothing to ask in a text: blanks and comments."""
    return all(kind is duckdb.token_type.comment for _, kind in duckdb.tokenize(text))
