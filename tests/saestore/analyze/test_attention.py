"""The table `attention`: what a firing reads from which rows, against the equations on whole matrices."""

import gzip
import json

import numpy as np
import pytest
import torch

import saestore
from saestore import analyze, features
from saestore.activations import ActivationStore
from saestore.analyze import attention
from saestore.dictionaries import load
from saestore.errors import UnsupportedError
from saestore.exchange.features import Neuronpedia
from saestore.lake import Lake
from saestore.testing.analyses import write_dictionary
from saestore.testing.dictionaries import random_dictionary, random_sae
from saestore.testing.stores import synthetic_store
from saestore_schemas.analyze import AnalyzeSettings, QuantileSubsample, TopSubsample
from saestore_schemas.dashboards import NeuronpediaSettings
from saestore_schemas.dictionary import Relu, TopK
from saestore_schemas.families import LorsaSettings
from saestore_schemas.tables import REMAINDER


READS, WRITES = "blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out"
D, FEATURES, GROUPS, D_QK, BASE = 7, 12, 3, 6, 100.0
HERE = "WHERE analysis = 'default'"
SUBSAMPLES = {"top": TopSubsample(n=3, window=5), "quantile": QuantileSubsample(q=2, n=2, window=9)}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("attention") / "lake")
    synthetic_store(made, "store", rows=230, width=D, hookpoints=(READS, WRITES), context_size=23)
    settings = LorsaSettings(
        family="lorsa", hookpoint_in=READS, hookpoint_out=WRITES, d_sae=FEATURES,
        activation=TopK(k=5), attention={"n_qk": GROUPS, "d_qk": D_QK, "rope": {"base": BASE}},
    )  # fmt: skip
    widths = dict.fromkeys((READS, WRITES), D)
    lorsa = random_dictionary(settings, widths, dtype=torch.float32)
    write_dictionary(made, "s/lorsa", lorsa, settings)
    analyzed(made, "default")
    return made


def analyzed(lake, name):
    analyze.run(
        AnalyzeSettings(
            name=name,
            dictionary="s/lorsa",
            activations="store",
            logits=None,
            subsamples=SUBSAMPLES,
            memory_mib=16,
        ),
        lake,
        device="cpu",
    )


def asked(lake, sql):
    return features.query(lake, sql).to_pylist()


