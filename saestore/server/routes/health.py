"""Whether the server is well, and what it counts of itself."""

from fastapi import APIRouter, Depends, Response

from saestore.server.answers import json_response
from saestore.server.routes import ServedLake
from saestore.server.strangers import no_strangers


routes = APIRouter(tags=["health"], dependencies=[Depends(no_strangers)])


@routes.get("/health", include_in_schema=False)
async def health() -> Response:
    """Say that requests are answered; the lake is not touched."""
    return json_response({"status": "ok"})


@routes.get("/metrics", include_in_schema=False)
def metrics(served: ServedLake) -> Response:
    """Return counts, as Prometheus reads them."""
    return served.metrics.response()
