"""Families of sparse dictionaries. A new one is a file and a line here."""

from saestore.dictionaries.base import SparseDictionary
from saestore.dictionaries.clt import CrossLayerTranscoder
from saestore.dictionaries.crosscoder import CrossCoder
from saestore.dictionaries.lorsa import Lorsa
from saestore.dictionaries.molt import Molt
from saestore.dictionaries.sae import Sae
from saestore.dictionaries.transcoder import Transcoder


FAMILIES: dict[str, type[SparseDictionary]] = {
    family.family: family
    for family in (Sae, Transcoder, CrossCoder, CrossLayerTranscoder, Lorsa, Molt)
}
"""Name in settings and `config.json` to class."""
