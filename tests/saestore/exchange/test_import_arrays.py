"""Arrays and safetensors: shapes, types, tokens and masks, and what is wrong with them."""

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings as hypothesis, strategies as st

from saestore.activations import codecs
from saestore.errors import ConfigError, HookpointNotFoundError, OverflowRowError
from saestore.exchange import import_activations, importing, source as sources, tensors
from saestore.testing.stores import scratch_lake
from saestore_schemas.activations import FLAG_IGNORED, FLAG_SPECIAL
from saestore_schemas.exchange import ImportSettings


HOOK = "blocks.3.hook_resid_post"
RNG = np.random.default_rng(3)


@pytest.fixture
def lake():
    with scratch_lake() as lake:
        yield lake


def load(lake, kind, path, name="x", *, hookpoints=(HOOK,), source=None, **more):
    given = {
        "name": name,
        "source": {"kind": kind, "path": str(path), **(source or {})},
        "hookpoints": hookpoints,
        **more,
    }
    return import_activations(ImportSettings.model_validate(given), lake)


def saved(path, array):
    np.save(path, array)
    return str(path)


def rows(n, d, dtype=np.float32):
    return RNG.normal(size=(n, d)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "<f2"])
def test_a_npy_of_rows_is_stored_bit_for_bit(tmp_path, lake, dtype):
    values = rows(37, 5).astype(dtype)
    store = load(lake, "npy", saved(tmp_path / "a.npy", values))
    np.testing.assert_array_equal(store.read(HOOK, 0, 37), values.astype(np.float32))
    assert store.record.dtype == np.dtype(dtype).newbyteorder("=").name
    assert store.n_contexts == 37
    assert store.vocabulary().column("token").to_pylist() == ["<no token>"]
    assert store.manifest.facts["source"]["tokens"] is False
    assert store.manifest.facts["imported"]["max_error"] == 0.0


def bits(values):
    return torch.from_numpy(values).bfloat16().view(torch.int16).numpy()


@pytest.mark.parametrize("stored", ["uint16", "int16", "V2"])
def test_bfloat16_is_reinterpreted_when_it_is_said_and_refused_when_not(tmp_path, lake, stored):
    values = rows(9, 4)
    path = saved(tmp_path / "a.npy", bits(values).view(stored))
    store = load(lake, "npy", path, source={"dtype": "bfloat16"})
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(store.read(HOOK, 0, 9), expected)
    assert store.record.dtype == "bfloat16"
    with pytest.raises(ConfigError) as caught:
        load(lake, "npy", path, "other")
    assert "16" in str(caught.value)


def test_tokens_and_mask_by_contexts(tmp_path, lake):
    values = rows(12, 3)
    tokens = np.arange(12).reshape(3, 4)
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]])
    source = {
        "tokens": saved(tmp_path / "t.npy", tokens),
        "mask": saved(tmp_path / "m.npy", mask),
    }
    store = load(lake, "npy", saved(tmp_path / "a.npy", values), source=source, special_tokens=[4])
    assert store.contexts().tolist() == [[0, 3], [3, 4]]
    assert store.tokens().tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert store.flags().tolist() == [0, 0, 0, FLAG_SPECIAL, FLAG_IGNORED, 0, 0]
    np.testing.assert_array_equal(store.read(HOOK, 0, 7), values[[0, 1, 2, 4, 5, 6, 7]])
    cube = load(lake, "npy", saved(tmp_path / "b.npy", values.reshape(3, 4, 3)), "cube")
    assert cube.contexts().tolist() == [[0, 4], [4, 4], [8, 4]]


def test_rows_with_tokens_are_cut_when_asked(tmp_path, lake):
    values = rows(10, 3)
    source = {"tokens": saved(tmp_path / "t.npy", np.arange(10, dtype=np.uint16))}
    path = saved(tmp_path / "a.npy", values)
    store = load(lake, "npy", path, source=source, context_size=4, ignore_tokens=[2])
    assert store.contexts().tolist() == [[0, 4], [4, 4], [8, 2]]
    assert store.flags().tolist() == [0, 0, FLAG_IGNORED, *[0] * 7]
    assert store.documents().num_rows == 1
    assert store.documents().column("n_tokens").to_pylist() == [10]


