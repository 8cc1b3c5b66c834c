"""Sparse dictionaries: one family per file, one activation function per file."""

from saestore.dictionaries.base import SparseDictionary
from saestore.dictionaries.calibration import Calibrated, Calibration
from saestore.dictionaries.canonical import Canonical, canonical
from saestore.dictionaries.code import DenseCode, RaggedCode, SparseCode, TrainingCode
from saestore.dictionaries.contexts import ContextRows, Contexts
from saestore.dictionaries.host import Host, HostAttention, HostMlp
from saestore.dictionaries.jacobian import jacobian, jacobian_cosine
from saestore.dictionaries.passes import DictionaryOutput, Layer
from saestore.dictionaries.saving import arrays, keep, load, load_folder, save
from saestore.dictionaries.scale import MomentsLike, Scale
from saestore.dictionaries.start import build


__all__ = [
    "Calibrated",
    "Calibration",
    "Canonical",
    "ContextRows",
    "Contexts",
    "DenseCode",
    "DictionaryOutput",
    "Host",
    "HostAttention",
    "HostMlp",
    "Layer",
    "MomentsLike",
    "RaggedCode",
    "Scale",
    "SparseCode",
    "SparseDictionary",
    "TrainingCode",
    "arrays",
    "build",
    "canonical",
    "jacobian",
    "jacobian_cosine",
    "keep",
    "load",
    "load_folder",
    "save",
]
