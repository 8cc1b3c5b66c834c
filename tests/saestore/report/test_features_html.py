"""Features as one file: every number is SQL's, no text gets in or out, and a browser can work it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import saestore
from saestore.errors import ArtefactNotFoundError, ConfigError, FeatureNotFoundError, QueryError
from saestore.features import (
    DensityHistogram,
    ExampleGroup,
    HeadPair,
    Overview,
    Read,
    Written,
    feature_lines,
    overview,
)
from saestore.lake import Lake
from saestore.report import FeaturesReport, feature_section, features_html
from saestore.report.feature_section import Place
from saestore.testing.analyses import planted_analysis
from saestore.testing.interpretations import Explained, interpretation_run
from saestore.testing.pages import annotation, example, explanation, page
from saestore.words import alone


NAME = "demo/topk-32/default"


class Page(HTMLParser):
    """What a file says: numbers of lists and tables, charts, passages, marks, tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.figures, self.tables, self.charts, self.passages = [], {}, {}, {}, []
        self.marks, self.words, self.scripts = [], [], []
        self.inside, self.row, self.rows, self.term = [], None, None, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        self.tags.append((tag, own))
        if tag not in {"meta", "input", "path"}:
            self.inside.append((tag, own))
        if tag == "data":
            self._number(json.loads(own["value"]))
        elif tag in {"tbody", "thead", "tr", "td", "dt"}:
            self._cells(tag)
        elif tag == "svg" and "data-counts" in own:
            self.charts[own["data-what"]] = [int(n) for n in own["data-counts"].split()]
        elif tag == "p" and own.get("class") == "passage":
            self.passages.append("")
            self.marks.append([])
        elif tag == "mark" and self.has("p", "passage"):
            self.marks[-1].append(float(own["title"].split()[1]))

    def _cells(self, tag):
        if tag == "tbody":
            self.rows = self.tables.setdefault(self.term, [])
        elif tag in {"thead", "dt"}:
            self.term = ""
        elif tag == "tr" and self.rows is not None:
            self.row = []
            self.rows.append(self.row)
        elif tag == "td":
            self.row.append("")

    def _number(self, number):
        if self.row is not None and self.has("td"):
            self.row[-1] = number
        elif self.has("dd"):
            self.figures[self.term] = number

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop()[0] != tag:
            pass
        if tag == "tbody":
            self.rows = self.row = None

    def handle_data(self, data):
        self.words.append(data)
        if self.has("script"):
            self.scripts.append(data)
        elif self.has("p", "passage"):
            self.passages[-1] += data
        elif self.has("dt") or (self.has("th") and not self.term):
            self.term += data
        elif self.has("td") and not self.has("data"):
            self.row[-1] += data

    def has(self, tag, kind=None):
        return any(t == tag and (kind is None or a.get("class") == kind) for t, a in self.inside)


@pytest.fixture(scope="module")
def lake(demo_lake_folder):
    return saestore.open_lake(demo_lake_folder / "demo-lake")


@pytest.fixture(scope="module")
def ask(lake):
    """A function that answers SQL with dictionaries, over one connection."""
    connection = lake.duckdb()
    yield lambda sql, **given: connection.sql(sql, params=given).to_arrow_table().to_pylist()
    connection.close()


@pytest.fixture(scope="module")
def busiest(ask):
    """Two features with everything that a section shows."""
    rows = ask("SELECT feature FROM features ORDER BY n_firings DESC, feature LIMIT 2")
    return [row["feature"] for row in rows]


@pytest.fixture(scope="module")
def file(lake, busiest, tmp_path_factory):
    target = tmp_path_factory.mktemp("pages") / "some.html"
    return lake.report("demo/topk-32", target, features=busiest, query=None)


@pytest.fixture(scope="module")
def sections(lake, busiest, tmp_path_factory):
    """Feature to what a file of its own says."""
    folder = tmp_path_factory.mktemp("one")
    found = {}
    for feature in busiest:
        text = lake.report("demo/topk-32", folder / "one.html", features=[feature]).read_text()
        assert len(text.encode()) < 200_000
        found[feature] = Page(text)
    return found