def test_raw_files_of_a_folder_are_hookpoints(tmp_path, lake):
    resid, mlp = rows(8, 4, np.float16), rows(8, 2, np.float16)
    resid.tofile(tmp_path / "resid.bin")
    mlp.tofile(tmp_path / "mlp.bin")
    for name, width in (("resid", 4), ("mlp", 2)):
        source = {"dtype": "float16", "shape": [-1, width]}
        hook = f"{name}=layers.2.mlp"
        store = load(lake, "npy", tmp_path, name, source=source, hookpoints=[hook])
        assert set(store.hookpoints) == {"blocks.2.hook_mlp_out"}
        assert store.n_rows == 8
    both = {"dtype": "float16", "shape": [8, 4]}
    mlp.repeat(2, axis=1).tofile(tmp_path / "mlp.bin")
    names = ["resid=blocks.2", "mlp=blocks.2.hook_mlp_out"]
    store = load(lake, "npy", tmp_path, "both", source=both, hookpoints=names)
    np.testing.assert_array_equal(store.read("blocks.2.hook_resid_post", 0, 8), resid)


def test_float64_needs_a_type_and_is_rounded(tmp_path, lake):
    values = rows(6, 3, np.float64)
    path = saved(tmp_path / "a.npy", values)
    with pytest.raises(ConfigError, match="are float64, which no store holds"):
        load(lake, "npy", path)
    store = load(lake, "npy", path, dtype="float32")
    np.testing.assert_array_equal(store.read(HOOK, 0, 6), values.astype(np.float32))
    assert store.manifest.facts["imported"]["max_error"] == 0.0


def test_a_conversion_is_measured_and_float16_refuses_to_overflow(tmp_path, lake):
    values = rows(50, 3)
    path = saved(tmp_path / "a.npy", values)
    store = load(lake, "npy", path, dtype="bfloat16")
    apart = np.abs(store.read(HOOK, 0, 50) - values).max()
    assert store.manifest.facts["imported"] == {"rows": 50, "max_error": pytest.approx(apart)}
    assert 0 < apart < 2**-7 * np.abs(values).max()
    values[40, 1] = 70000
    path = saved(tmp_path / "b.npy", values)
    with pytest.raises(OverflowRowError, match=r"do not fit float16: first 70000 at row 40"):
        load(lake, "npy", path, "y", dtype="float16")
    assert load(lake, "npy", path, "y", dtype="bfloat16").n_rows == 50


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_int8_divides_by_the_spread_of_the_first_rows(tmp_path, lake, monkeypatch, dtype):
    monkeypatch.setattr(importing, "MEASURED_ROWS", 20)
    monkeypatch.setattr(sources, "PIECE_BYTES", 1)  # a context at a time
    values = (rows(60, 5, np.float64) * [1, 3, 10, 0.1, 0] + 2).astype(dtype)
    mask = RNG.random(60) < 0.7
    path = saved(tmp_path / "a.npy", values.reshape(12, 5, 5))
    where = saved(tmp_path / "mask.npy", mask.reshape(12, 5))
    tokens = saved(tmp_path / "t.npy", np.ones((12, 5), np.int32))
    store = load(
        lake, "npy", path, source={"mask": where, "tokens": tokens}, dtype="int8", padding="keep"
    )
    wide, used = values.astype(np.float32), np.cumsum(mask.reshape(12, 5).sum(1)) < 20
    measured = 5 * (int(used.sum()) + 1)  # the context with the 20th row, too
    deviations = wide[:measured][mask[:measured]].astype(np.float64).std(0).astype(np.float32)
    deviations[deviations == 0] = 1
    np.testing.assert_array_equal(store.deviations(HOOK), deviations)
    expected = codecs.quantise(wide, deviations, hookpoint=HOOK, first_row=0)
    np.testing.assert_array_equal(
        store.read(HOOK, 0, 60), codecs.dequantise(expected.stored, expected.scales, deviations)
    )
    apart = np.abs(store.read(HOOK, 0, 60).astype(np.float64) - wide).max()
    assert store.manifest.facts["imported"] == {"rows": 60, "max_error": pytest.approx(apart)}
    assert store.manifest.counts["clipped"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float16", None), ("float32", None), ("float64", "float32"), ("float32", "int8"),
     ("float16", "bfloat16")],
)  # fmt: skip
def test_a_value_that_is_not_finite_is_found(tmp_path, lake, bad, dtype, stored):
    values = rows(6, 3, dtype)
    values[4, 2] = bad
    more = {"dtype": stored} if stored else {}
    with pytest.raises(
        OverflowRowError, match=f"holds {bad} at context 4, position 0, dimension 2"
    ):
        load(lake, "npy", saved(tmp_path / "a.npy", values), **more)


