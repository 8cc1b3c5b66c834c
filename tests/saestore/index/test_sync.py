"""The index says what the lake says: after any sync, whatever stopped the ones before."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from saestore import analyze
from saestore.errors import IndexUnavailableError, UnsupportedError
from saestore.features import Analysis
from saestore.index import Index, Place, layout
from saestore.lake import Ref
from saestore.progress import Recorder
from saestore.testing.mongo import PASSWORD
from saestore_schemas.analyze import AnalyzeSettings, TopSubsample
from tests.saestore.index.conftest import ANALYSIS, SAID, content, told


pytestmark = pytest.mark.serve


def test_a_second_sync_changes_nothing_and_drop_and_rebuild_give_the_same_documents(
    lake, open_index
):
    index, progress = open_index(lake), Recorder()
    first = index.sync(progress=progress)
    assert sorted(first.written) == sorted(ref.path for ref in lake.refs())
    assert (first.features, first.events, first.kept, first.removed) == (11, 5, 0, [])
    assert progress.tasks[0]["advanced"] == progress.tasks[0]["total"] == 11
    there = content(index)
    again = index.sync()
    assert (again.written, again.features, again.events, again.orphans) == ([], 0, 0, 0)
    assert content(index) == there
    assert index.status().current
    assert index.verify() == []
    dropped = index.drop()
    assert (dropped.features, dropped.index_of) == (11, lake.storage.full_url)
    assert content(index) == {}
    assert not index.status().current
    index.rebuild()
    assert content(index) == there
    assert {each["feature"] for (name, _), each in there.items() if name == "annotations"} == {
        *SAID
    }


def test_a_statistic_is_a_field_and_every_order_has_an_index(lake, open_index):
    index = open_index(lake)
    index.sync()
    lines = Analysis.open(lake, ANALYSIS).columns("features", ["feature", "max", "n_firings"])
    found = index.database["features"].find({}, {"_id": 0, "feature": 1, "max": 1, "n_firings": 1})
    assert sorted(found, key=lambda each: each["feature"]) == lines.to_pylist()
    have = index.database["features"].index_information().values()
    ordered = {keys[1][0] for each in have if len(keys := each["key"]) == 3}
    columns = set(Analysis.open(lake, ANALYSIS).columns("features", []).schema.names)
    assert columns <= ordered
    assert list(index.database["annotations"].find({"$text": {"$search": "primes"}}))


def test_what_is_gone_or_made_anew_in_the_lake_is_so_in_the_index(own_lake, open_index):
    index, ref = open_index(own_lake), Ref("features", ANALYSIS)
    again = AnalyzeSettings(dictionary="planted/relu", logits=None, name="again")
    analyze.run(again, own_lake, device="cpu")
    index.sync()
    own_lake.artefact(ref).remove()
    assert {each.path for each in index.status().artefacts if each.state == "gone"} == {ref.path}
    done = index.sync()
    assert (done.removed, done.orphans, done.written) == ([ref.path], 2 * 11 + 5, [])
    assert index.verify() == []

    fewer = {"top": TopSubsample(n=2)}
    given = AnalyzeSettings(dictionary="planted/relu", logits=None, subsamples=fewer)
    analyze.run(given, own_lake, device="cpu")
    index.sync()
    own_lake.artefact(ref).remove()
    analyze.run(AnalyzeSettings(dictionary="planted/relu", logits=None), own_lake, device="cpu")
    states = {each.path: each.state for each in index.status().artefacts}
    assert states[ref.path] == "changed"
    with pytest.raises(IndexUnavailableError, match="does not hold features/planted"):
        index.analysis(Analysis.open(own_lake, ANALYSIS))
    done = index.sync()
    assert (done.removed, done.written, done.orphans) == ([ref.path], [ref.path], 22)
    assert index.verify() == []
    page = index.analysis(Analysis.open(own_lake, ANALYSIS)).feature(4)
    assert page == Analysis.open(own_lake, ANALYSIS).feature(4)


def test_later_events_are_mirrored_and_events_that_were_given_up_are_not_kept(own_lake, open_index):
    index, log = open_index(own_lake), Analysis.open(own_lake, ANALYSIS).annotations
    index.sync()
    log.say({4: {"notes": None, "name": "primes"}}, author="ada", source="python")
    assert [line.partition(": ")[2] for line in index.verify()]
    assert index.sync().events == 2
    assert index.verify() == []
    log.compact()
    assert (index.sync().events, index.sync().orphans) == (0, 0)
    assert index.verify() == []
    artefact = own_lake.artefact(Ref("features", ANALYSIS))
    for name in artefact.names("annotations"):
        artefact.remove(f"annotations/{name}")
    assert index.sync().orphans == 7
    assert index.verify() == []


def test_the_index_of_another_lake_is_left_alone(lake, own_lake, open_index):
    open_index(lake).sync()
    there = content(open_index(lake))
    with pytest.raises(UnsupportedError, match="is of the lake") as caught:
        open_index(own_lake).sync()
    assert "rebuild" in caught.value.hint
    assert content(open_index(lake)) == there
    assert not open_index(own_lake).status().current
    open_index(own_lake).rebuild()
    assert open_index(own_lake).verify() == []


WRONG = {
    "a number": ("features", lambda c, n: c.update_one({"_id": n}, {"$inc": {"max": 1}}), "max differ"),
    "a record": ("pages", lambda c, n: c.update_one({"_id": n[:-1] + "6"}, {"$set": {"record": b"x"}}), "record differ"),
    "a document": ("pages", lambda c, n: c.delete_one({"_id": n}), "is missing"),
    "one too many": ("features", lambda c, n: c.insert_one({"_id": n + "x"}), "not in the lake"),
    "an orphan": ("pages", lambda c, _: c.insert_one({"_id": "0:1"}), "which the lake has not"),
    "an artefact": ("artefacts", lambda c, _: c.update_one({"kind": "dictionary"}, {"$set": {"bytes": 1}}), "bytes differ"),
    "an index": ("features", lambda c, _: c.drop_index("version_1_max_1_feature_1"), "is missing"),
    "an event": ("annotations", lambda c, _: c.update_one({}, {"$set": {"author": "eve"}}), "author differ"),
}  # fmt: skip


def test_verify_finds_every_difference(lake, open_index):
    index = open_index(lake)
    name = layout.feature_id(layout.version_of(lake.manifest(Ref("features", ANALYSIS))), 7)
    index.sync()
    seen = set()
    for collection, change, said in WRONG.values():
        change(index.database[collection], name)
        (line,) = set(index.verify()) - seen
        assert said in line
        seen.add(line)


SYNC = """
import sys
from saestore.index import Index, Place, layout
from saestore.lake import Lake
layout.TOGETHER = 4
uri, name, lake = sys.argv[1:]
with Index.at(Place(uri, name), Lake.at(lake)) as index:
    index.sync()
