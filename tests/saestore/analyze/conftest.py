"""What tests of interrupted analyses look at."""

import pytest

from saestore.analyze import encode


@pytest.fixture
def encoded_spans(monkeypatch):
    """The stretches of rows that are encoded meanwhile, in order."""
    found, plain = [], encode.firings

    def noted(*given, span, **more):
        found.append(span)
        return plain(*given, span=span, **more)

    monkeypatch.setattr(encode, "firings", noted)
    return found
