"""What SAELens caches of a model is what `saestore generate` stores of the same tokens."""

import importlib
import os
import shutil
import warnings

import datasets
import numpy as np
import pyarrow as pa
import pytest

from saestore import generate
from saestore.errors import ConfigError
from saestore.exchange import import_activations
from saestore.lake import Lake
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.exchange import ImportSettings
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


HOOK, THEIRS = "blocks.1.hook_resid_post", "transformer.h.1"
CONTEXT = 16


@pytest.fixture(scope="module")
def sae_lens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations, at import
        if os.environ.get("TESTS_REQUIRE_PARTS"):
            return importlib.import_module("sae_lens")
        return pytest.importorskip("sae_lens", reason="sae-lens is not installed")


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return Lake.at(tmp_path_factory.mktemp("saelens") / "lake")


@pytest.fixture(scope="module")
def ours(lake, tiny_gpt2, tiny_jsonl):
    """A store of ours whose contexts are all of one length but the last of each document."""
    settings = GenerateSettings(
        name="ours",
        lm=LmSettings(model=str(tiny_gpt2)),
        corpus=CorpusSettings(
            sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=CONTEXT, packing="split"
        ),
        hookpoints=(HOOK,),
        tokens=1500,
        dtype="float32",
    )
    return generate.run(settings, lake, device="cpu")


@pytest.fixture(scope="module")
def cached(sae_lens, ours, tiny_gpt2, tmp_path_factory):
    """The folder that SAELens's own runner wrote of the same tokens."""
    table = ours.contexts()
    whole = table[table[:, 1] == CONTEXT][:24]
    tokens = [ours.tokens(first, first + CONTEXT).tolist() for first, _ in whole.tolist()]
    folder = tmp_path_factory.mktemp("cached") / "acts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = sae_lens.CacheActivationsRunnerConfig(
            dataset_path="none",
            model_name=str(tiny_gpt2),
            model_class_name="AutoModelForCausalLM",
            model_batch_size=4,
            hook_name=THEIRS,
            d_in=24,
            training_tokens=len(tokens) * CONTEXT,
            context_size=CONTEXT,
            new_cached_activations_path=str(folder),
            buffer_size_gb=8 * CONTEXT * 24 * 4 / 1e9,  # three files
            prepend_bos=True,
            streaming=False,
            shuffle=False,
            device="cpu",
        )
        runner = sae_lens.CacheActivationsRunner(
            config, override_dataset=datasets.Dataset.from_dict({"tokens": tokens})
        )
        runner.run()
    return folder, whole


def load(lake, folder, name, **more):
    given = {"name": name, "source": {"kind": "sae-lens", "path": str(folder)}, **more}
    return import_activations(ImportSettings.model_validate(given), lake)


@pytest.mark.filterwarnings("ignore")
def test_an_imported_cache_is_what_generate_stores(lake, ours, cached, tiny_gpt2):
    folder, whole = cached
    assert len(list(folder.glob("*.arrow"))) == 3
    store = load(lake, folder, "cached", lm={"model": str(tiny_gpt2)})
    assert store.record.context_size == CONTEXT
    assert store.contexts()[:, 1].tolist() == [CONTEXT] * len(whole)
    assert store.manifest.facts["imported"]["max_error"] == 0.0
    assert store.manifest.facts["source"]["hookpoints"] == {HOOK: THEIRS}
    for number, (first, length) in enumerate(whole.tolist()):
        here = slice(number * CONTEXT, (number + 1) * CONTEXT)
        assert store.tokens()[here].tolist() == ours.tokens(first, first + length).tolist()
        assert store.flags()[here].tolist() == ours.flags(first, first + length).tolist()
        np.testing.assert_allclose(
            store.read(HOOK, here.start, here.stop),
            ours.read(HOOK, first, first + length),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
    vocabulary = store.vocabulary().column("token").to_pylist()
    assert vocabulary == ours.vocabulary().column("token").to_pylist()[: len(vocabulary)]


@pytest.mark.filterwarnings("ignore")
def test_a_cache_that_is_not_whole_or_is_something_else_is_refused(lake, cached, tmp_path):
    folder, _ = cached

    def fails(message, hint, change, **more):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(ConfigError, match=message) as caught:
            load(lake, copy, "wrong", **more)
        assert hint in caught.value.hint

    def cut(copy):
        path = max(copy.glob("*.arrow"))
        path.write_bytes(path.read_bytes()[:-100])

    fails("does not end as an Arrow stream", "leave it out", cut)
    fails("is missing, though", "", lambda copy: max(copy.glob("*.arrow")).unlink())
    fails("has no state.json", "it holds data-00000", lambda copy: (copy / "state.json").unlink())
    fails("has no column 'ids'", THEIRS, lambda _: None, source={
        "kind": "sae-lens", "path": str(folder), "tokens": "ids",
    })  # fmt: skip

    def plain(copy):
        shutil.rmtree(copy)
        datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(copy))

    fails("has no column of activations", "text: string", plain)

    def splits(copy):
        shutil.rmtree(copy)
        rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
        datasets.DatasetDict(train=rows).save_to_disk(str(copy))

    fails("has no state.json", "name one, such as", splits)


@pytest.mark.filterwarnings("ignore")
def test_half_precision_ragged_contexts_and_no_tokens(lake, tmp_path):
    lengths = [3, 1, 5]
    values = [np.random.default_rng(n).normal(size=(n, 4)).astype(np.float16) for n in lengths]
    column = pa.array([each.tolist() for each in values], pa.list_(pa.list_(pa.float16())))
    rows = datasets.Dataset(pa.table({HOOK: column}))
    rows.save_to_disk(str(tmp_path / "x"))
    store = load(lake, tmp_path / "x", "half")
    assert store.record.dtype == "float16"
    assert store.contexts()[:, 1].tolist() == lengths
    np.testing.assert_array_equal(store.read(HOOK, 0, 9), np.concatenate(values))
    assert store.tokens().tolist() == [0] * 9
