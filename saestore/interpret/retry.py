"""How long to wait before a request is sent again, and who waits."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Waits:
    """Pauses between the attempts of one request, where the endpoint names none.

    Attributes:
        first_s: Seconds after the first; twice as many after each further one.
        most_s: Seconds at most.
        patience_s: Most seconds that an endpoint may ask for; a run ends rather than wait longer.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    patience_s: float = 3600.0

    def after(self, attempt: int) -> float:
        """Return the seconds after an attempt, numbered from 1.

        >>> [Waits().after(n) for n in (1, 2, 3, 7, 8)]
        [1.0, 2.0, 4.0, 60.0, 60.0]
        """
        return min(self.most_s, self.first_s * 2.0 ** min(attempt - 1, 64))


def asked_for(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return for how many seconds an endpoint asks to be left alone; None, it does not say.

    Args:
        headers: Of its answer, names in lower case. `retry-after` is in seconds or a date, as HTTP has
            it; `retry-after-ms` is finer and OpenAI's own.
        now: The time.

    >>> asked_for(
    ...     {"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, now=datetime(2026, 1, 1, tzinfo=UTC)
    ... )
    30.0
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        try:
            seconds = float(text) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


class Pause:
    """A pause that all workers share: an endpoint that is asked too often is left alone by everyone."""

    def __init__(self) -> None:
        self._until = -math.inf

    def until(self, seconds: float) -> None:
        """Begin a pause of so many seconds from now, or lengthen the one that goes on."""
        self._until = max(self._until, asyncio.get_running_loop().time() + seconds)

    async def over(self) -> None:
        """Return when there is no pause, or none any more."""
        left = self._until - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.sleep(left)
            await self.over()  # somebody may have lengthened it
