"""Parameters of a request that nothing reads are refused, with the nearest name: a typo must not succeed."""

from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute
from starlette.requests import Request

from saestore.errors import nearest
from saestore.server.problems import refused


async def no_strangers(request: Request) -> None:
    """Refuse a request with a parameter in its URL that its route does not know.

    Raises:
        Refused: It has one.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = [field.alias for field in get_flat_params(route.dependant)]
    known = [name for name in known if name not in request.path_params]
    for name in request.query_params:
        if name not in known:
            close = nearest(name, known)
            there = ", ".join(known) or "none"
            raise refused(
                422,
                f"there is no parameter {name!r}",
                found=name,
                expected=there,
                hint=f"did you mean {', '.join(close)}?" if close else f"there are: {there}",
            )
