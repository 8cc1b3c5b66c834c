"""The law of an index's records: from them, pages are those of the lake's tables."""

from saestore.features import Analysis
from saestore.index import documents
from saestore.index.record import Form, unpacked


def differing_pages(analysis: Analysis) -> list[int]:
    """Return the features whose pages differ; none, if all is well."""
    made, found = documents.Documents(analysis), []
    of = made.of_analysis()
    form, looks = Form(documents.schema_of(of)), documents.looks_of(of)
    for features in made.chunks:
        said = analysis.annotations.lines(features)
        explained = map(documents.explained_of, made.lines(features))
        for feature, page, models in zip(features, made.pages(features), explained, strict=True):
            given = {"annotations": said[feature], **models}
            record = unpacked(page["size"], page["record"], form, looks, given)
            if analysis.stored.assembler.page(feature, record) != analysis.feature(feature):
                found.append(feature)
    return found
