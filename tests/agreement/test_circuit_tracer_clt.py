"""A cross-layer transcoder that circuit-tracer wrote computes here what it computes there.

`circuit_tracer_clt/make.py` wrote the files and the numbers with circuit-tracer 0.5.0.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from saestore import dictionaries
from saestore.exchange.dictionaries import export_dictionary, import_dictionary
from saestore.lake import Lake
from saestore_schemas.exchange import ImportDictionarySettings


HERE = Path(__file__).parent / "circuit_tracer_clt"
THEIRS = load_file(HERE / "numbers.safetensors")


def test_its_files_are_read_and_written_back(tmp_path):
    settings = ImportDictionarySettings(
        series="a", name="b", tool="circuit-tracer", path=str(HERE / "theirs")
    )
    lake = Lake.at(tmp_path / "lake")
    conversion = import_dictionary(settings, lake).conversion
    assert conversion.max_error < 1e-9
    found = dictionaries.load(lake, "a/b")
    assert found.config.model.name == "tiny"
    rows = dict(zip(found.hookpoints_in, THEIRS["x"], strict=True))
    code = found.encode(rows).to_dense()
    for own, theirs in zip(code.chunk(len(rows), dim=1), THEIRS["f"], strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-6, atol=1e-6)
        assert ((own != 0) == (theirs != 0)).all()
    for own, theirs in zip(found.reconstruct(rows).values(), THEIRS["y"], strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)
    export_dictionary(found, "circuit-tracer", tmp_path / "out")
    for file in (HERE / "theirs").glob("*.safetensors"):
        assert (tmp_path / "out" / file.name).is_file()