NAMED = {
    "largest value": "max", "mean": "mean", "density": "density", "50 %": "q50",
    "decoder length": "dec_norm", "on its top token": "top_token_share",
}  # fmt: skip


def test_statistics_and_charts_are_sqls(ask, sections):
    (alive,) = ask("SELECT count(*) n FROM features WHERE n_firings > 0")
    for feature, found in sections.items():
        (line,) = ask(
            "SELECT * EXCLUDE (series, dictionary, analysis, feature) FROM features WHERE feature = $f",
            f=feature,
        )
        whole = dict(found.tables["column of features"])
        assert whole == {name: "–" if x is None else x for name, x in line.items()}
        assert {name: found.figures[name] for name in NAMED} == {
            name: line[column] for name, column in NAMED.items()
        }
        drawn = dict(found.charts)
        assert sum(drawn.pop("density")) == alive["n"]
        rows = ask("SELECT what, counts FROM histograms WHERE feature = $f", f=feature)
        counts = {row["what"]: row["counts"] for row in rows}
        assert drawn.pop("log_value") == [
            n
            for at, n in enumerate(counts["log_value"])
            if any(counts["log_value"][: at + 1]) and any(counts["log_value"][at:])
        ]
        assert drawn == {what: counts[what] for what in ("value", "position", "logit:direction")}


def test_tables_of_tokens_and_features_are_sqls(ask, sections):
    for feature, found in sections.items():
        for title, sign in (("Promotes", 1), ("Suppresses", -1)):
            rows = ask(
                "SELECT token, value FROM logits WHERE feature = $f AND sign = $s ORDER BY rank",
                f=feature, s=sign,
            )  # fmt: skip
            assert found.tables[title] == [[alone(r["token"]), r["value"]] for r in rows]
        for title, shift in (("token before", -1), ("fires on", 0), ("token after", 1)):
            rows = ask(
                "SELECT token, n, p_token_given_fires p, lift FROM token_stats "
                "WHERE feature = $f AND shift = $s ORDER BY n DESC, token_id LIMIT 10",
                f=feature, s=shift,
            )  # fmt: skip
            expected = [
                [alone(r["token"]), r["n"], r["p"], *([] if shift else [r["lift"]])] for r in rows
            ]
            assert found.tables[title] == expected
        assert together(found.tables["fires with"]) == [
            list(row.values())
            for row in ask(
                "SELECT other, phi, jaccard, lift, n_both FROM coactivation WHERE feature = $f "
                "ORDER BY rank LIMIT 10",
                f=feature,
            )
        ]
        for title, method in (("decoder like", "dec_cos"), ("encoder like", "enc_cos")):
            rows = ask(
                "SELECT neighbour, score FROM neighbours WHERE feature = $f AND method = $m "
                "ORDER BY rank LIMIT 10",
                f=feature, m=method,
            )  # fmt: skip
            assert together(found.tables[title]) == [list(row.values()) for row in rows]


def together(rows):
    return [[int(feature), *numbers] for feature, *numbers in rows]


def test_a_feature_that_never_fires_has_a_bound():
    statistics = dict.fromkeys(page().statistics) | {
        "n_firings": 0,
        "density": 0.0,
        "n_rows": 250000,
    }
    dead = page(statistics=statistics, histograms={}, top_token=None, tokens=(), groups=())
    text = feature_section.section(dead, feature_section.Place([17], 0))
    assert "never fires on" in text
    assert f'value="{1 - 0.05 ** (1 / 250000)!r}"' in text
    assert "Values" not in text


