"""An analysis that keeps no firings: what it has equals that of one that keeps all, bit for bit."""

import io
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from saestore import analyze
from saestore.analyze import encode, tallies, tally
from saestore.analyze.between import match
from saestore.errors import QueryError, UnsupportedError
from saestore.exchange.features.delphi import Delphi
from saestore.exchange.features.format import export_features
from saestore.features import Analysis, query, run_named
from saestore.features.highlight import texts_of
from saestore.lake import Lake, Ref, layout
from saestore.lake.parts import Part
from saestore.progress import Recorder
from saestore.testing.analyses import DICTIONARY, plant, planted_analysis
from saestore.testing.collectors import planted_firings, planted_scope
from saestore_cli import feature_panel
from saestore_cli.drawing import terminal
from saestore_schemas import tables
from saestore_schemas.analyze import AnalyzeSettings, TopSubsample


SUBSAMPLES = {
    "few": TopSubsample(n=2, window=3),
    "many": TopSubsample(n=5, window=6),
}
NONE = AnalyzeSettings.model_validate(
    {"dictionary": DICTIONARY, "name": "none", "logits": None, "firings": "none", "subsamples": SUBSAMPLES}
)  # fmt: skip
REF = Ref("features", f"{DICTIONARY}/none")


@pytest.fixture
def spans(monkeypatch, encoded_spans):
    """Rows encoded, in blocks of 32; every block is counted and written at once."""
    monkeypatch.setattr(encode, "block_rows", lambda _: 32)
    monkeypatch.setattr(tallies, "SECONDS", 0)
    monkeypatch.setattr(tallies, "_TIMES", 0)
    monkeypatch.setattr(tally, "_PENDING", 3)
    return encoded_spans


def kept_all(folder, seed, dtype, *, signed=False):
    """A lake with an analysis that keeps all firings, and settings of one that keeps none."""
    lake = Lake.at(folder)
    with_all = {"firings": "both", "name": "all", "value_dtype": dtype, "seed": seed}
    settings = NONE.model_copy(update=with_all)
    planted_analysis(lake, planted=plant(seed=seed, signed=signed), settings=settings)
    assert len(plant(seed=seed).tokens) > 200
    return lake, NONE.model_copy(update={"value_dtype": dtype, "seed": seed})


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return kept_all(tmp_path_factory.mktemp("lake"), 0, "float32")


def same_as_all(lake, ref):
    """Compare every table with that of the analysis that keeps all firings."""
    whole, found = Analysis.open(lake, f"{DICTIONARY}/all"), Analysis.open(lake, ref.name)
    kept = {
        "features",
        "histograms",
        "examples",
        "contexts",
        "vocabulary",
        "documents",
        "neighbours",
    }
    assert set(found.tables) == kept
    for name in kept:
        expected, table = (each.lazy(name).collect().to_arrow() for each in (whole, found))
        if name == "histograms":
            fixed = pa.array([w in {"log_value", "position"} for w in expected["what"].to_pylist()])
            expected = expected.filter(fixed)
        for column in expected.column_names:
            if name == "features" and column in tables.FROM_ALL_FIRINGS:
                assert table[column].null_count == len(table)
            else:
                assert table[column].equals(expected[column]), (name, column)
    for key in ("rows", "contexts", "features", "firings", "dead"):
        assert found.manifest.counts[key] == whole.manifest.counts[key]
    assert found.manifest.facts["null_without_firings"] == list(tables.FROM_ALL_FIRINGS)


def remove(lake, ref):
    lake.artefact(ref).remove()


def test_no_examples_need_not_be_kept(both):
    lake, settings = both
    ref = analyze.run(settings.model_copy(update={"subsamples": {}}), lake, device="cpu")
    found = Analysis.open(lake, ref.name)
    assert len(found.lazy("examples").collect()) == 0
    assert found.feature(1).groups == ()
    remove(lake, ref)


