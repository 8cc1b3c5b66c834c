"""Keeping the transformers library quiet: progress is reported by ours, once."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Draw no progress bars and log no advice inside the block."""
    from transformers.utils import logging  # noqa: PLC0415 - seconds

    drawn, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if drawn:
            logging.enable_progress_bar()
