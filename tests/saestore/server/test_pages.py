"""Every page in a real browser: it says what the lake says, by keys as by mouse, and lets nothing in."""

import re
import shutil
import threading
import time
from contextlib import contextmanager
from urllib.parse import quote

import httpx
import pytest
import uvicorn

import saestore
from saestore.api.serving import LiveModels
from saestore.server import create_app
from saestore.server.pages import assets
from saestore.server.pages.listing import ROWS
from saestore.testing.interpretations import Explained, interpretation_run
from saestore_schemas.server import ServerSettings


NAME = "demo/topk-32/default"
FEATURES = f"/features/{NAME}"
TOKEN = "a token of sixteen letters"  # noqa: S105 - of a server in a test
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&amp;"
TEXT = "The cat sat on the mat."

pytestmark = pytest.mark.serve


@contextmanager
def serving(lake, live=None, **settings):
    """Serve a lake from a thread; yield where."""
    app = create_app(lake, ServerSettings(**settings), live=live)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def lake(demo_lake_folder, tmp_path_factory):
    """A lake of this module, as it is written to."""
    folder = tmp_path_factory.mktemp("pages") / "lake"
    shutil.copytree(demo_lake_folder / "demo-lake", folder)
    lake = saestore.open_lake(folder, device="cpu")
    scores = {"detection": 0.85, "fuzzing": 0.6}
    explained = [
        Explained(f, f"{HOSTILE} {'many words ' * 40}", name, scores)
        for f in (7, 8)
        for name in ("quantile", "top")
    ]
    interpretation_run(lake.lake, NAME, "first", explained)
    return lake


@pytest.fixture(scope="module")
def url(lake):
    live = LiveModels("the tiny model", lake.live)
    with serving(lake.lake, live, annotate=True) as where:
        yield where


@pytest.fixture(scope="module")
def ask(lake):
    """A function that answers SQL inside the analysis."""
    analysis = lake.analysis(NAME)
    return lambda sql, **given: analysis.sql(sql, given).to_pylist()


@pytest.fixture
def view(browser, url):
    """A page of a browser, in which nothing may fail: no script, no file, no breach of the policy."""
    context = browser.new_context(base_url=url, viewport={"width": 1200, "height": 900})
    context.set_default_timeout(10_000)
    opened = context.new_page()
    said = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    # going on before all has come is no failure
    opened.on("requestfailed", lambda r: "ABORTED" in r.failure or said.append(r.url))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    yield opened
    assert said == []
    context.close()


def rows_of(view):
    return [int(x) for x in view.locator("#lines tr:not(.gap) td:first-child").all_inner_texts()]


PAGES = {
    "lake": "/",
    "features": f"{FEATURES}?sort=density&order=desc&filter=density>0",
    "feature": f"{FEATURES}/7",
    "compare": f"/compare?a={NAME}/7&b=8",
    "evaluation": "/artefacts/evaluation/demo/topk-32/default",
    "run": f"/artefacts/interpretation/{NAME}/first",
    "sql": "/sql?sql=" + quote("SELECT feature, density, max FROM features"),
    "query": f"/sql?query=top_contexts&on={NAME}&p.feature=7",
    "text": f"/text?on={NAME}&text={quote(TEXT)}",
    "bookmarks": "/bookmarks",
    "login": "/login?failed=1&next=/",
}


def test_each_page_is_whole_small_named_and_fits_a_phone(view, url, pytestconfig):
    shots = pytestconfig.rootpath / ".artefacts" / "pages"
    shots.mkdir(parents=True, exist_ok=True)
    for name, path in PAGES.items():
        view.set_viewport_size({"width": 1200, "height": 900})
        answer = view.goto(path)
        assert answer.status == 200, path
        assert len(answer.body()) < 200_000, path
        assert view.locator("h1").count() == 1
        assert unnamed(view) == [], path
        view.screenshot(path=shots / f"{name}.png")
        view.set_viewport_size({"width": 390, "height": 800})
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert view.evaluate(wide) <= 0, path
        view.screenshot(path=shots / f"{name}-phone.png")


