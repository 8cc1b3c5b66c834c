"""The language model's tokenizer, without its habits: it adds nothing and cuts nothing off."""

import copy
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from saestore.errors import ConfigError, UnsupportedError
from saestore.lm.place import FIELD, Place, loading
from saestore_schemas.lm import LmSettings


class LmTokenizer:
    """Text to token ids that remember where in the text they began.

    Attributes:
        bos_id: The settings' or the tokenizer's own; None if there is none.
        eos_id: Likewise.
        special_ids: All control tokens, those two among them.
        vendor: The transformers tokenizer behind it.
    """

    def __init__(
        self, vendor: Any, *, bos_id: int | None = None, eos_id: int | None = None
    ) -> None:
        backend = getattr(vendor, "backend_tokenizer", None)
        if backend is None:
            message = f"{type(vendor).__name__} does not say where in the text its tokens begin"
            raise UnsupportedError(
                message, hint="use a model that comes with a tokenizer.json (a fast tokenizer)"
            )
        self.vendor = vendor
        self._backend = copy.deepcopy(backend)
        # A published tokenizer.json may cut or pad by itself.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.bos_id = self._known("bos_token_id", bos_id, vendor.bos_token_id)
        self.eos_id = self._known("eos_token_id", eos_id, vendor.eos_token_id)
        added = self._backend.get_added_tokens_decoder()
        control = {number for number, token in added.items() if token.special}
        control.update(vendor.all_special_ids)
        control.update(each for each in (self.bos_id, self.eos_id) if each is not None)
        self.special_ids: frozenset[int] = frozenset(control)

    @classmethod
    def load(cls, settings: LmSettings, *, field: str = FIELD) -> "LmTokenizer":
        """Return the tokenizer of a model without loading the model.

        Args:
            settings: Which model.
            field: The setting that names it, for errors.

        Raises:
            ConfigError: There is no such model, or it comes without a tokenizer.
            UnsupportedError: Its tokenizer does not say where tokens begin.
        """
        from transformers import AutoTokenizer  # noqa: PLC0415 - seconds

        place = Place.of(settings, field=field)
        with loading(place, "tokenizer"):
            vendor = AutoTokenizer.from_pretrained(
                place.name, revision=place.revision, local_files_only=place.here_only
            )
            backend = getattr(vendor, "backend_tokenizer", None)
            # Without its files transformers makes up a tokenizer that knows no word.
            if backend is not None and not backend.get_vocab_size(with_added_tokens=False):
                raise ValueError("it has no tokenizer files, such as tokenizer.json")
        return cls(vendor, bos_id=settings.bos_token_id, eos_id=settings.eos_token_id)

    def __len__(self) -> int:
        """Return how many tokens there are; the model may have more rows than that."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(
        self, text: str
    ) -> tuple[Int32[np.ndarray, " position"], Int64[np.ndarray, " position"]]:
        """Return token ids, none added, and the code-point offset at which each begins.

        Tokens that share one character, as bytes of an emoji do, begin at the same offset. White
        space that the tokenizer leaves out of its offsets belongs to the token after it.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = np.asarray(encoding.ids, dtype=np.int32)
        spans = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        starts = spans[:, 0].copy()
        if len(starts):
            before = np.concatenate([np.zeros(1, np.int64), spans[:-1, 1]])
            np.minimum(starts, before, out=starts)
        return ids, starts

    def _known(self, field: str, wanted: int | None, own: int | None) -> int | None:
        if wanted is not None and wanted >= len(self):
            raise ConfigError(
                field=f"lm.{field}",
                found=wanted,
                expected=f"a token id below {len(self)}",
                hint=f"leave it out to use the tokenizer's own, {own}",
            )
        return own if wanted is None else wanted
