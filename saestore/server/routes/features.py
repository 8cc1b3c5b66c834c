"""The features of an analysis: in a table, one by one, and what each goes with."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from fastapi import Path, Query, Request, Response

from saestore.errors import QueryError, nearest
from saestore.features import (
    Coactive,
    ExampleGroup,
    Explanation,
    FeatureOverlap,
    FeaturePage,
    Filter,
    Histogram,
    Listing,
    ListingQuery,
    LogitTable,
    Neighbour,
    Overview,
    TokenTable,
    feature_overlap,
)
from saestore.features.listing import COLUMNS, MOST
from saestore.server.answers import tagged
from saestore.server.routes import ANALYSIS, Analysed, ServedLake, router
from saestore.server.served import Opened, Served


routes = router("features")

FeatureNumber = Annotated[int, Path(ge=0, le=(1 << 32) - 1, description="Which feature, from 0.")]
Sort = Annotated[str, Query(description=f"A statistic: {', '.join(COLUMNS)}.", max_length=100)]
Order = Annotated[Literal["asc", "desc"], Query(description="`desc`: largest first.")]
Conditions = Annotated[
    list[Annotated[str, Query(max_length=200)]],
    Query(
        alias="filter",
        description="A condition, `COLUMN OP NUMBER` or `COLUMN=null`; may be repeated, all hold.",
        max_length=20,
    ),
]
Search = Annotated[
    str,
    Query(
        description="Words that a feature's tokens, what people wrote about it, or explanations of it begin with.",
        max_length=1000,
    ),
]
Offset = Annotated[int, Query(ge=0, le=1 << 40, description="Lines before the first wanted.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="Lines wanted, at most.")]
Number = Annotated[int, Query(ge=0, le=1000, description="Examples of each group, at most.")]
Around = Annotated[
    int | None,
    Query(ge=0, le=65_535, description="Tokens on each side of a peak; absent, all there are."),
]
Names = Annotated[
    list[Annotated[str, Query(max_length=100)]] | None,
    Query(description="A subsample; may be repeated. Absent, all.", max_length=50),
]


@routes.get(f"{ANALYSIS}/overview", response_model=Overview)
def what_they_are_like(request: Request, served: ServedLake, opened: Analysed) -> Response:
    """Return what the features of an analysis are like, and how often they fire."""
    return _about(request, served, opened, lambda: opened.overview)


@routes.get(f"{ANALYSIS}/features", response_model=Listing)
def listing(
    request: Request,
    served: ServedLake,
    opened: Analysed,
    *,
    sort: Sort = "feature",
    order: Order = "asc",
    filters: Conditions = [],  # noqa: B006 - FastAPI copies it
    search: Search = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> Response:
    """Return a stretch of the table of features: sorted, filtered, found by words."""
    query = ListingQuery(
        sort=sort,
        descending=order == "desc",
        filters=tuple(map(Filter.parse, filters)),
        search=search,
        offset=offset,
        limit=limit,
    )
    return _about(request, served, opened, lambda: opened.table.listing(query, opened.texts()))


@routes.get(f"{ANALYSIS}/features/random", response_model=Listing)
def random(
    request: Request,
    served: ServedLake,
    opened: Analysed,
    *,
    seed: Annotated[int, Query(ge=0, le=1 << 62, description="Draws it: the same seed, the same.")],
    filters: Conditions = [],  # noqa: B006 - as above
    search: Search = "",
) -> Response:
    """Return the line of a feature drawn by a seed from the table; none from an empty one."""
    query = ListingQuery(filters=tuple(map(Filter.parse, filters)), search=search)

    def drawn() -> Listing:
        found = opened.table.random(query, seed, opened.texts())
        lines = () if found is None else opened.table.lines([found])
        return Listing(len(opened.table.features(query, opened.texts())), lines)

    return _about(request, served, opened, drawn)


@routes.get(f"{ANALYSIS}/features/{{feature}}", response_model=FeaturePage)
def feature_page(
    request: Request,
    served: ServedLake,
    opened: Analysed,
    feature: FeatureNumber,
    *,
    n: Number = 1000,
    around: Around = None,
    subsample: Names = None,
) -> Response:
    """Return everything about one feature."""

    def page() -> object:
        whole = _page(served, opened, feature, subsample)
        # not `to_dict`: what makes JSON of it takes records, ten times as fast
        return whole.cut(n=n, around=_most(around))

    opened.analysis.check(feature)
    return _about(request, served, opened, page)


@routes.get(f"{ANALYSIS}/features/{{feature}}/examples", response_model=list[ExampleGroup])
def examples(
    request: Request,
    served: ServedLake,
    opened: Analysed,
    feature: FeatureNumber,
    *,
    n: Number = 1000,
    around: Around = None,
    subsample: Names = None,
) -> Response:
    """Return a feature's examples, group by group."""

    def groups() -> object:
        return _page(served, opened, feature, subsample).cut(n=n, around=_most(around)).groups

    opened.analysis.check(feature)
    return _about(request, served, opened, groups)


