"""Questions in SQL, one's own and those that are ready: they read the lake, and end in time."""

from collections.abc import Callable

from fastapi import Request, Response

from saestore.features import Take, named_queries, stream, stream_named
from saestore.server import tables
from saestore.server.answers import json_response, tagged
from saestore.server.routes import Segment, ServedLake, router
from saestore.server.served import Served
from saestore_schemas.wire import (
    Asked,
    AskedNamed,
    QueryLine,
    QueryLines,
    QueryParameter,
    TableAnswer,
)


routes = router("sql")


@routes.post("/sql", response_model=TableAnswer)
async def sql(served: ServedLake, asked: Asked) -> Response:
    """Answer one question in SQL over all analyses; the reference of tables says what there is."""
    return await _answer(
        served,
        asked.limit,
        lambda take: stream(
            served.lake, asked.sql, take, asked.params, limits=tables.limits(served.settings)
        ),
    )


@routes.get("/queries", response_model=QueryLines)
def queries(request: Request, served: ServedLake) -> Response:
    """Return the questions that are ready."""
    return tagged(request, served.kept, (), lambda: QueryLines(queries=query_lines()))


def query_lines() -> tuple[QueryLine, ...]:
    """Return the questions that are ready, by name."""
    return tuple(
        QueryLine(
            name=each.name,
            doc=each.doc,
            sql=each.sql,
            params=[
                QueryParameter(
                    name=p.name,
                    type=p.type,
                    default=list(p.default) if isinstance(p.default, tuple) else p.default,
                    doc=p.doc,
                )
                for p in each.params
            ],
        )
        for each in named_queries().values()
    )


@routes.post("/queries/{query}", response_model=TableAnswer)
async def named(served: ServedLake, query: Segment, asked: AskedNamed) -> Response:
    """Answer a question that is ready, inside one analysis."""
    return await _answer(
        served,
        asked.limit,
        lambda take: stream_named(
            served.lake,
            query,
            take,
            asked.params,
            analysis=asked.analysis,
            limits=tables.limits(served.settings),
        ),
    )


async def _answer(
    served: Served, wanted: int | None, ask: Callable[[Take[TableAnswer]], TableAnswer]
) -> Response:
    def work() -> Response:
        with served.metrics.sql_busy.track_inprogress(), served.metrics.sql_seconds.time():
            return json_response(tables.answered(served.settings, wanted, ask))

    return await served.sql_turns.take(work)