"""


def test_a_sync_that_is_killed_goes_on_and_what_counts_is_whole(lake, open_index):
    index = open_index(lake)
    index.sync()
    there = content(index)
    index.drop()
    place = index.database.place
    for killed_at in (1, 5):
        words = [sys.executable, "-c", SYNC, place.uri, place.name, lake.storage.full_url]
        with subprocess.Popen(words) as process:
            while index.database["features"].count_documents({}) < killed_at:
                assert process.poll() is None
            process.kill()
        (found,) = [each for each in index.status().artefacts if each.features]
        assert killed_at <= found.indexed <= found.features
        # the mark of a whole analysis comes after its last feature: never the other way round
        assert found.state in ("partly", "indexed")
        assert found.state == "partly" or found.indexed == found.features
    assert index.sync().kept >= 4  # the whole chunks
    assert content(index) == there


def test_two_syncs_at_once_share_the_work(lake, open_index):
    index = open_index(lake)
    index.sync()
    there = content(index)
    index.drop()
    with ThreadPoolExecutor(3) as pool:
        several = [pool.submit(open_index(lake).sync) for _ in range(3)]
    assert all(each.result().artefacts == 3 for each in several)
    assert content(index) == there


class Killing(Recorder):
    """Kills the server in the middle."""

    def __init__(self, server):
        super().__init__()
        self.server = server

    def task(self, *given, **more):
        server, inner = self.server, super().task(*given, **more)

        class Task:
            def __enter__(self):
                self.task, self.n = inner.__enter__(), 0
                return self

            def __exit__(self, *error):
                return inner.__exit__(*error)

            def advance(self, n, **values):
                self.n += n
                self.task.advance(n, **values)
                if self.n == 8:
                    server.kill()

        return Task()


def test_a_server_killed_during_a_sync_loses_nothing_that_counts(lake, own_mongo_server):
    with Index.at(Place(own_mongo_server.uri, "killed"), lake, wait_s=0.5) as index:
        with pytest.raises(IndexUnavailableError, match="cannot be reached") as caught:
            index.sync(progress=Killing(own_mongo_server))
        assert "sync" in caught.value.hint
        own_mongo_server.start()
        assert {each.state for each in index.status().artefacts} <= {"indexed", "partly", "missing"}
        index.sync()
        assert index.verify() == []
        own_mongo_server.kill()  # once more: what was said to be done is on disk
        own_mongo_server.start()
        assert index.verify() == []


def test_a_server_that_asks_for_a_password_gets_it_and_no_message_has_it(lake, locked_mongo_server):
    server = locked_mongo_server
    with Index.at(Place(server.uri, "locked"), lake) as index:
        index.sync()
        assert index.verify() == []
        assert PASSWORD not in f"{index} {index.label} {index.status()}"
    refused = {
        "librarian:secret-word@": "refuses the user or the password",
        "": "does not allow this",
    }
    for login, said in refused.items():
        with Index.at(Place(server.uri_of(login), "locked"), lake, wait_s=0.3) as index:
            for ask in (index.sync, index.drop):
                with pytest.raises(IndexUnavailableError, match=said) as caught:
                    ask()
                assert "secret-word" not in told(caught.value)
