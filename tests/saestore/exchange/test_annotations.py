"""Annotations from other tools and to them: what is read is written the same again."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

import saestore
from saestore.errors import ConfigError, FeatureNotFoundError
from saestore.exchange.annotations import FORMATS
from saestore.exchange.annotations.format import About
from saestore.fingerprint import canonical
from saestore.lake import Lake
from saestore.testing.analyses import planted_analysis


NAME = "planted/relu/default"
ABOUT = About("planted", "relu", "blocks.5.hook_resid_post", "FILE")


@pytest.fixture(scope="module")
def planted_folder(tmp_path_factory):
    lake = Lake.at(tmp_path_factory.mktemp("planted") / "lake")
    planted_analysis(lake)
    return lake.storage.local


@pytest.fixture
def lake(planted_folder, tmp_path):
    shutil.copytree(planted_folder, tmp_path / "lake")
    return saestore.open_lake(tmp_path / "lake")


@pytest.fixture
def other(planted_folder, tmp_path):
    shutil.copytree(planted_folder, tmp_path / "other")
    return saestore.open_lake(tmp_path / "other")


def put(path, what):
    path.write_bytes(what if isinstance(what, bytes) else json.dumps(what).encode())
    return path


# The guide of mlxterp gives these two entries, with ids of a larger dictionary.
REGISTRY = {
    "1": {
        "name": "geographic_locations",
        "description": "Activates on city and country names",
        "examples": ["Paris, France", "Tokyo, Japan", "New York City"],
        "confidence": "high",
        "notes": "Especially strong for European locations",
    },
    "5": {
        "name": "mathematical_notation",
        "description": "Activates on equations and formulas",
        "examples": ["E=mc²", "ax²+bx+c=0"],
        "confidence": "medium",
    },
}
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=20),
        "description": st.text(max_size=20),
        "examples": st.lists(st.text(max_size=9), max_size=3),
        "confidence": st.sampled_from(["high", "medium", "low"]),
        "notes": st.text(max_size=20),
    },
).filter(bool)


def test_a_registry_comes_out_as_it_went_in(lake, tmp_path):
    file = put(tmp_path / "sae_features.json", json.dumps(REGISTRY, indent=2).encode())
    report = lake.import_annotations(NAME, file, "mlxterp", author="ana")
    assert (report.features, report.added, report.known, report.notes) == (2, 9, 0, ())
    again = lake.import_annotations(NAME, file, "mlxterp", author="ana")
    assert (again.added, again.known) == (0, 9)
    out = tmp_path / "out.json"
    written = lake.export_annotations(NAME, out, "mlxterp")
    assert (written.features, written.events, written.bytes) == (2, 9, out.stat().st_size)
    assert out.read_bytes() == file.read_bytes()
    said = {e.field: (e.value, e.author, e.source) for e in lake.annotations(NAME, feature=1)}
    assert said["examples"] == (REGISTRY["1"]["examples"], "ana", "mlxterp")


@settings(max_examples=40)
@given(st.dictionaries(st.integers(0, 10**9).map(str), ENTRY, max_size=5))
def test_every_registry_is_the_same_after_canonical_json(registry):
    form = FORMATS["mlxterp"]
    found = form.read(json.dumps(registry).encode(), ABOUT)
    from saestore_schemas.annotations import AnnotationEvent

    events = [
        AnnotationEvent(
            event_id="0" * 26,
            feature=feature,
            field=field,
            value=value,
            author="a",
            source="b",
            created="2026-01-01T00:00:00Z",
        )
        for feature, fields in found.said.items()
        for field, value in fields.items()
    ]
    assert canonical(json.loads(form.write(events, ABOUT))) == canonical(registry)


LINES = b"""\
{"Component": "resid", "Layer": "5", "Feature": "3", "Name": "resid_5/3", "Annotation": "plural \\"subjects\\"", "Notes": "on \\"that\\""}
{"Component": "resid", "Layer": "5", "Feature": "4", "Name": "resid_5/4", "Annotation": "plural nouns", "Notes": ""}
"""


def test_lines_of_feature_circuits_come_out_as_they_went_in():
    form = FORMATS["feature-circuits"]
    more = (
        b'{"Component": "Component", "Layer": "", "Feature": "", "Name": "Name", "Annotation": "Annotation", '
        b'"Notes": "Notes"}\n'
        b'{"Component": "embed", "Feature": "1425", "Name": "embed/1425"}\n'
        b'{"Component": "attn", "Layer": "5", "Feature": "7", "Name": "attn_5/7", "Annotation": "x"}\n'
        b'{"Component": "attn", "Layer": "5", "Feature": "8", "Name": "attn_5/8", "Annotation": "x"}\n'
        b'{"Component": "resid", "Layer": "5", "Feature": "6", "Name": "resid_5/6", "Annotation": "x"}\n'
        b'{"Component": "resid", "Layer": "5", "Feature": "6", "Name": "resid_5/6", "Annotation": "y", '
        b'"notes": "z"}\n'
    )
    found = form.read(LINES + more, ABOUT)
    assert found.said == {
        3: {"description": 'plural "subjects"', "notes": 'on "that"'},
        4: {"description": "plural nouns"},
        6: {"description": "y", "notes": "z"},
    }
    assert found.notes == [
        "of other submodules, passed over: attn_5 (2), embed (1)",
        "feature 6 is there 2 times: the last one counts",
    ]
    embed = About("s", "d", "hook_embed", "FILE")
    assert form.read(more, embed).said == {1425: {}}
    with pytest.raises(ConfigError, match="hook_z") as caught:
        form.read(LINES, About("s", "d", "blocks.1.attn.hook_z", "FILE"))
    assert "json" in caught.value.hint


def test_feature_circuits_through_the_log(lake, tmp_path):
    analysis = lake.analysis(NAME)
    hookpoint = analysis.provenance.hookpoints[0]
    layer = re.search(r"\d+", hookpoint)[0]
    lines = LINES.replace(b'"5"', f'"{layer}"'.encode()).replace(b"_5/", f"_{layer}/".encode())
    assert hookpoint == f"blocks.{layer}.hook_resid_post"
    file = put(tmp_path / "10_32768.jsonl", lines)
    assert lake.import_annotations(NAME, file, "feature-circuits", author="sam").added == 3
    lake.annotate(NAME, 7, {"interpretation": "said by a model"}, author="bo")
    lake.annotate(NAME, 6, {"name": "neither"}, author="bo")
    out = tmp_path / "out.jsonl"
    lake.export_annotations(NAME, out, "feature-circuits", author="sam")
    assert out.read_bytes() == lines
    whole = lake.export_annotations(NAME, out, "feature-circuits")
    assert (whole.events, whole.left_out) == (4, 1)
    assert [json.loads(line)["Feature"] for line in out.read_text().splitlines()] == ["3", "4", "7"]
    assert json.loads(out.read_text().splitlines()[-1])["Annotation"] == "said by a model"


BOOKMARKS = [
    {
        "sae_name": "relu",
        "sae_series": "planted",
        "feature_index": 2,
        "created_at": "2025-05-06T07:08:09.123000Z",
        "tags": ["geo", "später"],
        "notes": "look again",
    },
    {
        "sae_name": "relu",
        "sae_series": "planted",
        "feature_index": 7,
        "created_at": "2025-05-06T07:08:10Z",
        "tags": [],
        "notes": None,
    },
]


@pytest.mark.parametrize("shape", ["list", "server", "mongoexport"])
def test_bookmarks_come_out_as_they_went_in(lake, tmp_path, shape):
    theirs = [dict(each) for each in BOOKMARKS]
    foreign = {**BOOKMARKS[0], "sae_name": "another"}
    what = [*theirs, foreign]
    if shape == "server":
        what = {"bookmarks": what, "total_count": 3}
    elif shape == "mongoexport":
        for each in theirs:
            each["created_at"] = {"$date": each["created_at"]}
            each["_id"] = {"$oid": "0" * 24}
        what = "\n".join(json.dumps(each) for each in what).encode()
    file = put(tmp_path / "bookmarks.json", what)
    report = lake.import_annotations(NAME, file, "llamascopium")
    assert (report.features, report.added) == (2, 4)
    assert report.notes == ("of other dictionaries, passed over: planted/another (1)",)
    assert lake.import_annotations(NAME, file, "llamascopium").added == 0
    out = tmp_path / "out.json"
    lake.export_annotations(NAME, out, "llamascopium")
    assert json.loads(out.read_bytes()) == BOOKMARKS
    lake.annotate(NAME, 3, {"tag": ["not bookmarked"]})
    assert lake.export_annotations(NAME, out, "llamascopium").left_out == 1
    assert json.loads(out.read_bytes()) == BOOKMARKS
    renamed = lake.import_annotations(NAME, file, "llamascopium", theirs="planted/another")
    assert renamed.known == 3  # the same feature, the same words
    lake.export_annotations(NAME, out, "llamascopium", theirs="they/call it so")
    assert json.loads(out.read_bytes())[0]["sae_name"] == "call it so"


def test_a_bookmark_keeps_its_time_so_later_words_stay(lake, tmp_path):
    lake.annotate(NAME, 2, {"notes": "newer"}, author="llamascopium")
    file = put(tmp_path / "bookmarks.json", BOOKMARKS)
    lake.import_annotations(NAME, file, "llamascopium")
    said = {e.field: e for e in lake.annotations(NAME, feature=2)}
    assert said["notes"].value == "newer"
    assert said["bookmark"].created.isoformat() == "2025-05-06T07:08:09.123000+00:00"


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_the_log_moves_to_another_lake_whole_and_once(lake, other, tmp_path, form):
    lake.annotate(NAME, 1, {"name": "a", "tag": ["x", "ü"]}, author="ana")
    lake.annotate(NAME, 1, {"name": None, "bookmark": True}, author="ana")
    lake.annotate(NAME, 2, {"examples": ["<b>"], "notes": "two\nlines"}, author="bo")
    file = tmp_path / f"log.{form}"
    assert lake.export_annotations(NAME, file).events == 6
    report = other.import_annotations(NAME, file)
    assert (report.added, report.known, report.features) == (6, 0, 2)
    assert other.annotations(NAME, history=True) == lake.annotations(NAME, history=True)
    assert other.import_annotations(NAME, file).added == 0
    again = tmp_path / f"again.{form}"
    other.export_annotations(NAME, again)
    assert again.read_bytes() == file.read_bytes()
    assert lake.export_annotations(NAME, again, author="bo").features == 1
    empty = saestore.open_lake(lake.lake.storage.local)
    empty.export_annotations(NAME, again, author="nobody")
    assert other.import_annotations(NAME, again).added == 0
    if form == "parquet":
        assert pq.read_schema(file).metadata[b"saestore.dictionary"] == b"planted/relu"


EVENT = {
    "event_id": "0" * 26,
    "feature": 1,
    "field": "name",
    "value": "x",
    "author": "a",
    "source": "b",
    "created": "2026-01-01T00:00:00Z",
    "deleted": False,
}


@pytest.mark.parametrize(
    ("form", "what", "match"),
    [
        ("mlxterp", b"{", "file: .*JSON"),
        ("mlxterp", b"\xff", "JSON"),
        ("mlxterp", [], "found 'list'; expected an object"),
        ("mlxterp", {"x": {"name": "y"}}, "key 'x'.*number of a feature"),
        ("mlxterp", {"01": {"name": "y"}}, "key '01'"),
        ("mlxterp", {"-1": {"name": "y"}}, "key '-1'"),
        ("mlxterp", {"1": {}}, "1: found {}"),
        ("mlxterp", {"1": {"nmae": "y"}}, r"1\.nmae"),
        ("mlxterp", {"1": {"tag": ["y"]}}, r"1\.tag.*one of name"),
        ("mlxterp", {"1": {"confidence": "sure"}}, "high, medium or low"),
        ("mlxterp", b'{"1": {"name": "x"}, "1": {"name": "y"}}', "'1'.*once"),
        ("mlxterp", {"1": {"examples": [None]}}, r"examples\[0\]"),
        ("json", {"1": {"name": "x"}}, "list of events"),
        ("json", [1], r"\[0\]"),
        ("json", [{**EVENT, "event_id": "x"}], r"\[0\]\.event_id"),
        ("json", [{**EVENT, "more": 1}], r"\[0\]\.more"),
        ("json", [{**EVENT, "value": 3}], r"\[0\]"),
        ("json", [{**EVENT, "deleted": True}], "no value"),
        ("json", [{**EVENT, "created": "2026-01-01T00:00:00"}], "created"),
        ("parquet", b"PAR1", "Parquet"),
        ("feature-circuits", b'{"Feature": "1"}', "line 1.Component"),
        ("feature-circuits", b'\n{"Component": "resid", "Feature": 1}', "line 2.Feature"),
        ("feature-circuits", b'{"Component": "resid", "Feature": "1", "X": ""}', "line 1.X"),
        ("feature-circuits", b"[]", "line 1"),
        ("llamascopium", {"bookmarks": 3}, "list of bookmarks"),
        ("llamascopium", [3], "a bookmark"),
        ("llamascopium", [{"sae_name": "relu"}], "sae_series"),
        ("llamascopium", [{**BOOKMARKS[0], "created_at": "soon"}], "created_at.*time"),
        ("llamascopium", [{**BOOKMARKS[0], "created_at": None}], "created_at.*time"),
        ("llamascopium", [{**BOOKMARKS[0], "tags": "x"}], "tag"),
    ],
)
def test_a_file_that_is_none_is_refused_and_nothing_is_written(lake, tmp_path, form, what, match):
    file = put(tmp_path / "file", what)
    with pytest.raises(ConfigError, match=match) as caught:
        lake.import_annotations(NAME, file, form, author="ana")
    assert caught.value.hint
    assert str(file) in str(caught.value)
    assert lake.annotations(NAME, history=True) == ()


def test_features_that_are_not_there_say_that_the_file_may_be_anothers(lake, tmp_path):
    file = put(tmp_path / "r.json", {"1": {"name": "a"}, "123456": {"name": "b"}})
    with pytest.raises(FeatureNotFoundError, match="123456") as caught:
        lake.import_annotations(NAME, file, "mlxterp", author="ana")
    assert "another dictionary" in caught.value.hint
    assert lake.annotations(NAME) == ()


@pytest.mark.parametrize(
    ("file", "form", "match"),
    [
        ("x.json", "mlxtrep", "no format 'mlxtrep'"),
        ("x.txt", None, "does not say which"),
        ("nowhere/x.json", None, "there is no .*nowhere"),
    ],
)
def test_what_cannot_be_written_is_refused(lake, tmp_path, file, form, match):
    with pytest.raises(ConfigError, match=match) as caught:
        lake.export_annotations(NAME, tmp_path / file, form)
    assert caught.value.hint


def test_what_is_not_there_cannot_be_read(lake, tmp_path):
    with pytest.raises(ConfigError, match="there is no"):
        lake.import_annotations(NAME, tmp_path / "none.json")
    with pytest.raises(ConfigError, match="folder"):
        lake.import_annotations(NAME, tmp_path, "json")
    with pytest.raises(ConfigError, match="--as"):
        lake.import_annotations(NAME, put(tmp_path / "b.json", []), "llamascopium", theirs="x")
