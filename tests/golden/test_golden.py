"""Stores that were written once open for ever, and hold what they held."""

import json
from pathlib import Path
from zipfile import ZipFile

import pytest

from saestore.activations import ActivationStore, verify
from saestore.lake import Lake
from saestore_schemas.activations import StoreRecord
from saestore_schemas.manifest import FORMAT_VERSION
from tests.golden import make


GOLDEN = Path(__file__).parent
STORES = sorted(GOLDEN.glob("v*/*.json"))
NOW = f"v{FORMAT_VERSION}"


@pytest.mark.parametrize("numbers", STORES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_golden_store_holds_what_it_held(numbers, tmp_path):
    with ZipFile(numbers.with_suffix(".zip")) as archive:
        archive.extractall(tmp_path)
    lake = Lake.at(tmp_path)
    assert verify.damage(lake, numbers.stem) == []
    store = ActivationStore.open(lake, numbers.stem)
    held, known = make.numbers(store), json.loads(numbers.read_text())
    # What records say beyond that version's has defaults that mean the same.
    held["record"], known["record"] = store.record, StoreRecord.model_validate(known["record"])
    assert held == known


def test_every_way_of_storing_has_a_golden_store_of_this_version():
    assert {path.stem for path in STORES if path.parent.name == NOW} == set(make.KINDS)


# zstd's bytes are its release's own
@pytest.mark.parametrize("name", [name for name in make.KINDS if not name.endswith("zstd")])
def test_the_same_rows_are_still_the_same_shards(name, tmp_path):
    """What writes other bytes makes another format version."""
    make.make(Lake.at(tmp_path), name)
    with ZipFile(GOLDEN / NOW / f"{name}.zip") as archive:
        shards = [path for path in archive.namelist() if "/hooks/" in path and "/c." in path]
        assert len(shards) == (4 if name == "int8" else 2)  # scales too
        for path in shards:
            assert (tmp_path / path).read_bytes() == archive.read(path), path
