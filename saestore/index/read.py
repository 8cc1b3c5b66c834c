"""An analysis as an index holds it: its features' pages, without the lake's tables."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from saestore.errors import IndexUnavailableError
from saestore.features import Analysis, FeaturePage
from saestore.features.assemble import Assembler
from saestore.features.lines import Line
from saestore.features.listing import Listing, ListingQuery
from saestore.features.search import Texts, texts_of
from saestore.index import layout
from saestore.index.database import Database
from saestore.index.documents import explained_of, listed_of, looks_of, schema_of
from saestore.index.listing import IndexedTable
from saestore.index.record import Form, Looks, unpacked


@dataclass(frozen=True)
class IndexedAnalysis:
    """One analysis in an index, of the version that the lake has.

    Attributes:
        database: The index.
        analysis: The analysis in the lake: of it, the manifest is read.
        version: Its version.
        listed: The version of its features' documents in `features`, which goes with the runs about it too.
        form: How its features' records are laid out.
        looks: The tokens that they show.
        assembler: What makes pages of them.
        unreadable: Runs of `interpret` that cannot be read, and why.
    """

    database: Database
    analysis: Analysis
    version: str
    listed: str
    form: Form
    looks: Looks
    assembler: Assembler
    unreadable: Mapping[str, str]

    @classmethod
    def open(cls, database: Database, analysis: Analysis) -> "IndexedAnalysis":
        """Return an analysis as the index holds it.

        Raises:
            IndexUnavailableError: It does not hold this version of it, or cannot be reached.
        """
        version, listed = layout.version_of(analysis.manifest), listed_of(analysis)
        wanted = {"_id": analysis.ref.path, "version": version, "listed": listed}
        with database.asking():
            shown = ["schema", "n_layers", "vocabulary", "vocabulary_size"]
            found = database[layout.ARTEFACTS].find_one(wanted, projection=shown)
        if found is None:
            raise _lacks(database, analysis.ref.path)
        try:
            form, looks = Form(schema_of(found)), looks_of(found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _lacks(database, analysis.ref.path, "run `saestore index rebuild`") from error
        assembler = Assembler(
            analysis.ref, analysis.manifest, analysis.settings, int(found["n_layers"])
        )
        return cls(
            database,
            analysis,
            version,
            listed,
            form,
            looks,
            assembler,
            analysis.interpretations.unreadable,
        )

    @property
    def table(self) -> IndexedTable:
        """Its features, to be listed."""
        return IndexedTable(self.database, self.listed, self.analysis.n_features)

    def listing(self, query: ListingQuery, texts: Texts | None = None) -> Listing:
        """Return a stretch of its features in a table, as `FeatureTable` lists them.

        Args:
            query: Which.
            texts: What people wrote about features, for the search; absent, what the log says now.

        Raises:
            IndexUnavailableError: The index cannot be reached.
        """
        said = texts_of(self.analysis.annotations) if texts is None and query.search.strip() else {}
        return self.table.listing(query, said if texts is None else texts)

    def feature(self, feature: int) -> FeaturePage:
        """Return everything about one feature.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            IndexUnavailableError: The index lost it, or cannot be reached.
        """
        return next(self.pages([feature]))

    def pages(
        self,
        features: Sequence[int],
        *,
        subsamples: Collection[str] | None = None,
        related: bool = True,
    ) -> Iterator[FeaturePage]:
        """Yield everything about some features, asked for at once.

        Args:
            features: Which.
            subsamples: Of which subsamples examples are wanted; absent, all.
            related: Whether the tokens and features that they go with are wanted.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            IndexUnavailableError: The index lost one, or cannot be reached.
        """
        for feature in features:
            self.analysis.check(feature)
        # what people say may be said since the last sync: the log is small, and always current
        said = self.analysis.annotations.lines(features)
        names = [layout.feature_id(self.version, feature) for feature in features]
        with self.database.asking():
            # MongoDB answers what asks for one by its name without a plan
            asked = names[0] if len(names) == 1 else {"$in": names}
            pages = self.database[layout.PAGES].find({"_id": asked})
            found = {each["_id"]: each for each in pages}
            explained = self._explained(features)
        for feature, name in zip(features, names, strict=True):
            if name not in found or feature not in explained:
                raise _lacks(self.database, f"feature {feature} of {self.analysis.ref.path}")
            held = found[name]
            try:
                given = {layout.ANNOTATIONS: said[feature], **explained[feature]}
                record = unpacked(held["size"], held["record"], self.form, self.looks, given)
                page = self.assembler.page(
                    feature, record, subsamples, related=related, unreadable=self.unreadable
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                what = f"feature {feature} of {self.analysis.ref.path}"
                raise _lacks(self.database, what, "run `saestore index rebuild`") from error
            yield page

    def _explained(self, features: Sequence[int]) -> dict[int, dict[str, list[Line]]]:
        """Return what the runs say of some features, those that the index has; nothing without any run."""
        if self.listed == self.version:
            return {feature: {} for feature in features}
        names = [layout.feature_id(self.listed, feature) for feature in features]
        shown = ["feature", "explanations"]
        found = self.database[layout.FEATURES].find({"_id": {"$in": names}}, projection=shown)
        return {each["feature"]: explained_of(each) for each in found}


def _lacks(
    database: Database, what: str, hint: str = "run `saestore index sync`"
) -> IndexUnavailableError:
    return IndexUnavailableError(
        place=database.place.label,
        reason=f"does not hold {what} as it is in the lake",
        expected="an index of the lake as it is",
        hint=hint,
    )
