"""Reports: one file that needs nothing else, says what the page says, and lets nothing in."""

import errno
import importlib
import os
import re
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import pytest

import saestore
from saestore import report
from saestore.errors import (
    ConfigError,
    MissingExtraError,
    StoppedError,
    StorageError,
    UnsupportedError,
)
from saestore.lake import Lake
from saestore.report import (
    Bands,
    Density,
    Document,
    Lines,
    Points,
    Sheet,
    artefact_documents,
    draw,
    labels,
)
from saestore.report.artefacts import Curve, Densities
from saestore.testing.stores import HOOKPOINT, synthetic_store


@pytest.fixture(autouse=True)
def matplotlib():
    if os.environ.get("TESTS_REQUIRE_PARTS"):
        return importlib.import_module("matplotlib")
    return pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def settings(name, **changes):
    return {
        "series": "s",
        "name": name,
        "activations": {"name": "synthetic", "batch_rows": 64},
        "dictionary": {
            "family": "sae", "hookpoint": HOOKPOINT, "d_sae": 23,
            "activation": {"kind": "jumprelu"},
        },
        "loss": {"sparsity": {"kind": "tanh", "coefficient": 0.5}},
        "budget": {"epochs": 2.0},
        "log": {"every": 4},
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    synthetic_store(Lake.at(folder / "lake"), rows=600, width=7)
    opened = saestore.open_lake(folder / "lake")
    opened.train(settings("one"))
    with pytest.raises(StoppedError):
        opened.train(settings("halfway"), time_limit_s=1e-9)
    grid = {"loss.sparsity.coefficient": [0.1, 1.0]}
    opened.sweep(settings("c", sweep={"name": "both", "grid": grid}))
    return opened


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.found, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data.strip())


def test_a_dictionary_is_one_page_that_loads_nothing(lake, tmp_path):
    text = lake.report("dictionaries/s/one", tmp_path / "one.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "default-src 'none'" in text
    links = [value for _, name, value in page.found if name in {"src", "href", "xlink:href"}]
    assert links
    assert all(link.startswith(("#", "data:image/png")) for link in links)
    assert not re.search(r"url\((?!#)", text)
    for title in (
        "Loss and its terms", "Explained variance of each logged batch",
        "Share of features by density", "Thresholds: mean, smallest to largest",
        "Learning rate", "Rows a second",
    ):  # fmt: skip
        assert title in page.words
    assert "dictionary.activation.kind" in page.words  # every setting
    ids = [value for _, name, value in page.found if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(link[1:] in ids for link in links if link.startswith("#"))
    again = lake.report("dictionaries/s/one", tmp_path / "again.html").read_text()
    assert again == text


def test_a_run_under_way_has_a_picture(lake, tmp_path):
    data = lake.report("s/halfway@latest", tmp_path / "now.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert height > 500


def test_a_sweep_is_points_with_names_and_a_table(lake, tmp_path):
    page = Page(lake.report("sweeps/both", tmp_path / "both.html").read_text())
    assert "explained_variance against L0" in page.words
    assert page.words.count("c-coefficient0.1") >= 1
    assert '{"loss.sparsity.coefficient": 0.1}' in page.words


def test_what_has_no_report_says_where_to_look(lake, tmp_path):
    with pytest.raises(UnsupportedError, match="no report of activations") as caught:
        lake.report("activations/synthetic", tmp_path / "x.html")
    assert "saestore show" in caught.value.hint
    for name, message in (
        ("x.pdf", "ends in .html or .png"),
        ("no/x.html", "a folder that exists"),
    ):
        with pytest.raises(ConfigError, match=message):
            lake.report("dictionaries/s/one", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file_and_a_read_only_place_is_told(lake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    for wrong in (".", "folder.html"):
        with pytest.raises(ConfigError, match="--to") as caught:
            lake.report("dictionaries/s/one", wrong)
        assert "report.html" in caught.value.hint
    full = OSError(errno.ENOSPC, "no space")

    def fails(*_):
        raise full

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(StorageError, match="No space left") as stopped:
        lake.report("dictionaries/s/one", "x.html")
    assert "free space" in stopped.value.hint
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == []


def test_without_matplotlib_the_error_says_what_to_install(lake, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError) as caught:
        lake.report("dictionaries/s/one", tmp_path / "x.html")
    assert caught.value.hint == "pip install 'saestore[report]'"


EVIL = "<script>alert('$x_1$')</script>&\"'"


def test_numbers_of_a_log_scale_have_room_and_a_lone_curve_says_what_it_is():
    decades = {"loss": (1e3, 500.0, 200.0), "loss_pre_activation": (1e-3, 2e-3, 1e-3)}
    steps = dict.fromkeys(decades, (1, 2, 3))
    words = Page(draw.svg(Lines("Terms", steps, decades, log=True))).words
    numbers = [word for word in words if re.fullmatch(r"[0-9.]+", word) and "Terms" not in word]
    assert {"0.001", "1000"} <= set(numbers)
    assert not {"500", "0.002", "20"} & set(numbers)
    near = {"loss": (100.0, 500.0, 200.0)}
    assert "200" in Page(draw.svg(Lines("L", {"loss": (1, 2, 3)}, near, log=True))).words
    curves = {"weight_sparsity": Curve("weight_sparsity", (1, 2), (0.0, 1.0))}
    plots = artefact_documents._plots(curves, Densities((), ()), {})
    assert [plot.title for plot in plots] == ["Weights of the terms: weight_sparsity"]


def test_every_text_is_escaped(tmp_path):
    steps = {EVIL: (1, 2, 3)}
    document = Document(
        title=EVIL,
        summary=EVIL,
        figures=((EVIL, EVIL),),
        plots=(
            Lines(EVIL, steps, {EVIL: (1.0, None, 0.0)}, log=True),
            Bands(EVIL, (1, 2), {EVIL: ((1.0, 1.0), (2.0, 2.0), (3.0, None))}),
            Density(EVIL, (1,), ((0.5, 0.5),), (EVIL, "never")),
            Points(EVIL, EVIL, EVIL, MappingProxyType({EVIL: (1.0, 2.0)}), (EVIL,)),
        ),
        sheets=(Sheet(EVIL, (EVIL,), ((EVIL,),)), Sheet(EVIL, ("a",), ((EVIL,),), folded=True)),
        foot=EVIL,
    )
    text = report.write(document, tmp_path / "evil.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert page.words.count(EVIL) >= 12
    assert report.write(document, tmp_path / "evil.png").stat().st_size > 1000


def test_names_of_points_cover_neither_each_other_nor_points():
    room = {"width": 300.0, "height": 150.0}
    near = [(36.0, 75.0), (36.0, 70.0), (264.0, 140.0), (264.0, 130.0)]
    names = ["t-k1-lr0.001", "t-k1-lr0.0003", "t-k4-lr0.001", "t-k4-lr0.0003"]
    found = labels.places(near, names, **room)
    assert None not in found
    boxes = [
        labels._box(x, y, name, place)
        for (x, y), name, place in zip(near, names, found, strict=True)
    ]
    assert not any(a.meets(b) for n, a in enumerate(boxes) for b in boxes[:n])
    assert all(box.left >= 0 and box.right <= 300 and box.top <= 150 for box in boxes)
    crowd = labels.places([(150.0, 75.0)] * 40, ["a long name"] * 40, **room)
    assert crowd[0] is not None
    assert crowd.count(None) > 20
