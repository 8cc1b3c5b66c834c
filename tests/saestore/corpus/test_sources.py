"""Every kind of source keeps the contract; every user's mistake has an answer."""

import gzip
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saestore.corpus import open_corpus
from saestore.corpus.stdlib import docstrings
from saestore.errors import ConfigError
from saestore.testing.corpora import tiny_corpus, tiny_documents
from saestore.testing.sources import DocumentSourceContract
from saestore_schemas.corpus import (
    CorpusSettings,
    DatasetSource,
    JsonlSource,
    ParquetSource,
    StdlibSource,
    TextSource,
)


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)


def opened(*sources, **more):
    return open_corpus(CorpusSettings(sources=sources, **more))


def failing(*sources):
    with pytest.raises(ConfigError) as caught:
        list(opened(*sources).documents())
    assert caught.value.hint
    return caught.value


TEXTS = [str(each["text"]) for each in tiny_documents()]


class FromFiles(DocumentSourceContract):
    n_documents = len(TEXTS)

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path
        self.write()

    def test_the_texts_are_the_ones_written(self):
        assert [each.text for each in self.opened().documents()] == TEXTS

    def test_the_metadata_is_the_one_written(self):
        found = [dict(each.metadata) for each in self.opened().documents()]
        assert found[3] == {"shelf": "A", "year": 1993}

    def test_a_changed_file_changes_the_fingerprint(self):
        before = self.opened().fingerprint
        self.change()
        assert self.opened().fingerprint != before


class TestJsonl(FromFiles):
    suffix = ""

    def write(self):
        self.path = tiny_corpus(self.folder)

    def change(self):
        self.path.write_text(self.path.read_text().replace("lighthouse", "flighthouse"))

    def opened(self):
        return opened(JsonlSource(path=str(self.folder), id_field="id", metadata=("shelf", "year")))


class TestGzippedJsonl(FromFiles):
    def write(self):
        plain = tiny_corpus(self.folder / "plain")
        self.path = self.folder / "tiny.jsonl.gz"
        self.path.write_bytes(gzip.compress(plain.read_bytes()))

    def change(self):
        self.path.write_bytes(gzip.compress(gzip.decompress(self.path.read_bytes()) + b"{}\n"))

    def opened(self):
        return opened(JsonlSource(path=str(self.path), metadata=("shelf", "year")))


class TestParquet(FromFiles):
    def write(self):
        table = pa.Table.from_pylist(tiny_documents())
        pq.write_table(table.slice(0, 17), self.folder / "a.parquet", row_group_size=5)
        pq.write_table(table.slice(17), self.folder / "b.parquet", row_group_size=7)

    def change(self):
        table = pa.Table.from_pylist(tiny_documents(3))
        pq.write_table(table, self.folder / "c.parquet")

    def opened(self):
        return opened(
            ParquetSource(path=str(self.folder / "*.parquet"), metadata=("shelf", "year"))
        )


class TestSavedDataset(FromFiles):
    def write(self):
        import datasets

        held = datasets.Dataset.from_list(tiny_documents())
        datasets.DatasetDict({"train": held}).save_to_disk(str(self.folder / "saved"))

    def change(self):
        import datasets

        held = datasets.Dataset.from_list(tiny_documents(7))
        datasets.DatasetDict({"train": held}).save_to_disk(str(self.folder / "other"))
        (self.folder / "saved").rename(self.folder / "old")
        (self.folder / "other").rename(self.folder / "saved")

    def opened(self):
        return opened(
            DatasetSource(
                path=str(self.folder / "saved"), id_field="id", metadata=("shelf", "year")
            )
        )


class TestStreamedDataset(FromFiles):
    streaming = True

    def write(self):
        self.path = tiny_corpus(self.folder)

    def change(self):
        self.path.write_text(self.path.read_text().replace("lighthouse", "flighthouse"))

    def opened(self):
        return opened(
            DatasetSource(path=str(self.path), metadata=("shelf", "year"), streaming=self.streaming)
        )


class TestPreparedDataset(TestStreamedDataset):
    streaming = False


