"""Sparse dictionaries: one family per file, one activation function per file."""

from saestore.dictionaries.base import DictionaryOutput, SparseDictionary
from saestore.dictionaries.code import DenseCode, PaddedCode, SparseCode, TrainingCode
from saestore.dictionaries.saving import load, load_folder, save
from saestore.dictionaries.scale import MomentsLike, Scale
from saestore.dictionaries.start import build


__all__ = [
    "DenseCode",
    "DictionaryOutput",
    "MomentsLike",
    "PaddedCode",
    "Scale",
    "SparseCode",
    "SparseDictionary",
    "TrainingCode",
    "build",
    "load",
    "load_folder",
    "save",
]
