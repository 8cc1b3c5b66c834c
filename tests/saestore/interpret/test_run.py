"""Whole runs against a real server on loopback: what is asked, kept, gone on with, replayed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saestore.errors import (
    ArtefactExistsError,
    BudgetError,
    ConfigError,
    EndpointError,
    ReplayError,
    UnsupportedError,
)
from saestore.interpret import estimate, run
from saestore.lake import Lake, Ref, layout
from saestore.progress import Recorder
from saestore.testing.analyses import plant, planted_analysis
from saestore.testing.llm import Reply, llm_server, refused_then, slow
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.interpret import InterpretSettings
from saestore_schemas.interpretation_tables import TABLES


SECRET = "sk-of-a-test-never-to-be-written"  # noqa: S105 - of no endpoint


def parrot(asked):
    """Explain everything alike, and call every second text likely."""
    numbers = re.findall(r"^\[(\d+)\]", asked.text, re.MULTILINE)
    if "Explanation: " in asked.text:
        told = {n: 0.25 + 0.5 * (int(n) % 2) for n in numbers}
        return Reply(json.dumps(told))
    return Reply(json.dumps({"explanation": "words", "consistency": 3, "complexity": 2}))


@pytest.fixture
def lake(tmp_path):
    lake = Lake.at(tmp_path / "lake")
    planted_analysis(lake, planted=plant(seed=3, contexts=120, d_sae=9))
    return lake


def asked_for(server, **changes):
    endpoint = {"model": "test-model", "base_url": server.url, **changes.pop("endpoint", {})}
    return InterpretSettings.model_validate(
        {
            "features": "planted/relu",
            "endpoint": endpoint,
            "explainers": {"top": {"kind": "top", "examples": 4}},
            "scorers": {"detection": {"kind": "detection", "positives": 6, "negatives": 6}},
            "bootstrap": 50,
            "prices": {"test-model": {"prompt": 2.0, "completion": 8.0}},
            **changes,
        }
    )


def files(made):
    """The tables' bytes, and the cassette's."""
    artefact = made.lake.artefact(made.ref)
    return {
        path: artefact.read(path)
        for path in [layout.CASSETTE, *(layout.part_file(t.name, 0) for t in TABLES)]
    }


def tables(made):
    return [made.explanations, made.scores, made.answers]


def test_every_feature_is_explained_and_every_explanation_scored(lake):
    with llm_server(parrot) as server:
        progress = Recorder()
        made = run(asked_for(server), lake, progress=progress)
        assert made.explanations["feature"].to_pylist() == list(range(1, 9))
        assert set(made.explanations["outcome"].to_pylist()) <= {"answered", "no_examples"}
        answered = made.explanations["outcome"].to_pylist().count("answered")
        assert made.scores.num_rows == made.manifest.counts["explanations"] == answered > 5
        assert made.manifest.counts["requests"] == len(server.requests)
        assert progress.tasks[0]["advanced"] == 8
        for line in made.scores.to_pylist():
            own = [
                a
                for a in made.answers.to_pylist()
                if a["interpretation_id"] == line["interpretation_id"]
            ]
            outcomes = [a["outcome"] for a in own]
            assert line["n"] == len(own)
            assert line["tp"] + line["tn"] == outcomes.count("right")
            assert line["fp"] + line["fn"] == outcomes.count("wrong")
        shown = {
            (line["feature"], place["context"])
            for line in made.explanations.to_pylist()
            for place in line["explain_examples"]
        }
        tested = {(a["feature"], a["context"]) for a in made.answers.to_pylist()}
        assert not shown & tested


def test_tokens_and_money_are_those_that_the_server_counted(lake):
    with llm_server(parrot) as server:
        made = run(asked_for(server), lake)
        facts = made.manifest.facts
        assert facts["prompt_tokens"] == server.prompt_tokens
        assert facts["completion_tokens"] == server.completion_tokens
        price = (2.0 * server.prompt_tokens + 8.0 * server.completion_tokens) / 1e6
        assert facts["cost"] == pytest.approx(price, rel=1e-12)
        lines = [*made.explanations.to_pylist(), *made.scores.to_pylist()]
        assert sum(line["prompt_tokens"] for line in lines) == server.prompt_tokens
        assert sum(line["cost"] for line in lines) == pytest.approx(price, rel=1e-12)


def test_no_order_and_no_number_of_workers_changes_a_table(lake):
    with llm_server(slow(parrot, 0.005)) as server:
        one = run(asked_for(server, name="one", concurrency=1), lake)
        assert server.peak == 1
        many = run(asked_for(server, name="many", concurrency=16), lake)
        assert 4 < server.peak <= 16
        later = run(asked_for(server, name="later", concurrency=3), lake)
    assert tables(one) == tables(many) == tables(later)
    assert files(one) == files(many)


def test_a_finished_run_asks_nobody_and_other_settings_are_refused(lake):
    with llm_server(parrot) as server:
        made = run(asked_for(server), lake)
        n = len(server.requests)
        progress = Recorder()
        again = run(asked_for(server, concurrency=2), lake, progress=progress)
        assert files(again) == files(made)
        assert "finished already" in progress.notes[0]
        with pytest.raises(ArtefactExistsError, match="seed"):
            run(asked_for(server, seed=1), lake)
        assert len(server.requests) == n


def test_a_run_is_overwritten_only_if_that_is_said_and_its_answers_stay(lake):
    with llm_server(parrot) as server:
        made = run(asked_for(server), lake)
        scores, n = made.scores, len(server.requests)
        again = run(asked_for(server), lake, overwrite=True)
        assert (files(again), again.manifest) == (files(made), made.manifest)
        fewer = {"kind": "list", "features": [4, 7]}
        replaced = run(asked_for(server, select=fewer), lake, overwrite=True)
        assert len(server.requests) == n
        assert replaced.explanations["feature"].to_pylist() == [4, 7]
        wanted = scores.filter([f in {4, 7} for f in scores["feature"].to_pylist()])
        assert replaced.scores == wanted
        seeded = run(asked_for(server, select=fewer, seed=3), lake, overwrite=True)
        assert len(server.requests) > n
        assert seeded.manifest.settings["seed"] == 3
        assert lake.refs("interpretation") == [seeded.ref]


def test_a_replay_is_the_same_byte_for_byte_and_a_miss_is_an_error(lake, monkeypatch):
    with llm_server(parrot) as server:
        made = run(asked_for(server), lake)
        settings = asked_for(server, name="replayed")
    monkeypatch.setenv("SAESTORE_LLM_KEY", "")
    cassette = f"{lake.artefact(made.ref).url}/{layout.CASSETTE}"
    replayed = run(settings, lake, replay=cassette)
    assert files(replayed) == files(made)
    with pytest.raises(ReplayError, match="feature"):
        run(settings.model_copy(update={"name": "other", "seed": 5}), lake, replay=cassette)


def test_another_runs_answers_are_used_before_the_endpoint_is_asked(lake):
    with llm_server(parrot) as server:
        made = run(asked_for(server), lake)
        n = len(server.requests)
        more = {"detection": {"kind": "detection", "positives": 6, "negatives": 6}}
        more["twice"] = {"kind": "detection", "positives": 2, "negatives": 2}
        settings = asked_for(server, name="more", scorers=more)
        extended = run(settings, lake, cassettes=[lake.artefact(made.ref).url])
        fresh = len(server.requests) - n
        assert extended.manifest.facts["reused"] == n
        assert extended.manifest.counts["requests"] == fresh > 0
        assert extended.explanations == made.explanations


def test_a_run_that_its_budget_stopped_goes_on_with_a_larger_one(lake):
    with llm_server(parrot) as server:
        whole = run(asked_for(server, name="whole"), lake)
        total = len(server.requests)
        used = int(whole.manifest.facts["prompt_tokens"]) + int(
            whole.manifest.facts["completion_tokens"]
        )
        limited = asked_for(server, budget={"tokens": used // 2 + 6000})
        with pytest.raises(BudgetError, match="tokens are used"):
            run(limited, lake)
        done = len(server.requests) - total
        assert 0 < done < total
        made = run(asked_for(server), lake)
        assert len(server.requests) == 2 * total
    assert tables(made) == tables(whole)
    assert made.manifest.facts["prompt_tokens"] == whole.manifest.facts["prompt_tokens"]


def test_a_busy_endpoint_is_asked_again_and_the_result_is_the_same(lake):
    with llm_server(parrot) as server:
        calm = run(asked_for(server, name="calm"), lake)
    with llm_server(refused_then(parrot, 2, retry_after="0.01")) as server:
        busy = run(asked_for(server, name="busy"), lake)
    assert tables(busy) == tables(calm)
    assert busy.manifest.facts["retries"] > 0


def test_a_wrong_key_ends_the_run_and_is_written_nowhere(lake, monkeypatch, caplog):
    monkeypatch.setenv("SAESTORE_LLM_KEY", SECRET)
    with llm_server(parrot, key="another") as server:
        with pytest.raises(EndpointError) as caught:
            run(asked_for(server), lake)
        assert len(server.requests) <= 32
    assert SECRET not in f"{caught.value}{caught.value.hint}{caplog.text}"
    with llm_server(parrot, key=SECRET) as server:
        run(asked_for(server), lake)
    for path in Path(lake.storage.url).rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


KILLED = """
import sys
from saestore.interpret import run
from saestore.lake import Lake
from saestore_schemas.interpret import InterpretSettings
run(InterpretSettings.model_validate_json(sys.argv[2]), Lake.at(sys.argv[1]))
"""


def test_a_killed_run_goes_on_and_asks_nothing_twice(lake):
    with llm_server(slow(parrot, 0.02)) as server:
        whole = run(asked_for(server, name="whole"), lake)
        total = len(server.requests)
        settings = asked_for(server, concurrency=4)
        given = json.loads(settings.model_dump_json())
        given["endpoint"]["base_url"] = server.url
        given |= {"concurrency": 4, "prices": {"test-model": {"prompt": 2.0, "completion": 8.0}}}
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, lake.storage.url, json.dumps(given)]
        )
        while len(server.requests) < total + total // 3:
            assert process.poll() is None
            process.poll()
        process.kill()
        process.wait()
        made = run(settings, lake)
        assert len(server.requests) <= 2 * total + 4  # those that were under way when it was killed
    assert tables(made) == tables(whole)


def test_a_mistake_keeps_no_name(lake, monkeypatch):
    monkeypatch.setenv("SAESTORE_LLM_KEY", "")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with llm_server(parrot) as server:
        with pytest.raises(ConfigError, match="SAESTORE_LLM_KEY"):
            run(asked_for(server, endpoint={"base_url": "https://example.invalid/v1"}), lake)
        with pytest.raises(EndpointError, match="test-modle"):
            run(asked_for(server, endpoint={"model": "test-modle"}), lake)
        assert run(asked_for(server), lake).manifest.counts["explanations"] > 5


def test_an_estimate_asks_nobody_and_covers_what_a_run_takes(lake):
    with llm_server(parrot) as server:
        settings = asked_for(server)
        found = estimate(settings, lake)
        assert server.requests == []
        made = run(settings, lake)
        assert found.requests == len(server.requests)
        assert found.features == made.manifest.counts["features"]
        used = server.prompt_tokens + server.completion_tokens
        assert used <= found.most.total
        assert found.most_cost > found.cost > 0
    assert Ref("interpretation", "planted/relu/default/default") == made.ref


def test_an_analysis_without_firings_is_refused_before_anybody_is_asked(tmp_path):
    lake = Lake.at(tmp_path / "lake")
    settings = AnalyzeSettings(dictionary="planted/relu", logits=None, firings="none")
    planted_analysis(lake, planted=plant(contexts=30), settings=settings)
    with llm_server(parrot) as server:
        with pytest.raises(UnsupportedError, match="firing"):
            run(asked_for(server), lake)
        assert server.requests == []
    assert lake.refs("interpretation", unfinished=True) == []