@pytest.mark.parametrize(("seed", "dtype"), [(1, "float16"), (2, "float32")])
def test_what_is_kept_equals_that_of_all_firings(tmp_path, seed, dtype):
    lake, settings = kept_all(tmp_path, seed, dtype, signed=dtype == "float16")
    ref = analyze.run(settings, lake, device="cpu")
    same_as_all(lake, ref)
    assert lake.artefact(ref).names(layout.PROGRESS) == []


class Crashing(Recorder):
    """Raises when so many rows are encoded."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    @contextmanager
    def task(self, label, **given):
        with super().task(label, **given):
            outer, seen = self, [0]

            class Task:
                def advance(self, n, **_):
                    seen[0] += n
                    if label == "encode" and seen[0] > outer.rows:
                        raise KeyboardInterrupt

            yield Task()


@pytest.mark.parametrize("rows", [1, 200])
def test_a_rerun_goes_on_where_the_last_tally_ends(both, spans, rows):
    lake, settings = both
    with pytest.raises(KeyboardInterrupt):
        analyze.run(settings, lake, device="cpu", progress=Crashing(rows))
    spans.clear()
    recorder = Recorder()
    ref = analyze.run(settings, lake, device="cpu", progress=recorder)
    (span,) = spans
    assert rows - 64 < span[0] <= rows
    assert span[0] % 32 == 0
    task = recorder.tasks[0]
    assert task["done"] + task["advanced"] == task["total"] == span[1]
    same_as_all(lake, ref)
    remove(lake, ref)


def test_several_processes_and_one_that_was_killed_end_with_the_same(both, spans):
    lake, settings = both
    with pytest.raises(KeyboardInterrupt):
        analyze.run_part(settings, lake, Part(1, 3), device="cpu", progress=Crashing(50))
    for index in (2, 0):
        states = analyze.run_part(settings, lake, Part(index, 3), device="cpu")
    assert [state.finished for state in states] == [True, False, True]
    assert states[1].begun
    assert "contexts" in str(states[1])
    spans.clear()
    ref = analyze.run(settings, lake, device="cpu")
    assert len(spans) == 1
    same_as_all(lake, ref)
    remove(lake, ref)


def test_a_damaged_tally_is_made_again(both, spans):
    lake, settings = both
    analyze.run_part(settings, lake, Part(0, 2), device="cpu")
    artefact = lake.artefact(REF)
    (name,) = (n for n in artefact.names(tallies.FOLDER) if n.endswith(".arrays"))
    data = artefact.read(f"{tallies.FOLDER}/{name}")
    artefact.write(f"{tallies.FOLDER}/{name}", data[:-9] + b"x" + data[-8:])
    spans.clear()
    ref = analyze.run(settings, lake, device="cpu")
    assert [start for start, _ in spans] == [0]
    same_as_all(lake, ref)
    remove(lake, ref)


@pytest.mark.parametrize("seed", range(3))
def test_tallies_of_contexts_merge_in_any_order(seed, monkeypatch):
    monkeypatch.setattr(tally, "_PENDING", 1)
    planted = plant(seed=seed, contexts=60)
    scope, firings = planted_scope(planted), planted_firings(planted)
    wanted = list(SUBSAMPLES.values())

    def of(flags):
        from saestore.analyze.sort import Firings, Sorter

        sorter = Sorter(None, features=9, memory_mib=16)
        columns = ("feature", "context", "position", "value")
        sorter.add(Firings(**{name: getattr(firings, name)[flags] for name in columns}))
        found = tally.Tally(scope, wanted, features=9)
        for block in sorter.blocks():
            found.update(block)
        return found

    whole = of(np.ones(len(firings), bool)).arrays()
    owner = np.random.default_rng(seed).integers(0, 4, 60)[firings.context]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        merged = tally.Tally(scope, wanted, features=9)
        for part in order[:2]:
            merged.merge(of(owner == part))
        for part in order[2:]:
            merged.load(of(owner == part).arrays())
        for name, array in merged.arrays().items():
            assert np.array_equal(array, whole[name]), name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"subsamples": {"q": {"kind": "quantile"}}}, "subsamples.q is of kind quantile"),
        ({"token_stats": {}}, "token_stats needs them: set it to null"),
        ({"coactivation": {"rows": 5}}, "coactivation needs them: set it to null"),
        ({"head_scaling": True}, "head_scaling needs them: set it to false"),
        ({"logits": {"scores": ["direction", "additive"]}}, "logits.scores has additive"),
    ],
)
def test_what_needs_firings_is_refused(given, said):
    plain = {"dictionary": "a/b", "firings": "none"}
    with pytest.raises(ValueError, match=said):
        AnalyzeSettings.model_validate({**plain, **given})
    found = AnalyzeSettings.model_validate(plain)
    assert (found.token_stats, found.coactivation, found.head_scaling) == (None, None, False)
    assert AnalyzeSettings.model_validate(found.model_dump()) == found


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """A lake whose only analysis keeps no firings, then one beside it that keeps them."""
    lake = Lake.at(tmp_path_factory.mktemp("without"))
    ref, planted = planted_analysis(lake, settings=NONE)
    return Analysis.open(lake, ref.name), planted


def test_questions_over_firings_say_that_none_are_kept(without):
    analysis, _ = without
    for ask in (
        lambda: run_named(analysis.lake, "top_contexts", {"feature": 1}),
        lambda: query(analysis.lake, "SELECT count(*) FROM firings"),
        lambda: analysis.sql("SELECT 1 FROM (SELECT * FROM firings_by_context)"),
        lambda: analysis.lazy("firings_by_feature"),
        lambda: analysis.rows("firings_by_feature", [1]),
        lambda: analysis.passages([3]),
        lambda: texts_of(analysis, 1, 3, width=5),
        lambda: export_features(Delphi(), analysis, "nowhere"),
    ):
        with pytest.raises((QueryError, UnsupportedError)) as caught:
            ask()
        assert REF.name in str(caught.value)
        assert 'made with firings = "none"' in str(caught.value)
        assert 'firings = "feature"' in caught.value.hint
    assert not Path("nowhere").exists()
    named = analysis.sql("SELECT max(n_firings) AS firings FROM features")  # a word is no view
    assert named["firings"][0].as_py() > 0
    with pytest.raises(QueryError, match="syntax"):
        analysis.sql("SELECT FROM firings WHERE")


def test_pages_say_what_is_not_known(without):
    analysis, planted = without
    page = analysis.feature(1)
    assert not page.keeps_firings
    assert page.n_firings == (planted.values[:, 1] > 0).sum()
    assert set(page.histograms) == {"log_value", "position"}
    assert page.statistics["q50"] is None
    assert page.top_token is None
    assert [len(group.examples) for group in page.groups] == [2, 5]
    sink = io.StringIO()
    feature_panel.draw(terminal(sink, width=120), page, n=2, around=3)
    assert "unknown, as no firings were kept" in " ".join(sink.getvalue().split())
    assert "None" not in sink.getvalue()


def test_reports_and_differences_do_without_firings(without, tmp_path):
    import saestore

    analysis, _ = without
    lake = saestore.open_lake(Path(analysis.lake.storage.url))
    lake.report(REF.path, tmp_path / "all.html")
    lake.report(REF.name, tmp_path / "some.html", features=[1, 3])
    for name in ("all", "some"):
        assert "NaN" not in (tmp_path / f"{name}.html").read_text()
    assert "no firings were kept" in (tmp_path / "some.html").read_text()
    assert lake.verify(REF.path) == []
    matched = match(REF.name, REF.name, analysis.lake, draws=0, device="cpu")
    assert [each.method for each in matched.methods] == ["dec_cos"]
    assert matched.facts["without_activations"].startswith("analysed without keeping firings")