def test_contexts_are_those_of_the_examples_strongest_first(ask, busiest, file):
    found = Page(file.read_text())
    passages, marks = iter(found.passages), iter(found.marks)
    seen = 0
    for feature in busiest:
        rows = ask(
            "SELECT e.*, c.text, c.char_offsets FROM examples e JOIN contexts c USING (context) "
            "WHERE feature = $f ORDER BY subsample = 'quantile', stratum DESC, rank",
            f=feature,
        )
        for row in rows:
            low, high = row["window_start"], row["window_start"] + row["window_length"]
            assert (
                next(passages) == row["text"][row["char_offsets"][low] : row["char_offsets"][high]]
            )
            assert next(marks) == [round(v, 4) for v in row["values"]]
            seen += 1
    assert seen
    assert list(passages) == []


def test_the_list_is_the_answer_of_a_question(lake, tmp_path, ask):
    text = lake.report(f"features/{NAME}", tmp_path / "all.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert data["sections"] == []
    rows = feature_lines(lake.analysis("demo/topk-32")).to_pylist()
    promoted = ask(
        "SELECT feature, token FROM logits WHERE sign = 1 AND rank < 4 ORDER BY feature, rank"
    )
    promotes = {}
    for row in promoted:
        promotes.setdefault(row["feature"], []).append(alone(row["token"]))
    told = ask(
        "SELECT f.feature, density, n_firings, n_contexts, max, mean, q50, v.token top_token, top_token_share, "
        "dec_norm FROM features f LEFT JOIN vocabulary v ON v.token_id = top_token_id ORDER BY f.feature"
    )
    assert len(rows) == len(told) == len(data["columns"]["feature"])
    for n, row in enumerate(told):
        for name, x in row.items():
            shown = data["columns"][name][n]
            if name == "top_token":
                assert shown == (None if x is None else alone(x))
            else:
                assert shown == (x if x is None else pytest.approx(x, rel=1e-7)), name
        assert data["columns"]["promotes"][n] == promotes[row["feature"]]


HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "\"'&",
    "\u202eabc",
    "\n",
    "\r\n",
    "\x1b[31m",
    "",
    "  ",
    "👩‍🔬",
]


_SAID = ("<script>alert(1)</script>", "\"'&", "a\n</dl>")


def hostile(**changes):
    whole = page(
        dictionary="<b>",
        top_token=HOSTILE[0],
        groups=(
            replace(
                page().groups[0],
                examples=(
                    replace(
                        example(HOSTILE, [float(n) for n in range(1, 11)]), document_id="<i>\"'"
                    ),
                ),
            ),
        ),
        logits=tuple(
            replace(each, promoted=tuple(replace(each.promoted[0], token=t) for t in HOSTILE))
            for each in page().logits
        ),
        annotations=tuple(
            annotation("notes", text, author=" ".join(text.split())) for text in _SAID
        ),
    )
    whole = replace(whole, **changes)
    lines = {
        "feature": [17, 18], "n_firings": [5, 0], "density": [0.5, 0.0], "n_contexts": [3, 0],
        "max": [1.5, None], "mean": [1.0, None], "q50": [1.0, None], "dec_norm": [1.0, 2.0],
        "top_token": [HOSTILE[1], None], "top_token_share": [0.5, None], "promotes": [HOSTILE, []],
    }  # fmt: skip
    import pyarrow as pa

    seen = Overview(2, 1, 10, 5, 0.26, DensityHistogram((-1.0, 0.0), (1,)), (17,))
    found = FeaturesReport("demo/<b>/default", seen, pa.table(lines), [17], whole.provenance)
    return features_html(found, [whole])


def test_hostile_text_is_text():
    text = hostile()
    found = Page(text)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 2  # the data, and the one that the policy knows
    assert not {"b", "i", "img", "link", "iframe"} & set(tags)
    notes = "".join(found.words)
    assert all(line in notes for text in _SAID for line in text.split("\n"))
    assert found.passages == ["".join(HOSTILE).replace("\x1b", "␛")]
    assert [row[0] for row in found.tables["Promotes"]] == [alone(t) for t in HOSTILE]
    data = json.loads(found.scripts[0])
    assert data["columns"]["promotes"] == [[alone(t) for t in HOSTILE], []]
    assert data["columns"]["top_token"] == ["</script>", None]
    assert "is read from" not in text  # no feature here attends
    assert "src=" not in text
    assert not re.search(r"url\(|https?://", text)


