"""Values as JSON can say them."""

import datetime as dt
import decimal
import math
from pathlib import PurePath
from typing import Any


def plain(value: Any) -> Any:
    """Return a value as JSON can say it: undefined numbers null, bytes as hexadecimal.

    >>> plain({"a": [float("nan"), b"xy"], 2: (1,)})
    {'a': [None, '7879'], '2': [1]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (dt.date, dt.time, dt.timedelta, decimal.Decimal, PurePath)):
        return str(value)
    return value
