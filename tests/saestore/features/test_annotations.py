"""The annotation log: nothing that was said is lost, and what holds now is what was said last."""

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import saestore
from saestore.errors import (
    ArtefactNotFoundError,
    ConfigError,
    DamagedArtefactError,
    FeatureNotFoundError,
    StorageError,
    UnsupportedError,
)
from saestore.features import Analysis, AnnotationLog, query
from saestore.features.annotations import events_of
from saestore.features.ulid import milliseconds_of, ulid
from saestore.lake import Lake, Ref
from saestore.lake.storage import Storage
from saestore_schemas.annotations import AnnotationEvent


REF = Ref("features", "planted/relu/default")
VALUES = {
    "name": st.text(max_size=9),
    "notes": st.text(max_size=9),
    "tag": st.lists(st.sampled_from(["a", "b c", "ü"]), unique=True),
    "examples": st.lists(st.text(max_size=5), max_size=3),
    "confidence": st.sampled_from(["high", "medium", "low"]),
    "bookmark": st.just(True),
}
SAYING = st.tuples(
    st.integers(0, 2),
    st.fixed_dictionaries({}, optional={f: st.none() | v for f, v in VALUES.items()}),
    st.sampled_from(["ana", "bo"]),
)


@pytest.fixture
def lake(planted_lake, tmp_path):
    """A copy of the planted lake, to write into."""
    shutil.copytree(planted_lake.storage.local, tmp_path / "lake")
    return Lake.at(tmp_path / "lake")


def log_of(lake):
    return AnnotationLog(lake, lake.manifest(REF))


def folder(lake):
    return lake.storage.local / REF.path / "annotations"


def forget(lake):
    shutil.rmtree(folder(lake), ignore_errors=True)


def held(log):
    return {(e.feature, e.field, e.author): e.value for e in events_of(log.current().to_pylist())}


@settings(max_examples=15)
@given(st.lists(SAYING | st.sampled_from(["compact", "reopen"]), max_size=12))
def test_what_holds_is_what_each_author_said_last_of_each_field(planted_lake, steps):
    forget(planted_lake)
    log, model, said = log_of(planted_lake), {}, []
    for step in steps:
        if step == "compact":
            log.compact()
        elif step == "reopen":
            log = log_of(planted_lake)
        else:
            feature, fields, author = step
            said += log.say({feature: fields}, author=author, source="test")
            model |= {(feature, field, author): value for field, value in fields.items()}
    now = {key: value for key, value in model.items() if value is not None}
    try:
        assert held(log) == held(log_of(planted_lake)) == now
        assert {f for f in range(3) if log.of(f)} == {feature for feature, _, _ in now}
        ids = [event.event_id for event in said]
        assert ids == sorted(set(ids))
        assert sorted(events_of(log.events().to_pylist()), key=lambda e: e.event_id) == said
        assert len(log) == len(said)
        assert not log.damage()
    finally:
        forget(planted_lake)


def test_what_is_said_later_wins_whatever_the_clock_says(lake, monkeypatch):
    log_of(lake).say({1: {"name": "before"}}, author="ana", source="test")
    past = time.time_ns() - 10**12
    monkeypatch.setattr(time, "time_ns", lambda: past)
    log_of(lake).say({1: {"name": "after"}}, author="ana", source="test")
    assert [event.value for event in log_of(lake).of(1)] == ["after"]


def test_writers_at_once_lose_nothing_while_others_compact_and_read(lake):
    done = threading.Event()

    def write(author):
        log = log_of(lake)
        for number in range(8):
            log.say({number: {"name": f"{author} {number}"}}, author=author, source="test")

    def compact():
        while not done.is_set():
            log_of(lake).compact()

    def read():
        log, most = log_of(lake), 0
        while not done.is_set():
            found = len(log)
            assert found >= most
            most = found

    names = [f"author {n}" for n in range(4)]
    with ThreadPoolExecutor(len(names) + 3) as threads:
        others = [threads.submit(work) for work in (compact, compact, read)]
        try:
            list(threads.map(write, names))
        finally:
            done.set()
        for other in others:
            other.result()
    wanted = {(n, "name", author): f"{author} {n}" for author in names for n in range(8)}
    assert held(log_of(lake)) == wanted
    log_of(lake).compact()
    assert held(log_of(lake)) == wanted
    assert len(list(folder(lake).glob("*.parquet"))) == 1
    assert not log_of(lake).damage()


