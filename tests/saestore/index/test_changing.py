"""A lake that changes or is damaged while it is indexed, and databases that others wrote."""

import pytest

from saestore import analyze
from saestore.errors import DamagedArtefactError, IndexUnavailableError, UnsupportedError
from saestore.features import Analysis
from saestore.index import Index, Place, layout
from saestore.lake import Ref
from saestore.progress import Recorder
from saestore_schemas.analyze import AnalyzeSettings
from tests.saestore.index.conftest import ANALYSIS


pytestmark = pytest.mark.serve

REF = Ref("features", ANALYSIS)
AGAIN = AnalyzeSettings(dictionary="planted/relu", logits=None, neighbours=None)


class Meanwhile(Recorder):
    """Does something once, after the first features were written."""

    def __init__(self, work):
        super().__init__()
        self.work = work

    def task(self, *given, **more):
        task, inner = self, super().task(*given, **more)

        class Task:
            def __enter__(self):
                self.inner = inner.__enter__()
                return self

            def __exit__(self, *error):
                return inner.__exit__(*error)

            def advance(self, n, **values):
                self.inner.advance(n, **values)
                work, task.work = task.work, lambda: None
                work()

        return Task()


def test_an_analysis_that_is_removed_meanwhile_is_not_in_the_index(own_lake, open_index):
    index = open_index(own_lake)
    done = index.sync(progress=Meanwhile(own_lake.artefact(REF).remove))
    assert (REF.path not in done.written, done.unreadable) == (True, {})
    assert index.verify() == []
    assert {each.path for each in index.status().artefacts} == {r.path for r in own_lake.refs()}


def test_an_analysis_that_is_made_anew_meanwhile_is_indexed_as_it_is_then(own_lake, open_index):
    index = open_index(own_lake)

    def anew():
        own_lake.artefact(REF).remove()
        analyze.run(AGAIN, own_lake, device="cpu")
        log = Analysis.open(own_lake, ANALYSIS).annotations
        log.say({3: {"name": "said of the other"}}, author="bob", source="python")

    done = index.sync(progress=Meanwhile(anew))
    assert done.written.count(REF.path) == 1
    assert index.verify() == []
    assert index.status().current
    page = index.analysis(Analysis.open(own_lake, ANALYSIS)).feature(3)
    assert page == Analysis.open(own_lake, ANALYSIS).feature(3)


def test_what_is_said_during_a_sync_is_there_after_the_next(own_lake, open_index):
    index, log = open_index(own_lake), Analysis.open(own_lake, ANALYSIS).annotations
    index.sync(
        progress=Meanwhile(lambda: log.say({2: {"name": "x"}}, author="bob", source="python"))
    )
    log.say({3: {"name": "y"}}, author="bob", source="python")
    assert [each.state for each in index.status().artefacts if each.features] == ["behind"]
    assert not index.status().current
    index.sync()
    assert index.status().current
    assert index.verify() == []


def test_a_damaged_analysis_is_named_and_the_others_are_indexed(own_lake, open_index):
    analyze.run(AGAIN.model_copy(update={"name": "sound"}), own_lake, device="cpu")
    file = own_lake.artefact(REF).path("examples/part-00000.parquet")
    held = bytearray(file.read_bytes())
    held[4:400] = bytes(396)  # its size stays
    file.write_bytes(held)
    with pytest.raises(DamagedArtefactError, match="examples"):
        Analysis.open(own_lake, ANALYSIS).feature(4)
    index = open_index(own_lake)
    done = index.sync()
    assert list(done.unreadable) == [REF.path]
    assert "examples" in done.unreadable[REF.path]
    assert "features/planted/relu/sound" in done.written
    assert index.verify() == [f"{REF.path}: missing"]
    assert not index.status().current


def test_the_index_of_a_later_release_is_left_alone(lake, open_index, monkeypatch):
    index = open_index(lake)
    with monkeypatch.context() as later:
        later.setattr(layout, "FORM", layout.FORM + 1)
        index.sync()
    with pytest.raises(UnsupportedError, match="later release") as caught:
        index.sync()
    assert "rebuild" in caught.value.hint
    with pytest.raises(IndexUnavailableError, match="does not hold"):
        index.analysis(Analysis.open(lake, ANALYSIS))
    index.rebuild()
    assert index.verify() == []


def test_a_user_who_may_only_read_reads_and_is_told_that_writing_is_not_allowed(
    lake, locked_mongo_server
):
    server = locked_mongo_server
    login = server.add_reader("reads")
    with Index.at(Place(server.uri, "reads"), lake) as index:
        index.sync()
    with Index.at(Place(server.uri_of(login), "reads"), lake, wait_s=2) as index:
        assert index.status().current
        assert index.verify() == []
        assert index.analysis(Analysis.open(lake, ANALYSIS)).feature(4).feature == 4
        for ask in (index.sync, index.drop, index.rebuild):
            with pytest.raises(IndexUnavailableError, match="does not allow this") as caught:
                ask()
            assert "readWrite" in caught.value.hint
        assert index.status().current