@given(
    st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    st.integers(0, 70_000),
    st.lists(st.tuples(st.integers(0, 69_999), st.integers(0, 2**64 - 1)), max_size=3),
)
@hypothesis(max_examples=60, deadline=None)
def test_the_quick_look_for_infinities_sees_what_the_slow_one_sees(dtype, size, strange):
    bits = np.full(size, 0x3C, "u2" if dtype == "bfloat16" else f"u{np.dtype(dtype).itemsize}")
    for place, value in strange:
        if place < size:
            bits[place] = value % 2 ** (8 * bits.itemsize)
    values = bits if dtype == "bfloat16" else bits.view(dtype)
    assert tensors.all_finite(values, dtype) == tensors.finite(values, dtype).all()
    exponent = tensors._EXPONENTS[dtype]
    if size:
        bits[size // 2] = exponent
        assert not tensors.all_finite(values[:, None], dtype)


def test_one_row_and_a_path_that_is_not_ascii(tmp_path, lake):
    folder = tmp_path / "Überflüsse 活性"
    folder.mkdir()
    store = load(lake, "npy", saved(folder / "é.npy", rows(1, 1)))
    assert (store.n_rows, store.n_contexts) == (1, 1)
    assert store.documents().column("source").to_pylist() == ["é.npy"]


def wrong_arrays(tmp_path):
    values = rows(6, 3)
    good = saved(tmp_path / "good.npy", values)
    torn = tmp_path / "torn.npy"
    torn.write_bytes((tmp_path / "good.npy").read_bytes()[:-3])
    raw = tmp_path / "a.bin"
    values.tofile(raw)
    text = tmp_path / "text.npy"
    text.write_text("not at all")
    tokens = saved(tmp_path / "tokens.npy", np.arange(5))
    negative = saved(tmp_path / "negative.npy", np.full(6, -1))
    huge = saved(tmp_path / "huge.npy", np.full(6, 2**30))
    yield "there is no", "did you mean", (tmp_path / "god.npy", {})
    yield "not whole", "write it again", (torn, {})
    yield "nothing that says how they lie", "--shape", (raw, {})
    yield "does not fill its 72 bytes", "check shape", (raw, {"shape": [5, -1], "dtype": "float32"})
    yield "magic", "name the file", (text, {})
    yield "says its own shape", "--shape", (good, {"shape": [6, 3]})
    yield "holds float32, not float16", "--source-dtype", (good, {"dtype": "float16"})
    yield r"\[5\] tokens do not belong to \[6, 3\]", "tokens of these", (good, {"tokens": tokens})
    yield "token id -1", "array that holds token ids", (good, {"tokens": negative})
    yield "token id 1073741824", "array that holds", (good, {"tokens": huge})
    yield "there is no nowhere.npy", "", (good, {"tokens": "nowhere.npy"})
    fortran = saved(tmp_path / "fortran.npy", np.asfortranarray(values))
    yield "Fortran's order", "ascontiguousarray", (fortran, {})
    yield "int64", "different types", (saved(tmp_path / "int.npy", np.ones((4, 2), int)), {})
    yield "objects|not|object", "", (saved(tmp_path / "o.npy", np.array([["a"]], object)), {})
    yield r"shape \[0, 3\]", "reshape", (saved(tmp_path / "none.npy", values[:0]), {})
    yield r"shape \[6\]", "reshape", (saved(tmp_path / "flat.npy", values[:, 0]), {})


def test_what_is_wrong_with_an_array_is_said(tmp_path, lake):
    for message, hint, (path, source) in wrong_arrays(tmp_path):
        with pytest.raises(ConfigError, match=message) as caught:
            load(lake, "npy", path, source=source)
        assert hint in caught.value.hint, message
        assert caught.value.hint


def test_a_hookpoint_must_be_named_where_the_file_does_not(tmp_path, lake):
    path = saved(tmp_path / "acts.npy", rows(3, 2))
    with pytest.raises(ConfigError, match=r"'acts' of .* is not how TransformerLens") as caught:
        load(lake, "npy", path, hookpoints=())
    assert "acts=" in caught.value.hint
    with pytest.raises(HookpointNotFoundError) as caught:
        load(lake, "npy", path, hookpoints=["other=blocks.0"])
    assert "acts" in caught.value.hint
    named = saved(tmp_path / f"{HOOK}.npy", rows(3, 2))
    assert set(load(lake, "npy", named, hookpoints=()).hookpoints) == {HOOK}


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9),
        st.tuples(
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.int8]),
            st.lists(st.integers(0, 4), min_size=1, max_size=3),
        ),
        max_size=4,
    ).filter(lambda found: "__metadata__" not in found)
)
@hypothesis(max_examples=40, deadline=None)
def test_our_reader_reads_what_the_library_writes(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("s") / "x.safetensors"
    written = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in found.items()}
    safetensors.torch.save_file(written, path, metadata={"a": "b"})
    read = tensors.safetensors(path)
    assert set(read) == set(written)
    for name, tensor in written.items():
        assert read[name].shape == tuple(tensor.shape)
        values = read[name].read(0, tensor.shape[0])
        if read[name].dtype == "bfloat16":
            values = tensors.as_float32(values, "bfloat16")
        np.testing.assert_array_equal(values, tensor.float().numpy())


