"""Whatever tokens, documents, folders and people say, pages and answers only show it."""

import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from saestore.features import Analysis
from saestore.lake import Lake
from saestore.server import create_app
from saestore.testing import stores
from saestore.testing.analyses import DICTIONARY, planted_analysis
from saestore_schemas.server import ServerSettings


BAD = "</script><img src=x onerror=alert(1)>\"'onmouseover=alert(2) \u202e{{7*7}}<!--"
NAME = f"{DICTIONARY}/default"
PAGES = (
    "/", "/bookmarks", f"/features/{NAME}", f"/features/{NAME}?search=onerror", f"/features/{NAME}/1",
    f"/features/{NAME}/2", f"/compare?a={NAME}/1&b=2",
    "/sql?sql=SELECT token, token_id FROM vocabulary",
    "/sql?sql=SELECT text, context FROM contexts",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A client of a lake in which every text is a trap."""
    folder = tmp_path_factory.mktemp("hostile") / BAD.replace("/", "")
    plain = stores.synthetic_vocabulary()

    def vocabulary():
        pieces = [f"{BAD}{n}".encode() for n in range(len(plain))]
        texts = pa.array([piece.decode() for piece in pieces])
        return plain.set_column(1, "token", texts).set_column(2, "bytes", pa.array(pieces))

    def document(index, n_tokens):
        return {**own(index, n_tokens), "document_id": f"{BAD}{index}", "source": BAD}

    own = stores._document
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "synthetic_vocabulary", vocabulary)
        patch.setattr(stores, "_document", document)
        lake = Lake.at(folder)
        planted_analysis(lake)
    said = {"name": BAD, "interpretation": BAD, "notes": BAD, "tag": [BAD], "examples": [BAD]}
    Analysis.open(lake, NAME).annotations.say({1: said}, author=BAD, source="test")
    return TestClient(create_app(lake, ServerSettings(annotate=True)), base_url="http://localhost")


class Elements(HTMLParser):
    """Finds what a browser would run, or load from elsewhere."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        runs = [name for name in known if name.startswith("on") or name == "style"]
        leads = [
            x for name, x in attrs if name in {"src", "href"} and not re.match(r"[/#?]", x or "")
        ]
        inline = tag == "script" and "src" not in known and known.get("type") != "application/json"
        if runs or leads or inline or tag in {"img", "iframe", "base"}:
            self.found.append((tag, attrs))


@pytest.mark.parametrize("page", PAGES)
def test_no_page_runs_what_it_shows(hostile, page):
    answer = hostile.get(page, headers={"Accept": "text/html"})
    assert answer.status_code == 200
    elements = Elements()
    elements.feed(answer.text)
    elements.close()
    assert elements.found == []
    assert "onerror" in answer.text
    assert "{{7*7}}" in answer.text  # no template of a template


def test_problems_and_the_login_page_show_what_they_were_given(hostile):
    for page in (
        f"/nothing/{BAD}",
        f"/login?next={BAD}",
        f"/sql?sql=SELECT {BAD}",
        f"/compare?a={BAD}",
    ):
        answer = hostile.get(page, headers={"Accept": "text/html"})
        elements = Elements()
        elements.feed(answer.text)
        assert elements.found == []
        assert answer.status_code in {200, 404, 422}