def unnamed(view):
    """Return what a reader of the screen could not name."""
    roles = "link|button|textbox|searchbox|combobox|checkbox|img|region|navigation|dialog"
    lines = view.locator("body").aria_snapshot().splitlines()
    return [line for line in lines if re.match(rf"\s*- ({roles})(?! \")", line)]


def test_from_a_search_to_a_note_and_back(view, ask, lake):
    (top,) = ask(
        "SELECT f.feature, v.token FROM features f JOIN vocabulary v ON v.token_id = f.top_token_id "
        "WHERE regexp_matches(v.token, '^.?[a-z]{2,}$') ORDER BY n_firings DESC, feature LIMIT 1"
    )
    word = top["token"].strip()
    view.goto(f"/dictionaries/{NAME.rpartition('/')[0]}")
    view.keyboard.press("/")
    view.keyboard.type(word)
    view.wait_for_url("**search=*")
    view.locator(f"#lines a[href^='{FEATURES}/{top['feature']}?']").first.click()
    assert view.locator("h1").inner_text().startswith(f"Feature {top['feature']}")
    (near,) = ask(
        "SELECT neighbour FROM neighbours WHERE feature = $f AND method = 'dec_cos' ORDER BY rank LIMIT 1",
        f=top["feature"],
    )
    view.locator(".panel", has_text="Related features").get_by_role(
        "link", name=str(near["neighbour"]), exact=True
    ).first.click()
    view.wait_for_url(f"**{FEATURES}/{near['neighbour']}?*")
    assert view.locator("h1").inner_text().startswith(f"Feature {near['neighbour']}")

    write(view, author="ana", name=HOSTILE, tag="odd, later", notes="one\ntwo")
    view.locator("#notes .said").wait_for()
    view.keyboard.press("b")
    view.locator("#bookmark[aria-pressed=true]").wait_for()
    view.reload()
    told = view.locator("#notes .said").inner_text()
    assert HOSTILE in told
    assert "one\ntwo" in told
    assert view.locator("#bookmark").get_attribute("aria-pressed") == "true"
    held = {
        event.field: (event.value, event.author)
        for event in lake.analysis(NAME).annotations.of(near["neighbour"])
    }
    assert held == {
        "name": (HOSTILE, "ana"),
        "tag": (["odd", "later"], "ana"),
        "notes": ("one\ntwo", "ana"),
        "bookmark": (True, "ana"),
    }

    view.goto("/bookmarks?tag=odd")
    assert view.locator("td", has_text="<img").count() == 1
    view.get_by_role("link", name=str(near["neighbour"]), exact=True).click()
    view.wait_for_url(f"**{FEATURES}/{near['neighbour']}")
    write(view, tag="", name="plain")
    view.locator("#notes .said", has_text="plain").wait_for()
    held = {e.field: e.value for e in lake.analysis(NAME).annotations.of(near["neighbour"])}
    assert held == {"name": "plain", "notes": "one\ntwo", "bookmark": True}
    view.goto(f"{FEATURES}?search=plain")
    assert rows_of(view) == [near["neighbour"]]


def write(view, **fields):
    view.keyboard.press("e")
    for name, text in fields.items():
        view.fill(f"#note-{name}", text)
    view.keyboard.press("Control+Enter")


def test_the_list_is_the_table_from_end_to_end(view, ask):
    told = ask("SELECT feature FROM features ORDER BY density DESC, feature")
    wanted = [line["feature"] for line in told]
    view.goto(FEATURES)
    view.get_by_role("link", name="density").click()
    view.wait_for_url("**order=desc*")
    assert view.locator("th[aria-sort=descending]").inner_text().strip().startswith("density")
    seen = {}
    sheet = view.locator("#sheet")
    for top in range(0, 32 * len(wanted) + 800, 600):
        sheet.evaluate("(e, top) => { e.scrollTop = top }", top)
        view.wait_for_timeout(60)
        lines = view.evaluate(
            "[...document.querySelectorAll('#lines tr:not(.gap)')].map(e => [Number(e.ariaRowIndex), Number(e.cells[0].innerText)])"
        )
        seen |= dict(lines)
    assert [seen[n] for n in sorted(seen)] == wanted
    assert sorted(seen) == list(range(2, len(wanted) + 2))

    view.select_option("select[name=condition]", "n_firings")
    view.select_option("select[name=op]", "≥")
    view.fill("input[name=bound]", "5")
    view.get_by_role("button", name="Show").click()
    view.wait_for_url("**filter=*")
    kept = ask("SELECT feature FROM features WHERE n_firings >= 5 ORDER BY density DESC, feature")
    assert rows_of(view)[:20] == [line["feature"] for line in kept][:20]
    assert f"{len(kept):,} of" in view.inner_text("#found")
    first = rows_of(view)[0]
    view.keyboard.press("j")
    view.keyboard.press("j")
    view.keyboard.press("k")
    view.keyboard.press("Enter")
    view.wait_for_url(f"**{FEATURES}/{first}?*")
    view.keyboard.press("n")
    view.wait_for_url(f"**{FEATURES}/{kept[1]['feature']}?*")
    view.keyboard.press("u")
    view.get_by_role("link", name="without n_firings>=5.0").click()
    view.wait_for_url(lambda where: "filter" not in where)