class TestTextFiles(DocumentSourceContract):
    n_documents = 3

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        (tmp_path / "deep").mkdir()
        (tmp_path / "b.txt").write_bytes("zwei\r\nZeilen — ü".encode())
        (tmp_path / "a.md").write_text("")
        (tmp_path / "deep" / "c.py").write_text("x = 1\n")
        (tmp_path / "picture.png").write_bytes(b"\x89PNG")
        (tmp_path / ".hidden.txt").write_text("no")
        self.folder = tmp_path

    def opened(self):
        return opened(TextSource(path=str(self.folder)))

    def test_files_stand_in_the_order_of_their_names_and_keep_their_line_ends(self):
        found = [(each.id, each.text) for each in self.opened().documents()]
        assert found == [("a.md", ""), ("b.txt", "zwei\r\nZeilen — ü"), ("deep/c.py", "x = 1\n")]

    def test_a_glob_or_a_file_is_read_whatever_its_suffix(self):
        (self.folder / "notes.log").write_text("log")
        for path in ("*.log", "notes.log"):
            (found,) = opened(TextSource(path=str(self.folder / path))).documents()
            assert found.text == "log"

    def test_moving_the_folder_keeps_the_fingerprint(self, tmp_path_factory):
        before = self.opened().fingerprint
        self.folder = self.folder.rename(tmp_path_factory.mktemp("moved") / "here")
        assert self.opened().fingerprint == before

    def test_another_encoding_is_named(self):
        (self.folder / "old.txt").write_bytes("café".encode("latin-1"))
        error = failing(TextSource(path=str(self.folder / "old.txt")))
        assert "old.txt" in str(error)
        assert "byte 0xe9 at offset 3" in str(error)
        (read,) = opened(
            TextSource(path=str(self.folder / "old.txt"), encoding="latin-1")
        ).documents()
        assert read.text == "café"

    def test_an_unknown_encoding_is_named(self):
        error = failing(TextSource(path=str(self.folder), encoding="utf-88"))
        assert error.field == "corpus.sources[0].encoding"


class TestStdlib(DocumentSourceContract):
    def opened(self):
        return opened(StdlibSource(parts=("topics",)))

    def test_all_parts_are_mixed_and_say_which_they_are(self):
        parts = ("topics", "docstrings", "sources")
        found = list(opened(StdlibSource(parts=parts), limit_documents=60).documents())
        assert {each.metadata["part"] for each in found} == set(parts)
        assert all(each.text for each in found)

    def test_docstrings_stand_under_their_signatures(self):
        source = (
            '"""A module."""\n'
            "class Shape(Base):\n"
            '    """A shape."""\n'
            "    def area(self, *, exact=True) -> float:\n"
            '        """Return its area.\n\n        In metres.\n        """\n'
            "    def bare(self): pass\n"
        )
        assert docstrings(source, "pkg.shapes") == (
            "pkg.shapes\n\nA module.\n\n\n"
            "class Shape(Base)\nA shape.\n\n\n"
            "Shape.area(self, *, exact=True)\nReturn its area.\n\nIn metres.\n"
        )
        assert docstrings("x = 1", "empty") == ""


class TestChain(DocumentSourceContract):
    n_documents = 47

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path):
        self.first = tiny_corpus(tmp_path / "one")
        pq.write_table(pa.Table.from_pylist(tiny_documents(10)), tmp_path / "two.parquet")
        self.second = tmp_path / "two.parquet"

    def sources(self):
        return (
            JsonlSource(path=str(self.first), metadata=("year",)),
            ParquetSource(path=str(self.second), metadata=("shelf",)),
        )

    def opened(self):
        return opened(*self.sources(), limit_documents=47)

    def test_columns_of_one_source_are_null_in_the_other(self):
        found = list(self.opened().documents())
        assert self.opened().metadata.names == ["year", "shelf"]
        assert found[0].metadata == {"year": 1990, "shelf": None}
        assert found[41].metadata == {"year": None, "shelf": "B"}

    def test_the_limit_is_part_of_the_fingerprint(self):
        assert opened(*self.sources()).fingerprint != self.opened().fingerprint

    def test_one_column_of_two_types_is_refused(self, tmp_path):
        path = tmp_path / "three.jsonl"
        path.write_text('{"text": "a", "year": "MCM"}\n')
        error = failing(*self.sources(), JsonlSource(path=str(path), metadata=("year",)))
        assert "year: int64 and string" in str(error)


def test_a_missing_path_gives_the_nearest(tmp_path):
    tiny_corpus(tmp_path)
    error = failing(JsonlSource(path=str(tmp_path / "tinny.jsonl")))
    assert error.field == "corpus.sources[0].path"
    assert "tiny.jsonl" in error.hint
    assert "no folder" in failing(TextSource(path=str(tmp_path / "no" / "x.txt"))).hint


@pytest.mark.parametrize("source", [TextSource, JsonlSource, ParquetSource, DatasetSource])
def test_an_empty_folder_is_no_corpus(tmp_path, source):
    error = failing(source(path=str(tmp_path)))
    assert error.field == "corpus.sources[0].path"