class KilledError(BaseException):
    """The process died."""


@contextmanager
def killed_after(steps):
    """Let a number of files be created or removed, and then nothing."""
    left = iter(range(steps))

    def allowed(call):
        def step(*args):
            if next(left, None) is None:
                raise KilledError
            return call(*args)

        return step

    with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
        for name in ("create", "remove"):
            patch.setattr(Storage, name, allowed(getattr(Storage, name)))
        yield
    assert next(left, None) is None or steps == ALL


ALL = 99
"""More steps than any work takes."""


@pytest.mark.parametrize("work", ["say", "compact"])
def test_killed_at_any_step_the_log_is_as_before_or_as_after(lake, work):
    for number in range(3):
        log_of(lake).say({number: {"name": "old"}}, author="ana", source="test")
    old = held(log_of(lake))
    saved = folder(lake).with_name("saved")
    folder(lake).rename(saved)

    def states(steps):
        forget(lake)
        shutil.copytree(saved, folder(lake))
        log = log_of(lake)
        with killed_after(steps):
            if work == "say":
                said = {5: {"name": "new"}, 6: {"tag": ["t"]}}
                log.say(said, author="ana", source="test")
            else:
                log.compact()
        assert not log_of(lake).damage()
        found = held(log_of(lake))
        log_of(lake).compact()
        assert held(log_of(lake)) == found
        return found

    after = states(ALL)
    assert (after == old) == (work == "compact")
    assert len(after) == len(old) + (0 if work == "compact" else 2)
    seen = [states(steps) for steps in range(2 if work == "say" else 8)]
    assert all(found in (old, after) for found in seen)
    assert seen[0] == old


def test_the_first_words_killed_at_any_step_leave_nothing_or_all(lake):
    for steps in range(3):
        forget(lake)
        with killed_after(steps):
            log_of(lake).say({1: {"name": "x"}}, author="ana", source="test")
        assert not log_of(lake).damage()
        assert held(log_of(lake)) == {}
        assert Analysis.open(lake, REF.name).feature(1).annotations == ()
    log_of(lake).say({1: {"name": "x"}}, author="ana", source="test")
    assert held(log_of(lake)) == {(1, "name", "ana"): "x"}


def test_what_a_killed_writer_left_is_removed_a_day_later(lake):
    log = log_of(lake)
    log.say({1: {"name": "x"}}, author="ana", source="test")
    orphan = folder(lake) / f"{ulid(10**12, 5)}.parquet"
    orphan.write_bytes(b"half")
    assert log.compact().removed == 0
    assert orphan.exists()
    os.utime(orphan, (0, 0))
    assert log.compact().removed == 1
    assert not orphan.exists()
    assert len(log) == 1


def test_the_log_lives_in_object_storage_too(lake, s3_url):
    there = Lake.at(s3_url)
    for path in lake.storage.files(REF.path):
        there.storage.write(path, lake.storage.read(path))
    log_of(there).say({1: {"name": "x"}, 2: {"tag": ["t"]}}, author="ana", source="test")
    log_of(there).say({1: {"name": "y"}}, author="ana", source="test")
    assert held(log_of(there)) == {(1, "name", "ana"): "y", (2, "tag", "ana"): ["t"]}
    assert log_of(there).compact().files_after == 1
    assert held(log_of(there)) == {(1, "name", "ana"): "y", (2, "tag", "ana"): ["t"]}
    assert not log_of(there).damage()
    assert query(there, "SELECT count(*) AS n FROM annotations")["n"].to_pylist() == [3]


SAYS = """
import sys
from saestore.features import Analysis
from saestore.lake import Lake
log, number = Analysis.open(Lake.at(sys.argv[1]), "planted/relu").annotations, int(sys.argv[2])
while True:
    log.say({number % 8: {"notes": str(number)}}, author="ana", source="test")
    print(number, flush=True)
    number += 1
    if number % 4 == 0:
        log.compact()
"""


