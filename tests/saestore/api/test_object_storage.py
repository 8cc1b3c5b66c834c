"""Every stage over a real S3 server, and what is left when one is killed or cut off."""

import signal
import subprocess
import sys
import threading
import time

import fsspec
import numpy as np
import pytest
import tomli_w

import saestore
from saestore.errors import StorageError
from saestore.exchange import importing, source
from saestore.lake import Lake, Ref, Storage, layout
from saestore.testing.interpretations import Explained, interpretation_run
from saestore.testing.lakes import small_plan
from saestore.testing.s3 import SlowNetwork
from saestore.testing.stores import payload_bytes
from saestore_schemas.activations import StoreSettings
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


pytestmark = pytest.mark.serve

REF = Ref("activations", "a")


@pytest.fixture
def settings(tiny_gpt2, tiny_jsonl):
    """A run of several shards."""
    return GenerateSettings(
        name="a",
        lm=LmSettings(model=str(tiny_gpt2)),
        corpus=CorpusSettings(
            sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=24, block_documents=5
        ),
        hookpoints=("blocks.1.hook_resid_post",),
        tokens=700,
        dtype="float32",
        forward_contexts=3,
        store=StoreSettings(chunk_kib=1, shard_mib=64 * 24 * 4 / 2**20),
    )


def test_every_stage_runs_in_an_object_store(s3_url, tiny_llama, tiny_jsonl):
    lake = saestore.open_lake(s3_url, device="cpu")
    plan = small_plan(tiny_llama, tiny_jsonl, tokens=1500)
    lake.generate(plan.generate)
    lake.train(plan.train)
    lake.evaluate(plan.evaluate)
    lake.analyze(plan.analyze)
    assert [each.manifest is not None for each in lake.ls()] == [True] * 4
    firings = lake.polars("firings_by_feature", "demo/topk-32").collect().height
    assert firings > 0
    scanned = lake.scan("firings_by_feature").select("dictionary", "value").collect()
    assert (scanned.height, scanned["dictionary"].unique().to_list()) == (firings, ["topk-32"])
    explained = [Explained(7, "a digit", scores={"detection": 0.9})]
    interpretation_run(lake.lake, "demo/topk-32/default", "first", explained)
    assert lake.analysis("demo/topk-32").feature(7).explanations[0].text == "a digit"
    (line,) = lake.sql("SELECT run, score FROM interpretation_scores").to_pylist()
    assert line == {"run": "first", "score": 0.9}
    assert lake.scan("interpretations").select("run", "text").collect().rows() == [
        ("first", "a digit")
    ]
    asked = lake.sql("SELECT sum(n_firings)::BIGINT AS n FROM features").to_pylist()
    assert asked == [{"n": firings}]
    assert lake.sql("SELECT count(*) AS n FROM firings").to_pylist() == [{"n": firings}]
    page = lake.analysis("demo/topk-32").feature(int(_busiest(lake)))
    assert page.examples
    for each in lake.ls():
        assert lake.verify(each.ref.path) == []
    assert not [path for path in lake.lake.storage.files() if layout.PROGRESS in path]
    for each in reversed(lake.ls()):
        lake.remove(each.ref.path)
    assert lake.lake.storage.files() == []


def _busiest(lake):
    answer = lake.sql("SELECT feature FROM features ORDER BY n_firings DESC LIMIT 1")
    return answer["feature"][0].as_py()


@pytest.mark.slow
def test_killed_and_rerun_it_leaves_the_objects_of_a_quiet_run(s3_url, settings, tmp_path):
    config = tmp_path / "a.toml"
    config.write_text(tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)))
    program = "import sys; from saestore_cli.main import main; sys.exit(main())"
    words = ["generate", str(config), "--lake", s3_url, "--device", "cpu", "--no-progress"]
    process = subprocess.Popen([sys.executable, "-c", program, *words])
    artefact = Storage.at(s3_url).child(REF.path)
    while process.poll() is None and not artefact.exists(layout.commit_file(1)):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not artefact.exists(layout.MANIFEST)
    assert artefact.exists(layout.LOCK)
    lakes = [Lake.at(s3_url), Lake.at(tmp_path / "quiet")]
    for lake in lakes:
        saestore.open_lake(lake.storage.full_url, device="cpu").generate(settings)
    killed, quiet = (payload_bytes(lake, REF) for lake in lakes)
    assert killed == quiet
    assert not artefact.scratch().exists()


