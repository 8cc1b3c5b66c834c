"""The frozen language model: load it, read its hookpoints, patch it, take its loss."""

from saestore.lm.attention import Attention
from saestore.lm.default import default_model
from saestore.lm.hookpoints import HookpointInfo
from saestore.lm.load import layer_count
from saestore.lm.losses import Predictions
from saestore.lm.model import LanguageModel
from saestore.lm.row_map import RowMap, reached
from saestore.lm.tokenizer import LmTokenizer
from saestore.lm.unembedding import FinalNorm, Unembedding
from saestore.lm.vocabulary import vocabulary_of


__all__ = [
    "Attention",
    "FinalNorm",
    "HookpointInfo",
    "LanguageModel",
    "LmTokenizer",
    "Predictions",
    "RowMap",
    "Unembedding",
    "default_model",
    "layer_count",
    "reached",
    "vocabulary_of",
]