def turned(vectors):
    """Dimension j and j + half as a complex number, times its angle."""
    half = D_QK // 2
    speed = BASE ** (-np.arange(half) / half)
    pairs = vectors[..., :half] + 1j * vectors[..., half:]
    pairs = pairs * np.exp(1j * np.arange(vectors.shape[-2])[:, None] * speed)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def added(lake):
    """What each row of each context adds to each feature at each row, from the equations."""
    tensors = load(lake, "s/lorsa").folded().tensors()
    w = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    store = ActivationStore.open(lake, "store")
    found = []
    for first, length in store.contexts().tolist():
        x = store.read(READS, first, first + length).astype(np.float64)
        q, k = (turned(x @ w[f"W_{s}"] + w[f"b_{s}"][:, None]) for s in "QK")
        scores = np.where(np.tri(length, dtype=bool), q @ k.swapaxes(1, 2) / D_QK**0.5, -np.inf)
        patterns = np.exp(scores - scores.max(axis=2, keepdims=True))
        patterns /= patterns.sum(axis=2, keepdims=True)
        values = x @ w["W_V"].T + w["b_V"]
        groups = np.repeat(patterns, FEATURES // GROUPS, axis=0)
        found.append(groups * values.T[:, None])
    return found


def test_its_lines_are_those_of_whole_matrices(lake):
    dense = added(lake)
    wanted = {}
    examples = asked(lake, f"SELECT feature, context, positions FROM examples {HERE}")
    for line in examples:
        for query in line["positions"]:
            z = dense[line["context"]][line["feature"], query]
            kept = np.abs(z) >= 0.01 * abs(z.sum())
            for key in np.flatnonzero(kept):
                wanted[line["feature"], line["context"], query, int(key)] = z[key]
            wanted[line["feature"], line["context"], query, REMAINDER] = z[~kept].sum()
    found = asked(lake, f"SELECT feature, context, query, key, value FROM attention {HERE}")
    keys = [(line["feature"], line["context"], line["query"], line["key"]) for line in found]
    assert keys == sorted(wanted)
    assert len(found) > 500
    assert [line["value"] for line in found] == pytest.approx(
        [wanted[key] for key in keys], rel=1e-4, abs=1e-4
    )


def test_lines_of_a_firing_sum_to_its_value(lake):
    sums = f"SELECT feature, context, query AS position, sum(value) AS z FROM attention {HERE} GROUP BY ALL"
    fired = f"SELECT feature, context, position, value FROM firings {HERE}"
    (found,) = asked(
        lake,
        f"SELECT max(abs(z / value - 1)) AS worst, count(*) AS n FROM ({sums}) "
        f"JOIN ({fired}) USING (feature, context, position)",
    )
    (pairs,) = asked(lake, f"SELECT count(*) AS n FROM ({sums})")
    assert found["n"] == pairs["n"] > 100
    assert found["worst"] < 1e-5


def test_a_page_says_what_is_read_at_the_peaks(lake):
    (busiest,) = asked(lake, f"SELECT feature FROM features {HERE} ORDER BY n_firings DESC LIMIT 1")
    page = features.Analysis.open(lake, "s/lorsa/default").feature(busiest["feature"])
    texts = {c["context"]: c for c in asked(lake, f"SELECT * FROM contexts {HERE}")}
    shown = [e for group in page.groups if group.kind == "top" for e in group.examples]
    assert shown
    for example in shown:
        lines = asked(
            lake,
            f"SELECT key, value FROM attention {HERE} AND feature = {page.feature} "
            f"AND context = {example.context} AND query = {example.peak_position} "
            f"ORDER BY key = {REMAINDER}, value DESC",
        )
        assert [(r.position, r.value) for r in example.reads] == [
            (None if line["key"] == REMAINDER else line["key"], line["value"]) for line in lines
        ]
        assert sum(r.value for r in example.reads) == pytest.approx(example.peak, rel=1e-5)
        home = texts[example.context]
        for read in example.reads[:-1]:
            low, high = home["char_offsets"][read.position : read.position + 2]
            assert read.text == home["text"][low:high]


def test_memory_changes_no_line(lake, monkeypatch):
    monkeypatch.setattr(attention, "BYTES_PER_LINE", 1 << 24)
    analyzed(lake, "narrow")
    one, other = (
        asked(lake, f"SELECT * EXCLUDE analysis FROM attention WHERE analysis = '{name}'")
        for name in ("default", "narrow")
    )
    assert one == other


def test_what_a_row_adds_does_not_depend_on_what_else_is_asked(lake):
    lorsa = load(lake, "s/lorsa").folded()
    rows = torch.from_numpy(ActivationStore.open(lake, "store").read(READS, 23, 46))
    pairs = torch.tensor([[0, 0, 5, 11], [3, 22, 7, 7]])
    together = lorsa.contributions(rows, *pairs)
    for place in range(4):
        alone = lorsa.contributions(rows, *pairs[:, place : place + 1])
        assert torch.equal(alone[0], together[place])
    whole = lorsa.z_patterns(rows, torch.tensor([0, 5]))
    torch.testing.assert_close(whole[0, [3, 22]], together[:2], rtol=1e-4, atol=1e-5)


def test_rows_that_stand_alone_add_nothing():
    with pytest.raises(UnsupportedError, match="depends on that row alone"):
        random_sae(Relu()).contributions({}, torch.tensor([0]), torch.tensor([0]))


def test_neuronpedia_is_told_what_its_examples_read(lake, tmp_path):
    settings = NeuronpediaSettings(creator_id="me", creator_name="Me", release="r", model_id="m")
    opened = saestore.open_lake(lake.storage.url)
    opened.export_features("s/lorsa/default", tmp_path, Neuronpedia(settings))
    (zipped,) = (tmp_path / "m" / "1-s-lorsa" / "activations").iterdir()
    lines = [json.loads(line) for line in gzip.decompress(zipped.read_bytes()).splitlines()]
    assert sum(map(len, (line["zValues"] for line in lines))) > 50
    columns = "feature, context, window_start AS a, window_start + window_length AS b"
    examples = asked(lake, f"SELECT {columns} FROM examples {HERE} AND subsample = 'top'")
    ends = {(each["feature"], each["context"]): (each["a"], each["b"]) for each in examples}
    known = asked(lake, f"SELECT * FROM attention {HERE} ORDER BY feature, context, query, key")
    for line in lines:
        here = int(line["index"]), int(line["dataIndex"])
        first, stop = ends[here]
        assert len(line["tokens"]) in {stop - first, stop - first - 1}
        first = stop - len(line["tokens"])  # a BOS in front is cut
        within = [
            each
            for each in known
            if (each["feature"], each["context"]) == here
            and all(first <= each[name] < stop for name in ("query", "key"))
        ]
        for name, numbers in zip(("query", "key"), line["zIndices"], strict=True):
            assert numbers == [each[name] - first for each in within]
        assert line["zValues"] == [round(each["value"], 3) for each in within]
