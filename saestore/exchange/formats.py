"""Every format of activations: its kind, what reads it, what writes it.

A format is one file beside this one and one line here; nothing else tests the kind.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from saestore.exchange.arrays import Arrays
from saestore.exchange.llamascopium_chunks import LlamascopiumChunks
from saestore.exchange.saelens_cache import SaeLensCache
from saestore.exchange.source import ActivationSource
from saestore.exchange.target import Format
from saestore.exchange.tensor_files import TensorFiles
from saestore.exchange.write_llamascopium import Llamascopium
from saestore.exchange.write_parquet import Parquet
from saestore.exchange.write_safetensors import Safetensors
from saestore_schemas.exchange import FilesAre


SOURCES: Mapping[str, Callable[[Any, Sequence[str]], ActivationSource]] = {
    "llamascopium": LlamascopiumChunks,
    "sae-lens": SaeLensCache,
    "npy": Arrays,
    "safetensors": TensorFiles,
}
"""Kind of source to what reads it, given its settings and the hookpoints wanted."""

TARGETS: Mapping[FilesAre, Format] = {
    "safetensors": Safetensors(),
    "parquet": Parquet(),
    "llamascopium": Llamascopium(),
}
"""Format of an export to what writes it."""