@routes.get(f"{ANALYSIS}/features/{{feature}}/histograms", response_model=dict[str, Histogram])
def histograms(
    request: Request, served: ServedLake, opened: Analysed, feature: FeatureNumber
) -> Response:
    """Return the histograms of a feature's values and logit scores."""
    return _part(request, served, opened, feature, "histograms")


@routes.get(f"{ANALYSIS}/features/{{feature}}/logits", response_model=list[LogitTable])
def logits(
    request: Request, served: ServedLake, opened: Analysed, feature: FeatureNumber
) -> Response:
    """Return the tokens that a feature's decoder vector promotes and suppresses."""
    return _part(request, served, opened, feature, "logits")


@routes.get(f"{ANALYSIS}/features/{{feature}}/explanations", response_model=list[Explanation])
def explanations(
    request: Request, served: ServedLake, opened: Analysed, feature: FeatureNumber
) -> Response:
    """Return what models say that a feature stands for, and how well that holds."""
    return _part(request, served, opened, feature, "explanations")


@routes.get(f"{ANALYSIS}/features/{{feature}}/tokens", response_model=list[TokenTable])
def tokens(
    request: Request, served: ServedLake, opened: Analysed, feature: FeatureNumber
) -> Response:
    """Return the tokens that a feature fires on, and those before and after."""
    return _part(request, served, opened, feature, "tokens")


@routes.get(f"{ANALYSIS}/features/{{feature}}/neighbours", response_model=list[Neighbour])
def neighbours(
    request: Request, served: ServedLake, opened: Analysed, feature: FeatureNumber
) -> Response:
    """Return the features with similar vectors."""
    return _part(request, served, opened, feature, "neighbours")


@routes.get(f"{ANALYSIS}/features/{{feature}}/overlap/{{other}}", response_model=FeatureOverlap)
def overlap(
    request: Request,
    served: ServedLake,
    opened: Analysed,
    feature: FeatureNumber,
    other: FeatureNumber,
) -> Response:
    """Return how a feature goes together with another one, over every firing."""
    for each in (feature, other):
        opened.analysis.check(each)
    return _about(request, served, opened, lambda: feature_overlap(opened.analysis, feature, other))


@routes.get(f"{ANALYSIS}/features/{{feature}}/coactive", response_model=list[Coactive])
def coactive(
    request: Request, served: ServedLake, opened: Analysed, feature: FeatureNumber
) -> Response:
    """Return the features that fire on the same rows."""
    return _part(request, served, opened, feature, "coactive")


def _about(
    request: Request, served: Served, opened: Opened, make: Callable[[], object]
) -> Response:
    return tagged(request, served.kept, opened.about, make)


def _part(request: Request, served: Served, opened: Opened, feature: int, part: str) -> Response:
    """Return one part of a feature's page, without its examples."""
    opened.analysis.check(feature)
    return _about(
        request, served, opened, lambda: getattr(_page(served, opened, feature, ()), part)
    )


def _page(
    served: Served, opened: Opened, feature: int, subsamples: Sequence[str] | None
) -> FeaturePage:
    """Return a feature's page, with the examples of some subsamples, or of all.

    Raises:
        QueryError: The analysis has no such subsample.
    """
    known = list(opened.analysis.settings.subsamples)
    for name in subsamples or ():
        if name not in known:
            close = nearest(name, known)
            raise QueryError(
                f"there is no subsample {name!r}",
                found=name,
                expected=f"one of {', '.join(known)}",
                hint=f"did you mean {', '.join(close)}?" if close else f"there are: {known}",
            )
    return served.page(opened, feature, subsamples)


def _most(around: int | None) -> int:
    return _WHOLE if around is None else around


_WHOLE = 1 << 16
"""Tokens beside a peak: more than a context has."""
