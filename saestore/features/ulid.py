"""ULIDs: identifiers of 26 characters whose order is that of their making.

48 bits of milliseconds since 1970, then 80 bits that are random, in Crockford's base 32, which leaves out
I, L, O and U. Source: github.com/ulid/spec.
"""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 26
RANDOM_BITS = 80
"""Bits behind the milliseconds."""


def ulid(milliseconds: int, tail: int) -> str:
    """Return the ULID of a moment.

    >>> ulid(1_469_918_176_385, 0)
    '01ARYZ6S410000000000000000'

    Args:
        milliseconds: Since 1970, UTC.
        tail: What tells it from the others of the moment, below 2^80; one more is the next ULID.

    Raises:
        ValueError: One of them is out of its range.
    """
    if not 0 <= milliseconds < 1 << 48 or not 0 <= tail < 1 << RANDOM_BITS:
        msg = f"no ULID has milliseconds {milliseconds} and tail {tail}"
        raise ValueError(msg)
    number = milliseconds << RANDOM_BITS | tail
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_LENGTH)))


def milliseconds_of(text: str) -> int:
    """Return the moment of a ULID, in milliseconds since 1970.

    >>> milliseconds_of("01ARYZ6S410000000000000000")
    1469918176385

    Raises:
        ValueError: It is none.
    """
    if len(text) != _LENGTH:
        msg = f"{text!r} is no ULID"
        raise ValueError(msg)
    number = 0
    for letter in text:
        number = number << 5 | _ALPHABET.index(letter)
    return number >> RANDOM_BITS
