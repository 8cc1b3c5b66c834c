"""What the server counts of itself, for Prometheus.

Requests are counted by the route's template, never by the path asked: the labels of a metric must not
grow with what is asked.
"""

import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts of one application."""

    def __init__(self) -> None:
        """Count from zero."""
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "saestore_requests", "Requests answered.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "saestore_request_seconds",
            "Seconds from a request to the end of its answer.",
            ("method", "route"),
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.busy = Gauge(
            "saestore_requests_in_progress", "Requests in progress.", registry=self.registry
        )
        self.sql_seconds = Histogram(
            "saestore_sql_seconds",
            "Seconds of questions in SQL, waiting not included.",
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.sql_busy = Gauge(
            "saestore_sql_in_progress", "Questions in SQL in progress.", registry=self.registry
        )
        ProcessCollector(registry=self.registry)

    def response(self) -> Response:
        """Return all counts, as Prometheus reads them."""
        return Response(
            generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class Counted:
    """Counts the requests of an application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        """Stand before an application."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.busy.track_inprogress():
            try:
                await self._app(scope, receive, watched)
            finally:
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(method, route, str(status)).inc()
                self._metrics.seconds.labels(method, route).observe(time.perf_counter() - began)


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