def test_a_section_is_bounded_whatever_was_analysed():
    long = example(["word"] * 3000, [9.0 - n / 1000 for n in range(3000)])
    groups = tuple(
        replace(
            page().groups[0],
            subsample=f"s{s}",
            examples=tuple(replace(long, rank=r) for r in range(60)),
        )
        for s in range(3)
    )
    place = feature_section.Place([17], 0)
    pairs = tuple(
        HeadPair(f"blocks.{i}.hook_resid_post", f"blocks.{j}.hook_resid_post", j / 50, 1.0)
        for j in range(48)
        for i in range(j)
    )
    said = tuple(annotation("notes", "<word> " * 1000) for _ in range(40))
    writes = (Written("blocks.0.hook_resid_post", 1.0, 1.0),)
    text = feature_section.section(
        page(groups=groups, writes=writes, pairs=pairs, annotations=said), place
    )
    assert "more characters" in text
    assert re.search(r"\d+ more in the lake", text)
    assert "the most alike 36 of 1128" in text
    assert len(text.encode()) < 170_000
    found = Page(text)
    shown = [len(p) for p in found.passages]
    assert len(shown) > 10
    assert max(shown) <= 65 * 4
    told = re.findall(r"(\d+) of 60 here", text)
    assert sum(map(int, told)) == len(shown)
    assert max(map(int, told)) - min(map(int, told)) <= 1  # of each group as many


def test_what_a_head_writes_and_what_attention_reads_is_there():
    one = replace(example(["a", " b"], [0.0, 2.0]), reads=(Read(0, "a", 1.5), Read(None, "", 0.5)))
    text = feature_section.section(
        page(
            writes=(Written("h.0", 3.0, 0.75, 0.1, 0.2), Written("h.1", 1.0, 0.25)),
            pairs=(HeadPair("h.0", "h.1", 0.5, 1.5),),
            groups=(replace(page().groups[0], examples=(one,)),),
        ),
        feature_section.Place([17], 0),
    )
    found = Page(text)
    assert found.tables["writes to"] == [["h.0", 3.0, 0.75, 0.1, 0.2], ["h.1", 1.0, 0.25, "–", "–"]]
    assert found.tables["alike at"] == [["h.0", "h.1", 0.5]]
    assert found.tables["reads at"] == [["0", "a", "1.5000"], ["others", "", "0.5000"]]
    assert ("span", {"class": "read"}) in found.tags


