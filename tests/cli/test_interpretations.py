"""A run of `interpret` as an artefact: shown, listed, verified, removed."""

import json
import shutil

import pytest

from saestore.lake import Lake, Ref, layout
from saestore.testing.analyses import planted_analysis
from saestore.testing.interpretations import EACH, Explained, interpretation_run


ANALYSIS = "planted/relu/default"
RUN = f"{ANALYSIS}/zeta"


@pytest.fixture(scope="module")
def whole_lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    lake = Lake.at(folder)
    planted_analysis(lake)
    explained = [
        Explained(4, "says the", scores={"detection": 0.75, "fuzzing": 0.55}),
        Explained(4, "after a comma", "top", {"detection": 0.9, "fuzzing": 0.8}),
        Explained(5, None),
        Explained(6, "nothing \x1b[31mat all", scores={"detection": None, "fuzzing": 0.5}),
        *(Explained(f, f"feature {f}", scores={"detection": 0.65, "fuzzing": 0.6}) for f in (7, 8)),
    ]
    interpretation_run(lake, ANALYSIS, "zeta", explained)
    return folder


@pytest.fixture
def folder(whole_lake, tmp_path):
    """A copy that may be changed."""
    shutil.copytree(whole_lake, tmp_path / "lake")
    return tmp_path / "lake"


def test_show_tells_what_was_asked_what_it_took_and_how_well_explanations_hold(run, whole_lake):
    done = run("show", RUN, "--lake", whole_lake)
    assert done.code == 0
    assert "\x1b" not in done.out
    for part in (
        "interpretation planted/relu/default/zeta",
        "test-model, at https://api.openai.com/v1",
        "5 of planted/relu/default",
        "quantile: 4 answered, 1 unreadable",
        "1,600 sent, 160 received",
        "0.016",
        "nothing ␛[31mat all",
    ):
        assert part in done.out
    lines = [line.split() for line in done.out.splitlines()]
    mean = "0.68"  # of 0.75, 0.65 and 0.65
    (held,) = [line for line in lines if line[:3] == ["quantile", "detection", mean]]
    assert held[-4:] == ["3", "of", "4", "25.0%"]
    assert ["top", "fuzzing", "0.80", "1", "0.0%"] in lines


def test_show_as_data(run, whole_lake):
    page = json.loads(run("show", RUN, "--lake", whole_lake, "--output", "json").out)
    judged = {(each["explainer"], each["scorer"]): each for each in page["judged"]}
    found = judged["quantile", "detection"]
    assert found["unparsed"] == 0.25
    assert found["mean"] == pytest.approx((0.75 + 0.65 + 0.65) / 3)
    assert found["ci_low"] <= found["mean"] <= found["ci_high"]
    assert sum(found["distribution"]["counts"]) == found["n_scored"] == 3
    assert judged["top", "fuzzing"]["ci_low"] is None
    assert [each["feature"] for each in page["best"]] == [4, 4, 7, 8, 6]
    assert page["worst"] == []
    assert page["outcomes"] == {"quantile": {"answered": 4, "unparsed": 1}, "top": {"answered": 1}}


def test_show_feature_has_its_explanations_as_data(run, whole_lake):
    done = run("show", "feature", "planted/relu", "4", "--lake", whole_lake, "--output", "json")
    found = json.loads(done.out)["explanations"]
    assert [(each["explainer"], each["text"]) for each in found] == [
        ("quantile", "says the"),
        ("top", "after a comma"),
    ]
    assert found[0]["scores"][0]["n"] == 2 * EACH


def test_ls_and_lineage_know_runs(run, whole_lake):
    listed = run("ls", "--kind", "interpretation", "--lake", whole_lake).out
    assert "explanations, 9 scores" in listed
    assert RUN in listed
    assert f"saestore show {RUN}" in run("show", f"features/{ANALYSIS}", "--lake", whole_lake).out
    lines = run("lineage", RUN, "--lake", whole_lake).out.splitlines()
    assert f"features/{ANALYSIS}" in lines[1]
    assert (
        f"features/{ANALYSIS}/interpretations/zeta"
        in run("lineage", f"features/{ANALYSIS}", "--lake", whole_lake).out
    )


def test_verify_finds_a_flipped_bit_in_each_table_of_a_run_and_not_in_the_analysis(run, folder):
    assert run("verify", RUN, "--lake", folder).code == 0
    path = Lake.at(folder).artefact(Ref("interpretation", RUN)).path(layout.SELECTION).parent
    for table in ("interpretations", "interpretation_scores", "interpretation_answers"):
        file = path / layout.part_file(table, 0)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        done = run("verify", RUN, "--lake", folder)
        assert done.code != 0
        assert f"{table}/part-00000.parquet: checksum" in done.out + done.err
    assert run("verify", f"features/{ANALYSIS}", "--lake", folder).code == 0


def test_an_analysis_stays_while_a_run_about_it_lies_in_its_folder(run, folder):
    lake = Lake.at(folder)
    refused = run("remove", f"features/{ANALYSIS}", "--lake", folder)
    assert refused.code != 0
    assert "interpretations/zeta" in refused.err
    artefact = lake.artefact(Ref("interpretation", RUN))
    manifest = artefact.read(layout.MANIFEST)
    artefact.write(layout.MANIFEST, b"{}")  # a damaged one names no parent
    assert run("remove", f"features/{ANALYSIS}", "--lake", folder).code != 0
    artefact.remove(layout.MANIFEST)
    artefact.write(layout.RUN, b"{}")  # nor does one that is not finished
    assert run("remove", f"features/{ANALYSIS}", "--lake", folder).code != 0
    artefact.write(layout.MANIFEST, manifest)
    assert run("remove", RUN, "--lake", folder).code == 0
    assert run("remove", f"features/{ANALYSIS}", "--lake", folder).code == 0
    assert not lake.refs("features")
