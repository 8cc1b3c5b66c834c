"""What models say that features stand for: over HTTP, in lists, on pages; texts of models stay texts."""

import re
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

from saestore.features import Analysis
from saestore.lake import Lake, layout
from saestore.server import create_app
from saestore.testing.analyses import planted_analysis
from saestore.testing.interpretations import Explained, interpretation_run
from saestore_schemas.server import ServerSettings


NAME = "planted/relu/default"
API = f"/api/v1/analyses/{NAME}/features"
HOSTILE = "<script>alert(1)</script>\"' onload=x"


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = Lake.at(tmp_path_factory.mktemp("explained"))
    planted_analysis(lake)
    explained = [
        Explained(2, HOSTILE, scores={"detection": 0.5, "fuzzing": None}),
        Explained(4, "Articles & Determiners", scores={"detection": 0.9, "fuzzing": 0.7}),
        Explained(4, "says a number", "top", {"detection": 0.6}),
        Explained(5, None),
        Explained(6, "numbers", scores={"detection": None}),
    ]
    interpretation_run(lake, NAME, "first", explained)
    return lake


@pytest.fixture(scope="module")
def client(lake):
    app = create_app(lake, ServerSettings())
    return TestClient(app, base_url="http://localhost", follow_redirects=False)


def attributes(text):
    """Return the names of all attributes of a page."""
    found = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda _, attrs: found.update(name for name, _ in attrs)
    parser.feed(text)
    assert "class" in found
    return found


def test_a_feature_is_answered_with_its_explanations(client, lake):
    page = Analysis.open(lake, NAME).feature(4)
    found = client.get(f"{API}/4").json()["explanations"]
    assert found == page.to_dict()["explanations"]
    assert found == client.get(f"{API}/4/explanations").json()
    assert [each["text"] for each in found] == ["Articles & Determiners", "says a number"]


@pytest.mark.parametrize(
    ("query", "features"),
    [
        ("sort=explanation_score&order=desc&limit=2", [4, 2]),
        ("sort=explanation_score&limit=3", [2, 4, 0]),
        ("filter=explanation_score>0.6", [4]),
        ("filter=explanation_score=null&filter=n_firings>0", [1, 3, 5, 6, 7, 8]),
        ("search=determ", [4]),
        ("search=number", [4, 6]),
        ("search=number say", [4]),
    ],
)
def test_features_are_listed_by_scores_and_found_by_words_of_explanations(client, query, features):
    found = client.get(f"{API}?{query}").json()
    assert [each["feature"] for each in found["lines"]] == features
    for line in found["lines"]:
        assert (line["explanation"] is None) == (line["feature"] not in {2, 4, 6})


def test_a_line_says_the_best_explanation_and_its_mean_score(client):
    (line,) = client.get(f"{API}?search=determ").json()["lines"]
    assert (line["explanation"], line["explanation_score"]) == ("Articles & Determiners", 0.8)


def test_a_run_is_an_artefact_with_a_page_and_a_manifest(client):
    assert client.get(f"/api/v1/artefacts/interpretation/{NAME}/first").json()["counts"] == {
        "features": 4,
        "explanations": 4,
        "scores": 4,
        "requests": 11,
    }
    family = client.get(f"/api/v1/lineage/interpretation/{NAME}/first").json()
    assert family["artefact"]["parents"][0]["name"] == NAME
    page = client.get(f"/artefacts/interpretation/{NAME}/first").text
    assert "Scores of quantile by detection" in page
    assert "Articles &amp; Determiners" in page
    assert "<td>0.70</td>" in page  # the mean of .5 and .9 by detection
    assert (
        f"/artefacts/interpretation/{NAME}/first" in client.get(f"/artefacts/features/{NAME}").text
    )


def test_pages_show_explanations_as_text(client):
    one = client.get(f"/features/{NAME}/4").text
    assert "<em>Articles &amp; Determiners</em>" in one
    assert "detection 0.90 (0.80 to 1.00)" in one
    assert "2 explanations" in one
    for path in (
        f"/features/{NAME}/2",
        f"/features/{NAME}",
        f"/compare?a={NAME}/2&b=4",
        f"/artefacts/interpretation/{NAME}/first",
    ):
        text = client.get(path).text
        assert "&lt;script&gt;alert(1)" in text, path
        assert "<script>alert(1)" not in text, path
        assert "onload" not in attributes(text), path
    assert "No model could explain it" in client.get(f"/features/{NAME}/5").text
    assert 'class="explanations"' not in client.get(f"/features/{NAME}/7").text


def test_the_list_has_a_column_of_explanations_where_there_are_any(client, tmp_path):
    text = client.get(f"/features/{NAME}?sort=explanation_score&order=desc").text
    assert ">stands for</th>" in text
    rows = re.findall(r'<tr aria-rowindex="\d+">(.*?)</tr>', text, re.DOTALL)
    assert "<em>Articles &amp; Determiners</em>" in rows[1]
    other = Lake.at(tmp_path)
    planted_analysis(other)
    bare = TestClient(create_app(other, ServerSettings()), base_url="http://localhost")
    assert "stands for" not in bare.get(f"/features/{NAME}").text


def test_what_is_kept_is_made_again_when_a_run_comes_or_goes(client, lake):
    for path in (f"{API}/7", f"{API}?search=midnight", f"/features/{NAME}/7"):
        tag = {"If-None-Match": client.get(path).headers["etag"]}
        assert client.get(path, headers=tag).status_code == 304
        ref = interpretation_run(lake, NAME, "more", [Explained(7, "midnight")])
        there = client.get(path, headers=tag)
        assert there.status_code == 200
        assert "midnight" in there.text
        lake.artefact(ref).remove()
        assert client.get(path, headers=tag).status_code == 304


def test_a_run_that_cannot_be_read_takes_nothing_else_away(client, lake):
    list_page, feature_page = f"/features/{NAME}", f"/features/{NAME}/7"
    tag = {"If-None-Match": client.get(feature_page).headers["etag"]}
    ref = interpretation_run(lake, NAME, "broken", [Explained(7, "midnight")])
    lake.artefact(ref).write(layout.MANIFEST, b"{")
    for path in (list_page, feature_page):
        there = client.get(path, headers=tag)
        assert there.status_code == 200
        assert f"{ref.path} cannot be read and is left out" in there.text
    assert list(client.get(f"{API}/7").json()["unreadable"]) == [ref.path]
    lake.artefact(ref).remove()
    assert "cannot be read" not in client.get(list_page).text
