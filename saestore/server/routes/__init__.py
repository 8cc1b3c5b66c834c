"""The JSON API, version 1: one file for each thing that is asked about."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from saestore.server.served import Opened, Served
from saestore.server.strangers import no_strangers
from saestore_schemas.names import NAME_PATTERN
from saestore_schemas.wire import Problem


VERSION = "/api/v1"
"""Begin of every path of the API; what a path answers changes only with it."""

Segment = Annotated[str, Path(pattern=NAME_PATTERN, description="A name: one path segment.")]
"""A name in a path: nothing that a file system would read otherwise."""


async def _served(request: Request) -> Served:
    """Return what is served, without waiting for a thread: others wait for those, too."""
    return Served.by(request)


ServedLake = Annotated[Served, Depends(_served)]
"""What is served."""


def opened(served: ServedLake, series: Segment, name: Segment, analysis: Segment) -> Opened:
    """Return the analysis that a path names."""
    return served.analysis(f"{series}/{name}/{analysis}")


Analysed = Annotated[Opened, Depends(opened)]
"""The analysis that a path names."""

ANALYSIS = "/analyses/{series}/{name}/{analysis}"


def router(tag: str) -> APIRouter:
    """Return a router of the API.

    Args:
        tag: What its routes are about.
    """
    return APIRouter(
        prefix=VERSION,
        tags=[tag],
        dependencies=[Depends(no_strangers)],
        responses={
            "4XX": {
                "model": Problem,
                "description": "Why there is no answer.",
                "content": {"application/problem+json": {}},
            }
        },
    )
