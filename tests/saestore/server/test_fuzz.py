"""Whatever the API's own description allows, it answers as the description says, and never crashes."""

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from saestore.features import named_queries
from saestore.features.listing import COLUMNS
from saestore.server import create_app
from saestore_schemas.server import ServerSettings


HOST = {"Host": "localhost"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

THERE = {"series": "demo", "dictionary": "topk-32", "analysis": "default"}
NAMES = {
    "activations": "demo",
    "dictionary": "demo/topk-32",
    "features": "demo/topk-32/default",
    "evaluation": "demo/topk-32/default",
}

columns = st.sampled_from(COLUMNS)
conditions = st.builds(
    "{}{}{}".format,
    columns,
    st.sampled_from(["<", ">=", "=", "!="]),
    st.sampled_from(["0", "null", "1e-3"]),
)
statements = st.builds(
    "{} {} FROM {} {}".format,
    st.sampled_from(["SELECT", "FROM features SELECT", "EXPLAIN SELECT", "WITH t AS (SELECT 1)"]),
    st.sampled_from(
        ["*", "count(*)", "1/0", "feature, max", "$x", "[1, {'a': NULL}]", "'\\xFF'::BLOB"]
    ),
    st.sampled_from(
        ["features", "firings", "range(100000)", "nothing", "(VALUES ('é'))", "artefacts"]
    ),
    st.sampled_from(["", "LIMIT 3", "ORDER BY 1", "WHERE false", "; SELECT 2", "-- x"]),
)


@pytest.fixture(scope="module")
def operations(own_lake):
    app = create_app(own_lake.lake, ServerSettings(annotate=True, sql_seconds=1.0))
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers=HOST)
    # one event loop for all requests: processes that answer SQL end with theirs
    with asgi.get_client(app) as session:
        yield [each.ok() for each in schema.get_all_operations()], session


def led_to_what_is_there(case, n_features, data):
    """Let most requests name what exists: random names only ever meet a 404."""
    found = case.path_parameters
    for key, value in THERE.items():
        if key in found:
            found[key] = value
    if "name" in found:
        kind = found.get("kind", "activations")
        found["name"] = "topk-32" if "series" in found else NAMES.get(kind, "demo")
    for key in ("feature", "other"):
        if key in found and isinstance(found[key], int):
            found[key] %= n_features + 2
    if "query" in found:
        found["query"] = data.draw(st.sampled_from(list(named_queries())))
    asked = case.query or {}
    if "sort" in asked:
        asked["sort"] = data.draw(columns)
    if "filter" in asked:
        asked["filter"] = data.draw(st.lists(conditions, max_size=2))
    if isinstance(case.body, dict) and "sql" in case.body:
        case.body["sql"] = data.draw(statements)


def asked(operations, own_lake, data):
    """Ask something; return the answer's status, if all of it is as described."""
    n_features = own_lake.analysis("demo/topk-32").n_features
    known, session = operations
    operation = data.draw(st.sampled_from(known))
    case = data.draw(operation.as_strategy())
    if data.draw(st.integers(0, 4)):
        led_to_what_is_there(case, n_features, data)
    answer = case.call(headers=HOST, session=session)
    case.validate_response(answer, checks=CHECKS)  # raises all that is not
    return answer.status_code


QUIET = list(HealthCheck)


def statuses(operations, own_lake, **more):
    """Ask many things; return how often each status was answered."""
    found = Counter()

    @settings(deadline=None, suppress_health_check=QUIET, **more)
    @given(data=st.data())
    def ask(data):
        found[asked(operations, own_lake, data)] += 1

    ask()
    return found


def test_every_request_is_answered_as_described(operations, own_lake):
    found = statuses(operations, own_lake, max_examples=200, derandomize=True)
    assert max(found) < 500
    assert found[200] > 50  # it is not all refusals


@pytest.mark.slow
def test_twenty_thousand_requests_are(operations, own_lake):
    found = statuses(operations, own_lake, max_examples=20_000)
    assert max(found) < 500
    assert found[200] > 5_000
