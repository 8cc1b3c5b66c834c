"""The contract of a source of documents: subclass it and give `opened`."""

import json

import pyarrow as pa

from saestore.corpus import Document, DocumentSource


class DocumentSourceContract:
    """What every source must do. A subclass gives `opened`, and may give `n_documents`."""

    n_documents: int | None = None
    """How many documents the source has, if the test knows."""

    def opened(self) -> DocumentSource:
        """Return the source, opened anew each time.

        Raises:
            AssertionError: The subclass forgot to say how.
        """
        raise AssertionError(f"{type(self).__name__} must define opened()")

    def test_documents_are_whole(self) -> None:
        """Every document has an id of its own, a source, text and each metadata column."""
        documents = list(self.opened().documents())
        assert documents
        assert self.n_documents in {None, len(documents)}
        assert len({(each.source, each.id) for each in documents}) == len(documents)
        columns = self.opened().metadata.names
        for each in documents:
            assert isinstance(each, Document)
            assert each.id
            assert each.source
            each.text.encode()
            assert set(columns) <= set(each.metadata)

    def test_metadata_has_the_declared_types(self) -> None:
        """Arrow takes the documents' metadata as the schema says it is."""
        source = self.opened()
        rows = [dict(each.metadata) for each in source.documents()]
        for field in source.metadata:
            values = [row[field.name] for row in rows]
            assert pa.array(values, field.type).to_pylist() == values

    def test_starting_anywhere_gives_the_rest(self) -> None:
        """`documents(n)` is `documents()` without its first n."""
        everything = list(self.opened().documents())
        last = len(everything)
        for start in sorted({0, 1, 2, last // 2, last - 1, last, last + 3}):
            assert list(self.opened().documents(start)) == everything[start:]

    def test_a_position_leads_back_to_any_place(self) -> None:
        """`documents(n, position=p)` is the rest too, if a reading was at p after n documents."""
        everything = list(self.opened().documents())
        reading = self.opened().documents()
        positions = [reading.position()]
        positions += [json.loads(json.dumps(reading.position())) for _ in reading]
        last = len(everything)
        assert len(positions) == last + 1
        source = self.opened()
        for n in sorted({0, 1, 2, last // 2, last - 1, last}):
            assert list(source.documents(n, position=positions[n])) == everything[n:]

    def test_reading_twice_is_reading_the_same(self) -> None:
        """Iterating changes nothing in the source."""
        source = self.opened()
        assert list(source.documents()) == list(source.documents())

    def test_the_fingerprint_stays(self) -> None:
        """Two openings of the same contents have one fingerprint."""
        assert self.opened().fingerprint == self.opened().fingerprint
        assert len(self.opened().fingerprint) >= 32
