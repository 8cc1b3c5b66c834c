"""A page of texts under features: it says the text itself, lets nothing in, and can be read by all."""

import re
from html.parser import HTMLParser

import pytest

from saestore.errors import ConfigError
from saestore.features import Highlight
from saestore.report import highlights_html, write_highlights
from saestore.testing.pages import example


WORDS = [
    "<bos>",
    " a&b",
    "<script>alert(1)</script>",
    "\"'",
    "\n",
    "",
    "\r\n",
    "é\u202e",
    "\x1b[31m",
]
VALUES = [0.0, 0.5, 9.0, 5.0, 2.0, 1.0, 0.0, 0.0, 3.0]


def highlight(*examples, **changes):
    given = {
        "dictionary": "demo/<topk>", "feature": 17, "n_features": 40, "max": 9.0, "density": 0.01,
        "stored": False, "names": ("text 1",),
    }  # fmt: skip
    return Highlight(**{**given, **changes}, examples=tuple(examples))


class Page(HTMLParser):
    """Tags with their attributes, and the text of each passage."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.passages, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if dict(attrs).get("class") == "passage":
            self.inside = True
            self.passages.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "p"

    def handle_data(self, data):
        if self.inside:
            self.passages[-1] += data


def test_a_passage_is_the_text_and_every_value_can_be_read():
    page = Page(highlights_html([highlight(example(WORDS, VALUES))]))
    assert page.passages == ["".join(WORDS).replace("\x1b", "␛")]
    marks = [attrs for tag, attrs in page.tags if tag == "mark" and "title" in attrs]
    assert [mark["title"].split()[:2] for mark in marks] == [
        [f"{at}:", f"{value:.4f}"] for at, value in enumerate(VALUES) if value
    ]
    kinds, strengths = zip(
        *(re.fullmatch(r"(.*)\bv(\d+)", m["class"]).groups() for m in marks), strict=True
    )
    assert [kind.strip() for kind in kinds] == ["", "s", "m", "line", "part", "m"]
    strengths = [*map(int, strengths)]
    assert [s for _, s in sorted(zip([v for v in VALUES if v], strengths, strict=True))] == sorted(
        strengths
    )
    assert all(12 <= s <= 100 for s in strengths)


def test_nothing_runs_or_is_fetched_and_light_and_dark_are_there():
    text = highlights_html([highlight(example(WORDS, VALUES)), highlight()])
    page = Page(text)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.tags}
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "color-scheme: light dark" in text
    assert ("html", {"lang": "en"}) in page.tags
    assert "src=" not in text
    assert "url(" not in text
    assert "demo/&lt;topk&gt;" in text
    assert "fires in none of these texts" in text


def test_contrast_is_enough_in_light_and_dark():
    def luminance(colour):
        full = colour * 2 if len(colour) == 3 else colour
        parts = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    text = highlights_html([])
    both = re.findall(r"--(\w+): light-dark\(#([0-9a-f]{3,6}), #([0-9a-f]{3,6})\)", text)
    paper = re.search(r"@media print \{ :root \{([^}]*)\}", text)[1]
    schemes = [
        {name: light for name, light, _ in both},
        {name: dark for name, _, dark in both},
        dict(re.findall(r"--(\w+): #([0-9a-f]{3,6})", paper)),
    ]
    for colours in schemes:
        for ink, ground in (
            ("ink", "paper"),
            ("ink", "fire"),
            ("quiet", "paper"),
            ("quiet", "page"),
        ):
            one, other = sorted((luminance(colours[ink]), luminance(colours[ground])))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (ink, ground)


def test_the_file_is_written_where_the_name_says(tmp_path):
    target = tmp_path / "a.html"
    assert write_highlights([highlight(example(WORDS, VALUES))], target) == target
    assert target.read_bytes() == highlights_html([highlight(example(WORDS, VALUES))]).encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    with pytest.raises(ConfigError, match=r"--html: found .*a\.png.*ends in \.html"):
        write_highlights([], tmp_path / "a.png")
