"""The law of an index's records: from them, pages are those of the lake's tables."""

from saestore.features import Analysis
from saestore.index import documents
from saestore.index.record import unpacked


def differing_pages(analysis: Analysis) -> list[int]:
    """Return the features whose pages differ; none, if all is well."""
    made, found = documents.Documents(analysis), []
    schema = documents.schema_of(made.of_analysis())
    for features in made.chunks:
        _, pages = made.of_features(features)
        said = analysis.annotations.lines(features)
        for feature, page in zip(features, pages, strict=True):
            record = unpacked(page["size"], page["record"], schema, said[feature])
            if analysis.stored.assembler.page(feature, record) != analysis.feature(feature):
                found.append(feature)
    return found