def test_a_bar_of_the_densities_leads_to_its_features(view, ask):
    view.goto(FEATURES, wait_until="networkidle")
    box = view.locator("#densities .u-over").bounding_box()
    view.mouse.click(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2)
    view.wait_for_url("**filter=*")
    bounds = [chip.split("density")[1] for chip in view.locator("#chips a").all_inner_texts()]
    (told,) = ask(
        f"SELECT count(*) n FROM features WHERE density{bounds[0]} AND density{bounds[1]}"
    )
    assert view.inner_text("#found").startswith(f"{told['n']:,} of")


def test_keys_are_told_and_colours_are_kept(view):
    view.goto(f"{FEATURES}/7")
    view.keyboard.press("?")
    told = view.locator("#keys-dialog").inner_text()
    assert "the feature after" in told
    assert "bookmark it, or not" in told
    view.keyboard.press("Escape")
    ground = "getComputedStyle(document.body).backgroundColor"
    view.keyboard.press("d")
    light = view.evaluate(ground)
    view.keyboard.press("d")
    dark = view.evaluate(ground)
    assert light != dark
    view.reload()
    assert view.evaluate(ground) == dark
    view.keyboard.press("d")


def test_a_question_is_answered_drawn_and_kept_in_the_address(view, lake):
    sql = (
        "SELECT series, dictionary, analysis, feature, density, max FROM features ORDER BY feature"
    )
    view.goto("/sql")
    view.keyboard.press("/")
    view.keyboard.type(sql)
    view.keyboard.press("Control+Enter")
    view.wait_for_url("**sql=*")
    told = lake.sql(sql).to_pylist()
    assert view.locator("#answer").inner_text().startswith(f"{len(told):,} rows")
    cells = view.locator(".answer tbody tr").nth(3).locator("td").all_inner_texts()
    assert cells[3] == str(told[3]["feature"])
    assert view.locator("#chart canvas").count() == 1
    view.select_option("#chart-kind", "histogram")
    view.select_option("#chart-y", label="density")
    assert "chart=histogram" in view.url
    view.reload()
    assert view.locator("#chart figcaption").inner_text().startswith("rows by density")
    view.locator(".answer tbody a").first.click()
    assert view.locator("h1").inner_text().startswith(f"Feature {told[0]['feature']}")


def test_a_text_says_its_features(view, lake):
    told = lake.features_for_text(NAME, TEXT, 5).to_pylist()
    view.goto("/text")
    view.keyboard.press("/")
    view.keyboard.type(TEXT)
    view.get_by_role("button", name="Show its features").click()
    view.wait_for_url("**text=The*")
    shown = view.locator("section", has_text="Its strongest features").locator("tbody tr")
    first = shown.first.locator("td").all_inner_texts()
    assert first[0] == str(told[0]["feature"])
    view.goto(f"/text?on={NAME}&text={quote('one two' + chr(10) + 'three')}")
    reading = view.locator(".reading").inner_text()
    assert "↵\n" in reading
    assert "three" in reading.split("↵\n")[1]
    token = view.locator("[data-token]").first
    token.click()
    assert view.locator("#at-token tbody tr").count() >= 1
    view.keyboard.press("ArrowRight")
    assert view.locator("[data-token][aria-pressed=true]").count() == 1
    assert token.get_attribute("aria-pressed") == "false"


