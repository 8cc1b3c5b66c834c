"""Pages from templates: every text is escaped, and a template that asks for what is not there fails."""

from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from saestore import numbers
from saestore.report import charts
from saestore.report.feature_section import chip
from saestore.report.html import script_json
from saestore.server.pages import assets
from saestore.server.served import Served


Crumb = tuple[str, str]
"""Words, and where they lead; empty for where one is."""


@cache
def environment() -> Environment:
    """Return the templates of this package."""
    found = Environment(
        loader=PackageLoader("saestore.server", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(asset=assets.url, path=path)
    found.filters.update(
        value=numbers.value,
        count=numbers.count,
        number=_number,
        shared=lambda x: _number(x, None if x is None else numbers.share(x)),
        chip=lambda words: drawn(chip(words)),
        query=with_query,
    )
    return found


def _number(x: float | int | None, shown: str | None = None) -> Markup:
    """Return a number as people read it, its exact value beside it."""
    return drawn(charts.number(x, shown))


def drawn(html: str) -> Markup:
    """Return what another part of ours drew, and escaped where it did, as it stands."""
    return Markup(html)  # noqa: S704 - the one place


def script(what: object) -> Markup:
    """Return JSON that stands in a script element."""
    return drawn(script_json(what))


def path(*parts: object) -> str:
    """Return the address of names below the root, whatever characters they have.

    >>> path("features", "demo/topk-32/default", 7)
    '/features/demo/topk-32/default/7'
    """
    return "/" + "/".join(quote(str(part), safe="/") for part in parts)


def with_query(url: str, **values: object) -> str:
    """Return an address with a query; what is None or empty is left out.

    >>> with_query("/text", on="demo/topk-32/default", text="")
    '/text?on=demo%2Ftopk-32%2Fdefault'
    """
    given = {name: value for name, value in values.items() if value not in {None, ""}}
    return f"{url}?{urlencode(given)}" if given else url


def pages_of(served: Served) -> list[tuple[str, str, str]]:
    """Return the pages that every page leads to: words, address, key."""
    found = [("Bookmarks", "/bookmarks", "m"), ("SQL", "/sql", "s")]
    return [*found, ("Text", "/text", "t")] if served.live is not None else found


def page(
    request: Request,
    template: str,
    model: dict[str, Any],
    *,
    crumbs: Sequence[Crumb] = (),
    status: int = 200,
) -> HTMLResponse:
    """Return a page.

    Args:
        request: What it answers.
        template: Which.
        model: What the template says.
        crumbs: Where the page lies, below the lake.
        status: HTTP status.
    """
    return HTMLResponse(draw(request, template, model, crumbs=crumbs), status)


def draw(
    request: Request, template: str, model: dict[str, Any], *, crumbs: Sequence[Crumb] = ()
) -> str:
    """Return a page's text."""
    known = {
        "here": request.url.path,
        "pages": pages_of(Served.by(request)),
        "crumbs": list(crumbs),
        **model,
    }
    return environment().get_template(template).render(known)
