"""Coming back to a place reads nothing that lies before it: what lies there is destroyed first."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saestore.corpus import open_corpus
from saestore.corpus.sources import Chain
from saestore.testing.corpora import tiny_documents
from saestore_schemas.corpus import (
    CorpusSettings,
    DatasetSource,
    JsonlSource,
    ParquetSource,
    StdlibSource,
    TextSource,
)


def corpus(*sources):
    return open_corpus(CorpusSettings(sources=sources))


def after(source, n):
    """Return the documents, and the position after n of them, as it comes back from a commit."""
    everything = list(source.documents())
    reading = source.documents()
    for _ in range(n):
        next(reading)
    return everything, json.loads(json.dumps(reading.position()))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "stream of jsonl", "stream of parquet"])
def test_earlier_files_are_not_read(tmp_path, kind):
    files = []
    for number in range(3):
        rows = tiny_documents(20)
        if "jsonl" in kind:
            files.append(tmp_path / f"{number}.jsonl")
            files[-1].write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        else:
            files.append(tmp_path / f"{number}.parquet")
            pq.write_table(pa.Table.from_pylist(rows), files[-1], row_group_size=5)
    if kind.startswith("stream"):
        pytest.importorskip("datasets", reason="saestore[model] is not installed")
        source = corpus(DatasetSource(path=str(tmp_path), streaming=True))
    else:
        source = corpus({"jsonl": JsonlSource, "parquet": ParquetSource}[kind](path=str(tmp_path)))
    everything, position = after(source, 47)
    # datasets begins at the batch before, which the file before may hold.
    for file in files[: 1 if kind.startswith("stream") else 2]:
        file.write_bytes(b"gone")
    assert list(source.documents(47, position=position)) == everything[47:]


def test_earlier_lines_are_not_read(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n\n" for row in tiny_documents(30)))
    source = corpus(JsonlSource(path=str(file)))
    everything, position = after(source, 25)
    data = file.read_bytes()
    file.write_bytes(b"\0" * position["inside"]["offset"] + data[position["inside"]["offset"] :])
    assert list(source.documents(25, position=position)) == everything[25:]


def test_earlier_row_groups_are_not_read(tmp_path, monkeypatch):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(tiny_documents(30)), file, row_group_size=5)
    source = corpus(ParquetSource(path=str(file)))
    everything, position = after(source, 22)
    read = []
    original = pq.ParquetFile.iter_batches

    def watched(self, size, *, row_groups, columns):
        read.extend(row_groups)
        return original(self, size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert list(source.documents(22, position=position)) == everything[22:]
    assert read == [4, 5]


def test_earlier_modules_are_not_parsed(monkeypatch):
    from saestore.corpus import stdlib

    source = corpus(StdlibSource(parts=("docstrings",)))
    reading = source.documents()
    for _ in range(40):
        next(reading)
    position = reading.position()
    rest = [next(reading) for _ in range(5)]
    parsed = []
    original = stdlib.docstrings
    monkeypatch.setattr(stdlib, "docstrings", lambda *a: parsed.append(a[1]) or original(*a))
    again = source.documents(40, position=position)
    assert [next(again) for _ in range(5)] == rest
    assert len(parsed) < 20


def test_earlier_sources_are_neither_read_nor_counted(tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.mkdir()
    for n in range(6):
        (text / f"{n}.txt").write_text(f"text {n}")
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in tiny_documents(10)))
    source = corpus(JsonlSource(path=str(lines)), TextSource(path=str(text)))
    everything, position = after(source, 13)
    lines.unlink()
    monkeypatch.setattr(Chain, "_count", lambda *_: pytest.fail("counted"))
    assert list(source.documents(13, position=position)) == everything[13:]