def test_a_glob_that_matches_nothing_names_the_folder_searched(tmp_path):
    assert str(tmp_path) in failing(TextSource(path=str(tmp_path / "*.txt"))).hint


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"\n')
    error = failing(JsonlSource(path=str(path)))
    assert f"{path}:3" in str(error)
    assert "column" in error.hint
    path.write_text('{"text": "a"}\n["b"]\n')
    assert f"{path}:2" in str(failing(JsonlSource(path=str(path))))


def test_a_torn_gzip_is_named(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "abcdefgh"}\n' * 2000)[:-20])
    assert str(path) in str(failing(JsonlSource(path=str(path))))


def test_a_missing_key_or_column_gives_the_nearest(tmp_path):
    jsonl = tiny_corpus(tmp_path)
    error = failing(JsonlSource(path=str(jsonl), field="txt"))
    assert (error.field, error.found) == ("corpus.sources[0].field", "txt")
    assert "tiny.jsonl:1" in str(error)
    assert "text" in error.hint
    pq.write_table(pa.Table.from_pylist(tiny_documents(3)), tmp_path / "x.parquet")
    error = failing(ParquetSource(path=str(tmp_path / "x.parquet"), metadata=("shelff",)))
    assert error.field == "corpus.sources[0].metadata"
    assert "shelf" in error.hint
    for streaming in (False, True):
        source = DatasetSource(path=str(jsonl), id_field="idd", streaming=streaming)
        assert failing(source).field == "corpus.sources[0].id_field"


def test_a_text_that_is_none_is_refused_and_null_is_empty(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": null}\n{"text": 3}\n')
    assert f"{path}:2" in str(failing(JsonlSource(path=str(path))))
    (document,) = opened(JsonlSource(path=str(path)), limit_documents=1).documents()
    assert document.text == ""


def test_half_a_surrogate_pair_is_replaced_and_keeps_its_place(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a\\ud800b"}\n')
    (document,) = opened(JsonlSource(path=str(path))).documents()
    assert document.text == "a\ufffdb"


def test_metadata_types_are_learnt_and_held_to(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [
        {"text": "a", "n": 1, "x": 1, "ok": True, "tags": ["p"], "any": 1},
        {"text": "b", "n": None, "x": 0.5, "ok": False, "tags": None, "any": "é"},
        {"text": "c"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = opened(JsonlSource(path=str(path), metadata=("n", "x", "ok", "tags", "any")))
    kinds = dict(zip(source.metadata.names, map(str, source.metadata.types), strict=True))
    assert kinds == {"n": "int64", "x": "double", "ok": "bool", "tags": "string", "any": "string"}
    found = [dict(each.metadata) for each in source.documents()]
    assert found[0] == {"n": 1, "x": 1.0, "ok": True, "tags": '["p"]', "any": "1"}
    assert found[2] == dict.fromkeys(source.metadata.names)
    path.write_text("".join(json.dumps({"text": "", "n": 1}) + "\n" for _ in range(1000)))
    with path.open("a") as file:
        file.write('{"text": "", "n": "many"}\n')
    error = failing(JsonlSource(path=str(path), metadata=("n",)))
    assert f"{path}:1001" in str(error)
    assert "int64" in str(error)


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_text("no")
    assert str(path) in str(failing(ParquetSource(path=str(path))))


def test_parquet_files_of_two_shapes_are_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a"], "n": ["1"]}), tmp_path / "b.parquet")
    error = failing(ParquetSource(path=str(tmp_path), metadata=("n",)))
    assert "b.parquet" in str(error)


def test_a_missing_split_gives_the_ones_there(tmp_path):
    import datasets

    held = datasets.Dataset.from_list(tiny_documents(3))
    datasets.DatasetDict({"training": held}).save_to_disk(str(tmp_path / "d"))
    error = failing(DatasetSource(path=str(tmp_path / "d")))
    assert error.field == "corpus.sources[0].split"
    assert "training" in error.hint


def test_a_hub_name_without_a_hub_is_a_clear_error():
    error = failing(DatasetSource(path="someone/no-such-data"))
    assert error.found == "someone/no-such-data"
    assert "hub" in str(error)


def test_a_local_data_set_opens_no_socket(tmp_path):
    path = tiny_corpus(tmp_path)
    code = f"""
import socket

def refuse(*_, **__):
    raise SystemExit("a socket was opened")

socket.socket.connect = socket.getaddrinfo = refuse
from saestore.corpus import open_corpus
from saestore_schemas.corpus import CorpusSettings, DatasetSource

for streaming in (False, True):
    source = DatasetSource(path={str(path)!r}, streaming=streaming)
    print(sum(1 for _ in open_corpus(CorpusSettings(sources=(source,))).documents()))
"""
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["40", "40"]), done.stderr
