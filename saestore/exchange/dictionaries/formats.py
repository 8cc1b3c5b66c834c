"""Every format of dictionaries. A format is one file beside this one and one line here."""

from collections.abc import Mapping

from saestore.exchange.dictionaries.circuit_tracer import CircuitTracer
from saestore.exchange.dictionaries.dictionary_learning import DictionaryLearning
from saestore.exchange.dictionaries.foreign import DictionaryFormat, WrittenFormat
from saestore.exchange.dictionaries.gemma_scope import GemmaScope
from saestore.exchange.dictionaries.llama_scope import LlamaScope
from saestore.exchange.dictionaries.llamascopium import Llamascopium
from saestore.exchange.dictionaries.openai import OpenAI
from saestore.exchange.dictionaries.saelens import SaeLens
from saestore.exchange.dictionaries.sparsify import Sparsify
from saestore_schemas.exchange import DictionaryTool, WrittenTool


WRITTEN: Mapping[WrittenTool, WrittenFormat] = {
    "sae-lens": SaeLens(),
    "dictionary-learning": DictionaryLearning(),
    "sparsify": Sparsify(),
    "llamascopium": Llamascopium(),
    "circuit-tracer": CircuitTracer(),
}
"""Tool to what reads and writes its dictionaries."""

FORMATS: Mapping[DictionaryTool, DictionaryFormat] = {
    "sae-lens": WRITTEN["sae-lens"],
    "dictionary-learning": WRITTEN["dictionary-learning"],
    "sparsify": WRITTEN["sparsify"],
    "llamascopium": WRITTEN["llamascopium"],
    "circuit-tracer": WRITTEN["circuit-tracer"],
    "openai": OpenAI(),
    "gemma-scope": GemmaScope(),
    "llama-scope": LlamaScope(),
}
"""Tool to what reads its dictionaries."""