@pytest.mark.slow
def test_killed_processes_lose_no_word_that_was_said(lake):
    rng, said, kills = np.random.default_rng(0), 0, 12
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", SAYS, lake.storage.local, str(said)], stdout=subprocess.PIPE
        )
        first = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        rest = process.communicate()[0].split()
        said = int((rest or [first])[-1]) + 1
        found = {int(event.value) for event in events_of(log_of(lake).events().to_pylist())}
        assert found in (set(range(said)), set(range(said + 1)))  # the last one, not yet told
        said = max(found) + 1
        assert not log_of(lake).damage()
    assert said > kills


@pytest.mark.parametrize("what", ["flipped", "cut", "gone", "manifest"])
def test_damage_is_found_by_reading_and_named_by_verify(lake, what):
    log_of(lake).say({1: {"name": "x"}}, author="ana", source="test")
    (file,) = folder(lake).glob("*.parquet")
    data = bytearray(file.read_bytes())
    if what == "flipped":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif what == "cut":
        file.write_bytes(data[:-1])
    elif what == "gone":
        file.unlink()
    else:
        file = file.with_suffix(".json")
        file.write_text("{}")
    with pytest.raises(DamagedArtefactError, match=file.name) as caught:
        log_of(lake).of(1)
    assert "restore" in caught.value.hint
    opened = saestore.open_lake(lake.storage.local)
    (line,) = opened.verify(str(REF))
    assert line.startswith(f"annotations/{file.name}: ")
    assert len(opened.verify(str(REF), quick=True)) == (0 if what == "flipped" else 1)
    with pytest.raises(DamagedArtefactError, match=file.name):
        query(lake, "SELECT * FROM annotations")
    assert query(lake, "SELECT count(*) AS n FROM features").num_rows == 1


def test_verify_names_foreign_files_and_a_log_of_another_analysis(lake):
    log_of(lake).say({1: {"name": "x"}}, author="ana", source="test")
    opened = saestore.open_lake(lake.storage.local)
    assert opened.verify(str(REF)) == []
    about = folder(lake) / "manifest.json"
    (folder(lake) / "notes.txt").write_text("?")
    about.write_text(about.read_text().replace("relu", "gelu"))
    foreign, other = sorted(opened.verify(str(REF)), key=lambda line: "is about" in line)
    assert foreign == "annotations/notes.txt: foreign file, not of the log"
    assert "planted/gelu/default" in other


@pytest.mark.parametrize(
    ("feature", "said", "author", "error", "match"),
    [
        (1, {"nmae": "x"}, "ana", ConfigError, "no field 'nmae'"),
        (1, {"name": 3}, "ana", ConfigError, "valid string; expected a text"),
        (1, {"tag": "x"}, "ana", ConfigError, "list"),
        (1, {"tag": ["x", "x"]}, "ana", ConfigError, "twice"),
        (1, {"tag": ["two\nlines"]}, "ana", ConfigError, r"tag\[0\]"),
        (1, {"bookmark": False}, "ana", ConfigError, "take it back"),
        (1, {"bookmark": 1}, "ana", ConfigError, "boolean"),
        (1, {"confidence": "certain"}, "ana", ConfigError, "high"),
        (1, {"name": "\ud800"}, "ana", ConfigError, "unicode"),
        (1, {"name": "x" * 100_001}, "ana", ConfigError, "100000"),
        (1, {"name": "x"}, "", ConfigError, "author"),
        (1, {"name": "x"}, "a\nb", ConfigError, "author.*control"),
        (10**6, {"name": "x"}, "ana", FeatureNotFoundError, "no feature 1000000"),
        (-1, {"name": "x"}, "ana", FeatureNotFoundError, "no feature -1"),
    ],
)
def test_what_cannot_be_said_is_refused_and_nothing_is_written(
    lake, feature, said, author, error, match
):
    with pytest.raises(error, match=match) as caught:
        log_of(lake).say({0: {"name": "fine"}, feature: said}, author=author, source="test")
    assert caught.value.hint
    assert not folder(lake).exists()