def test_a_lost_network_stops_the_run_and_loses_nothing(
    s3_url, s3_server, settings, tmp_path, monkeypatch
):
    network = SlowNetwork(s3_server.port, delay_s=0.0).__enter__()
    artefact = Storage.at(s3_url).child(REF.path)
    artefact.names()  # connected to the server itself

    def cut():
        while not artefact.exists(layout.commit_file(2)):
            time.sleep(0.01)
        network.cut()

    for key, value in s3_server.environment(network.endpoint).items():
        monkeypatch.setenv(key, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    through = saestore.open_lake(s3_url, device="cpu")
    threading.Thread(target=cut, daemon=True).start()
    with pytest.raises(StorageError) as caught:
        through.generate(settings)
    assert "run the same command again" in caught.value.hint
    for key, value in s3_server.environment().items():
        monkeypatch.setenv(key, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    before = artefact.read(layout.commit_file(0))
    assert before
    lakes = [Lake.at(s3_url), Lake.at(tmp_path / "quiet")]
    for lake in lakes:
        saestore.open_lake(lake.storage.full_url, device="cpu").generate(settings)
    cut_off, quiet = (payload_bytes(lake, REF) for lake in lakes)
    assert cut_off == quiet


def test_parts_are_made_and_merged_in_an_object_store(s3_url, settings, tmp_path):
    settings = settings.model_copy(update={"tokens": 200})
    lake = saestore.open_lake(s3_url, device="cpu")
    for shard in ("1/2", "0/2"):
        lake.generate_part(settings, shard)
    artefact = Storage.at(s3_url).child(REF.path)
    merged = lake.merge("a")
    assert merged.n_rows == 200
    assert artefact.names(layout.PROGRESS) == []
    assert not artefact.scratch().exists()
    saestore.open_lake(tmp_path / "quiet", device="cpu").generate(settings)
    one, other = Lake.at(s3_url), Lake.at(tmp_path / "quiet")
    assert payload_bytes(one, REF) == payload_bytes(other, REF)
    assert lake.verify("a") == []
    copy = lake.shuffle("a", "b")
    assert lake.shuffle("a", "b").manifest == copy.manifest
    assert lake.verify("b") == []


def test_an_import_into_an_object_store_is_continued(s3_url, tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(90, 10, 8)).astype(np.float32)
    np.save(tmp_path / "blocks.0.hook_resid_post.npy", values)
    monkeypatch.setattr(source, "PIECE_BYTES", 4096)
    given = {
        "name": "a",
        "source": {"kind": "npy", "path": str(tmp_path)},
        "store": {"chunk_kib": 1, "shard_mib": 256 * 32 / 2**20},
    }
    append, appended = importing._Import._append, []

    def stopped(self, *args):
        appended.append(1)
        if len(appended) > 5:
            raise KeyboardInterrupt
        return append(self, *args)

    monkeypatch.setattr(importing._Import, "_append", stopped)
    lake = saestore.open_lake(s3_url, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        lake.import_activations(given)
    assert Storage.at(s3_url).child(REF.path).exists(layout.commit_file(1))
    monkeypatch.setattr(importing._Import, "_append", append)
    store = lake.import_activations(given)
    assert np.array_equal(store.read("blocks.0.hook_resid_post", 0, 900), values.reshape(900, 8))
    assert lake.verify("a") == []
    saestore.open_lake(tmp_path / "quiet", device="cpu").import_activations(given)
    one, other = Lake.at(s3_url), Lake.at(tmp_path / "quiet")
    assert payload_bytes(one, REF) == payload_bytes(other, REF)
    assert Storage.at(s3_url).child(REF.path).names(layout.PROGRESS) == []