def test_without_scripts_the_same_addresses_say_the_same(browser, url, ask):
    context = browser.new_context(base_url=url, java_script_enabled=False)
    view = context.new_page()
    view.goto(f"{FEATURES}?sort=max&order=desc")
    told = [
        line["feature"]
        for line in ask("SELECT feature FROM features ORDER BY max DESC NULLS LAST, feature")
    ]
    assert rows_of(view) == told[:ROWS]
    view.get_by_role("link", name="next →").click()
    assert rows_of(view) == told[ROWS : 2 * ROWS]
    view.goto(f"{FEATURES}/{told[0]}")
    assert view.locator(".chart svg").first.is_visible()
    context.close()


def test_what_another_site_leads_to_is_not_computed(url):
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Accept": "text/html"}
    for path in (PAGES["sql"], PAGES["text"]):
        assert "led here" in httpx.get(url + path, headers=elsewhere).text
        assert "led here" not in httpx.get(url + path).text


def test_a_page_is_sent_again_when_something_was_said(url, lake):
    path = f"{url}{FEATURES}/3"
    first = httpx.get(path)
    tag = {"If-None-Match": first.headers["etag"]}
    assert httpx.get(path, headers=tag).status_code == 304
    lake.analysis(NAME).annotations.say({3: {"name": "third"}}, author="bo", source="test")
    again = httpx.get(path, headers=tag)
    assert again.status_code == 200
    assert "third" in again.text


def test_problems_are_pages_that_say_what_to_do(url):
    for path, status, words in (
        (f"{FEATURES}/999999", 404, "has no feature"),
        (f"{FEATURES}?sort=densty", 422, "did you mean density"),
        (f"{FEATURES}?filter=density", 422, "is no condition"),
        (f"{FEATURES}?{'filter=max>0&' * 21}", 422, "at most 20 conditions"),
        (f"{FEATURES}?search={'a+' * 501}", 422, "1000 characters"),
        ("/features/demo/none/default", 404, "topk-32"),
        ("/artefacts/features/..%2F..%2Fetc/x/y", 404, "features"),
        ("/compare?a=seven", 422, "series/name/analysis/feature"),
        ("/sql?sql=DROP%20TABLE%20features", 422, "queries only read"),
        (f"/sql?query=top_contexts&on={NAME}&p.feature=x", 422, "expected int"),
        ("/nothing", 404, "back to the lake"),
        (f"/static/{assets.digest()}/none.js", 404, "load the page anew"),
    ):
        answer = httpx.get(url + path, headers={"Accept": "text/html"})
        assert answer.status_code == status, path
        assert words in answer.text, path
        assert "<h1>" in answer.text


def test_who_has_the_token_logs_in_once(browser, lake):
    with serving(lake.lake, token=TOKEN) as where:
        context = browser.new_context(base_url=where)
        view = context.new_page()
        view.goto(f"{FEATURES}/7?sort=density")
        assert view.url.startswith(f"{where}/login")
        view.fill("#token", "not the token at all")
        view.keyboard.press("Enter")
        assert view.locator("[role=alert]").inner_text() == "That is not the token."
        view.fill("#token", TOKEN)
        view.keyboard.press("Enter")
        view.wait_for_url(f"{where}{FEATURES}/7?sort=density")
        assert view.locator("#edit").count() == 0  # it was not started to be written to
        context.close()


def test_pages_are_small_whatever_is_asked(url, lake, ask):
    (one, other) = ask("SELECT feature FROM features ORDER BY n_firings DESC, feature LIMIT 2")
    for path in (
        "/sql?sql=" + quote("SELECT * FROM contexts, range(60)"),
        "/sql?sql="
        + quote("SELECT range / 7 AS x, sin(range) AS y, 'x' || range AS z FROM range(9000)"),
        f"/text?on={NAME}&text={'0123456789' * 120}",
        f"/compare?a={NAME}/{one['feature']}&b={other['feature']}",
    ):
        answer = httpx.get(url + path, timeout=30)
        assert answer.status_code == 200, path
        assert len(answer.content) < 200_000, path