def test_events_with_ids_of_their_own_are_added_once(lake, tmp_path):
    first = log_of(lake).say({1: {"name": "x"}, 2: {"tag": ["t"]}}, author="ana", source="test")
    copy = Lake.at(tmp_path / "copy")
    shutil.copytree(lake.storage.local, copy.storage.local, ignore=shutil.ignore_patterns("annot*"))
    assert log_of(copy).add(first) == first
    assert log_of(copy).add([*first, *first]) == ()
    assert held(log_of(copy)) == held(log_of(lake))
    changed = first[0].model_copy(update={"value": "y"})
    with pytest.raises(ConfigError, match='name = "y"') as caught:
        log_of(copy).add([changed])
    assert 'name = "x"' in caught.value.expected
    far = AnnotationEvent(
        **{**first[0].model_dump(), "event_id": ulid(milliseconds_of(first[0].event_id) + 10**9, 0)}
    )
    log_of(copy).add([far])
    log_of(copy).say({1: {"name": "last"}}, author="ana", source="test")
    assert [event.value for event in log_of(copy).of(1)] == ["last"]


def test_pages_sql_and_python_tell_the_same(lake):
    opened = saestore.open_lake(lake.storage.local)
    opened.annotate(REF.name, 3, {"name": "a", "notes": "n", "tag": ["t"]}, author="ana")
    opened.annotate(REF.name, 3, {"name": "b", "notes": None}, author="ana")
    opened.annotate("planted/relu", 3, {"name": "c"}, author="bo", source="web")
    analysis = Analysis.open(lake, REF.name)
    page = analysis.feature(3)
    said = [(e.field, e.value, e.author) for e in page.annotations]
    assert said == [("name", "b", "ana"), ("name", "c", "bo"), ("tag", ["t"], "ana")]
    assert (
        page.annotations == opened.annotations(REF.name) == opened.annotations(REF.name, feature=3)
    )
    assert opened.annotations(REF.name, feature=4) == ()
    assert len(opened.annotations(REF.name, history=True)) == 6
    (line,) = (e for e in page.to_dict()["annotations"] if e["author"] == "bo")
    assert (line["value"], line["source"], line["created"][-1]) == ("c", "web", "Z")
    sql = "SELECT value->>'$' AS v FROM current_annotations WHERE field = 'name' ORDER BY author"
    assert query(lake, sql)["v"].to_pylist() == ["b", "c"]
    log = "SELECT count(*) AS n, sum(deleted::INT) AS d FROM annotations"
    assert query(lake, log).to_pylist() == [{"n": 6, "d": 1}]
    opened.annotate(REF.name, 3, {"name": "later"}, author="ana")
    assert analysis.feature(3).annotations[0].value == "later"
    assert opened.compact_annotations(REF.name).events == 7
    assert analysis.feature(3).annotations[0].value == "later"


def test_an_analysis_is_removed_with_its_annotations_only_when_that_is_said(lake):
    opened = saestore.open_lake(lake.storage.local)
    log = log_of(lake)
    log.say({1: {"name": "x"}}, author="ana", source="test")
    assert opened.lineage(str(REF)).parents
    assert opened.children("dictionaries/planted/relu") == [REF]
    for run in opened.children(str(REF)):
        with pytest.raises(UnsupportedError, match=run.path):
            opened.remove(str(REF), with_annotations=True)
        opened.remove(run.path)
    with pytest.raises(UnsupportedError, match="1 annotations, of ana") as caught:
        opened.remove(str(REF))
    assert "annotations export planted/relu/default" in caught.value.hint
    opened.remove(str(REF), with_annotations=True)
    with pytest.raises(ArtefactNotFoundError, match="planted/relu/default"):
        log.say({1: {"name": "y"}}, author="ana", source="test")
    assert not folder(lake).exists()
    assert not Path(lake.storage.local / REF.path).exists()


def test_a_lake_that_cannot_be_written_says_so(lake, monkeypatch):
    def full(*_):
        raise StorageError("writing: No space left on device", hint="free space")

    monkeypatch.setattr(Storage, "create", full)
    with pytest.raises(StorageError, match="No space"):
        log_of(lake).say({1: {"name": "x"}}, author="ana", source="test")
