"""Damaged and foreign files are refused, and each refusal says what it found."""

import json

import pytest
import safetensors.torch
import torch

from saestore import dictionaries
from saestore.dictionaries import tensor_file
from saestore.errors import DamagedArtefactError, FormatVersionError, UnsupportedError
from saestore.lake import Storage
from saestore.testing.dictionaries import random_sae
from saestore_schemas.dictionary import TopK


@pytest.fixture
def folder(tmp_path):
    place = Storage.at(tmp_path)
    dictionaries.save(random_sae(TopK(k=4), dtype=torch.float32), place)
    return place


def rewritten(folder, **changes):
    tensors, metadata = tensor_file.parse(folder.read("weights.safetensors"))
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    folder.write("weights.safetensors", tensor_file.dump(tensors, metadata))


def test_parts_of_a_file_are_the_tensors_themselves():
    tensor = torch.arange(6.0)
    parts = tensor_file.parts({"a": tensor}, {})
    before = b"".join(parts)
    tensor[2] = -1
    assert b"".join(parts) != before
    assert b"".join(parts) == tensor_file.dump({"a": tensor}, {})


def test_the_safetensors_package_reads_what_is_written(folder):
    theirs = safetensors.torch.load(folder.read("weights.safetensors"))
    mine = dictionaries.load_folder(folder).tensors()
    assert set(theirs) == {*mine, "scale.blocks.2.hook_resid_post.mean"}
    assert all(torch.equal(theirs[name], tensor) for name, tensor in mine.items())
    with safetensors.safe_open(folder.path("weights.safetensors"), "pt") as opened:
        assert opened.metadata() == {"format": "saestore.dictionary", "format_version": "1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_enc": None}, "b_enc: missing"),
        ({"W_skip": torch.zeros(2)}, "W_skip: unknown tensor"),
        ({"b_dec": torch.zeros(8)}, r"b_dec: .*\[8\], expected .*\[7\]"),
        ({"b_dec": torch.zeros(7).double()}, "b_dec: torch.float64"),
        ({"b_dec": torch.full((7,), float("nan"))}, "b_dec: holds NaN"),
    ],
)
def test_weights_that_are_not_the_configs_are_refused(folder, change, message):
    rewritten(folder, **change)
    with pytest.raises(DamagedArtefactError, match=message):
        dictionaries.load_folder(folder)


def test_a_truncated_file_is_refused(folder):
    data = folder.read("weights.safetensors")
    for cut in (0, 5, 100, len(data) - 1):
        folder.write("weights.safetensors", data[:cut])
        with pytest.raises(DamagedArtefactError, match=r"weights\.safetensors"):
            dictionaries.load_folder(folder)


def test_foreign_weights_are_refused(folder):
    folder.write("weights.safetensors", safetensors.torch.save({"W_enc": torch.zeros(7, 11)}))
    with pytest.raises(DamagedArtefactError, match="header does not say"):
        dictionaries.load_folder(folder)


def test_a_missing_file_is_named(folder):
    folder.remove("config.json")
    with pytest.raises(DamagedArtefactError, match=r"config\.json: missing"):
        dictionaries.load_folder(folder)


def test_an_unknown_value_in_the_config_is_refused_and_named(folder):
    config = json.loads(folder.read("config.json"))
    config["semantics"]["l0_scope"] = "galaxy"
    folder.write("config.json", json.dumps(config).encode())
    with pytest.raises(DamagedArtefactError, match=r"semantics\.l0_scope.*galaxy"):
        dictionaries.load_folder(folder)


@pytest.mark.parametrize(
    ("text", "error"), [(b"{", DamagedArtefactError), (b"[]", DamagedArtefactError)]
)
def test_a_config_that_is_none_is_refused(folder, text, error):
    folder.write("config.json", text)
    with pytest.raises(error):
        dictionaries.load_folder(folder)


def test_another_format_version_is_refused(folder):
    config = json.loads(folder.read("config.json"))
    folder.write("config.json", json.dumps({**config, "format_version": 9}).encode())
    with pytest.raises(FormatVersionError):
        dictionaries.load_folder(folder)
    folder.write("config.json", json.dumps({**config, "format": "other"}).encode())
    with pytest.raises(DamagedArtefactError, match="'other'"):
        dictionaries.load_folder(folder)


def test_weights_of_another_type_are_not_saved(tmp_path):
    with pytest.raises(UnsupportedError, match="float64"):
        dictionaries.save(random_sae(TopK(k=4)), Storage.at(tmp_path))