def tensor_folder(folder, *, files=3, tokens=True, dtype=torch.float32, shape=(4, 5)):
    folder.mkdir(exist_ok=True)
    made = []
    for number in range(files):
        values = torch.from_numpy(RNG.normal(size=(*shape, 6))).to(dtype)
        made.append(values.reshape(-1, 6))
        found = {HOOK: values, "mean": torch.zeros(6)}
        if tokens:
            found["tokens"] = torch.arange(values[..., 0].numel()).reshape(shape)
        safetensors.torch.save_file(found, folder / f"part-{number}.safetensors")
    return torch.cat(made).float().numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folder_of_safetensors(tmp_path, lake, dtype):
    values = tensor_folder(tmp_path / "s", dtype=dtype)
    store = load(lake, "safetensors", tmp_path / "s")
    np.testing.assert_array_equal(store.read(HOOK, 0, 60), values)
    assert store.contexts()[:, 1].tolist() == [5] * 12
    assert store.tokens(0, 20).tolist() == list(range(20))
    assert store.record.dtype == str(dtype).removeprefix("torch.")
    one = load(lake, "safetensors", tmp_path / "s" / "part-1.safetensors", "one")
    np.testing.assert_array_equal(one.read(HOOK, 0, 20), values[20:40])


def test_what_is_wrong_with_safetensors_is_said(tmp_path, lake):
    def fails(message, hint, *, source=None, hookpoints=(HOOK,)):
        with pytest.raises(ConfigError, match=message) as caught:
            load(lake, "safetensors", tmp_path / "s", source=source, hookpoints=hookpoints)
        assert hint in caught.value.hint

    tensor_folder(tmp_path / "s")
    fails("has no tensor 'ids'", "tokens int64", source={"tokens": "ids"})
    fails(r"'mean' .* is not how", "mean=", hookpoints=["mean"])
    path = tmp_path / "s" / "part-2.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    fails("is not whole", "leave it out")
    path.write_bytes(whole)
    for change, message in (
        ({HOOK: torch.zeros(4, 5, 7)}, "float32 of width 7"),
        ({HOOK: torch.zeros(4, 5, 6).half()}, "float16 of width 6"),
        ({"tokens": None}, "has tokens, or lacks them"),
        ({HOOK: None}, "has no tensor"),
        ({"tokens": torch.zeros(3, 5, dtype=torch.int64)}, "tokens do not belong to"),
    ):
        found = safetensors.torch.load(whole) | change
        safetensors.torch.save_file({k: v for k, v in found.items() if v is not None}, path)
        fails(message, "")
    for each in (tmp_path / "s").iterdir():
        each.unlink()
    fails("holds no safetensors files", "it holds nothing")


def test_contexts_of_their_own_are_not_cut(tmp_path, lake):
    tensor_folder(tmp_path / "s")
    with pytest.raises(ConfigError, match="contexts of its own"):
        load(lake, "safetensors", tmp_path / "s", context_size=3)