def test_a_choice_that_cannot_be_is_refused(lake, tmp_path):
    for choice, error, message in (
        ({"features": [10**6]}, FeatureNotFoundError, "1000000"),
        ({"query": "SELECT 1 AS n"}, QueryError, "which features"),
        ({"query": "SELECT feature FROM features WHERE false"}, QueryError, "no feature"),
        ({"query": "DROP TABLE features"}, QueryError, "DROP"),
    ):
        with pytest.raises(error, match=message):
            lake.report("demo/topk-32", tmp_path / "x.html", **choice)
    with pytest.raises(ArtefactNotFoundError):
        lake.report("demo/none", tmp_path / "x.html", features=[1])
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        lake.report("demo/topk-32", tmp_path / "x.png", features=[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.serve
def test_a_browser_sorts_searches_and_goes_to_features(browser, lake, busiest, file):
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    view = context.new_page()
    said, asked = [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(file.as_uri())
    first = "#features tbody tr:first-child td:first-child"
    assert view.locator(first).inner_text() == str(busiest[0])  # as they were given
    view.locator("th button", has_text="firings").focus()
    view.keyboard.press("Enter")
    column = view.locator("th[aria-sort=descending]")
    assert column.inner_text().strip() == "firings"
    view.keyboard.press("Enter")
    assert view.locator("th[aria-sort=ascending] button").inner_text() == "firings"
    assert view.locator(first).inner_text() == str(busiest[1])
    view.fill("#find", str(busiest[0]))
    assert view.locator("#features tbody tr").count() == 1
    assert "1 of" in view.inner_text("#found")
    view.click(f"#features a[href='#feature-{busiest[0]}']")
    assert view.evaluate("location.hash") == f"#feature-{busiest[0]}"
    title = view.locator(f"#feature-{busiest[0]} h2")
    assert title.is_visible()
    assert view.evaluate("e => e.getBoundingClientRect().top", title.element_handle()) < 200
    view.locator(f"#feature-{busiest[0]} .group summary").nth(1).click()
    view.fill("#find", "no such token")
    assert view.inner_text("#span") == "none"
    assert said == []
    assert asked == [file.as_uri()]
    context.close()


@pytest.mark.serve
def test_hostile_text_does_nothing_in_a_browser(browser, tmp_path):
    target = tmp_path / "hostile.html"
    target.write_text(hostile())
    view = browser.new_page(offline=True, color_scheme="dark")
    said = []
    view.on("console", lambda message: said.append(message.text))
    view.on("dialog", lambda dialog: said.append(dialog.message))
    view.goto(target.as_uri())
    assert view.locator("#features tbody tr").count() == 2
    view.check("#silent")
    assert view.locator("#features tbody tr").count() == 1
    assert view.locator("#features tbody td:first-child").inner_text() == "18"
    assert view.locator(".passage").inner_text().startswith("<script>alert(1)</script>")
    assert said == []
    view.close()


def test_a_hard_negative_names_its_token_and_what_is_unknown_is_said():
    silent = replace(example(["a", " <b>"], [0.0, 0.0]), peak_position=1)
    hard = ExampleGroup("hard", "near", 0, 1, 7, (silent,))
    origin = replace(page().provenance, keeps_firings=False)
    text = feature_section.section(
        page(groups=(hard,), provenance=origin), feature_section.Place([17], 0)
    )
    assert "Hard negatives: silent where a feature like it fires" in text
    assert 'at 1 <code class="token"><bdi> &lt;b&gt;</bdi></code>' in text
    assert "no firings were kept" in text


def test_what_fires_below_zero_is_marked_and_explained():
    top = ExampleGroup("top", "top", 0, 1, 77, (example(("a", " b", " c"), (0.0, -9.25, 4.0)),))
    text = hostile(groups=(top,))
    assert '<mark class="below s v100" title="1: -9.2500 (100%)"> b</mark>' in text
    assert "is below zero" in text
    assert "is below zero" not in hostile()


def test_explanations_are_in_the_section_and_in_the_list(tmp_path):
    lake = Lake.at(tmp_path)
    planted_analysis(lake)
    explained = [Explained(4, "a <b>word</b>", scores={"detection": 0.9}), Explained(5, "says x")]
    interpretation_run(lake, "planted/relu/default", "first", explained)
    analysis = saestore.open_lake(tmp_path).analysis("planted/relu")
    lines = feature_lines(analysis)
    found = FeaturesReport(
        analysis.ref.name, overview(analysis), lines, (4, 7), analysis.provenance
    )
    text = features_html(found, analysis.pages([4, 7]))
    assert "<em>a &lt;b&gt;word&lt;/b&gt;</em>" in text
    assert "detection 0.90 (0.80 to 1.00)" in text
    assert text.count('class="explanations"') == 1
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["columns"]
    assert data["explanation"][4:7] == ["a <b>word</b>", "says x", None]
    assert data["explanation_score"][4:7] == [0.9, None, None]


def test_a_section_is_small_whatever_models_say():
    many = [explanation("x" * 100_000, {"detection": 0.5}, run=f"r{n}") for n in range(500)]
    text = feature_section.section(page(explanations=tuple(many)), Place((17,), 0))
    assert len(text) < 60_000
    assert "500 explanations" in text
    assert "more in the lake" in text
