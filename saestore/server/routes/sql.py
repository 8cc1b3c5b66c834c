"""Questions in SQL, one's own and those that are ready: they read the lake, and end in time."""

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from saestore.features import named_queries
from saestore.server.answers import json_response, tagged
from saestore.server.routes import Segment, ServedLake, router
from saestore.server.served import Served
from saestore.server.tables import Question
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
    return await _answer(served, Question(asked.sql, asked.params, asked.limit))


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
    question = Question(query, asked.params, asked.limit, analysis=asked.analysis, ready=True)
    return await _answer(served, question)


async def _answer(served: Served, question: Question) -> Response:
    return await run_in_threadpool(json_response, await served.ask(question))
