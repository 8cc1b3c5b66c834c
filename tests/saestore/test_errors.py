import pickle

import pytest

from saestore import errors


SAMPLES = [
    errors.ConfigError(field="corpus.context_size", found=1, expected="2 or more", hint="try 256"),
    errors.ArtefactNotFoundError(
        kind="dictionary", name="demo/topk23", looked="lake", known=("demo/topk32", "other/x")
    ),
    errors.ArtefactExistsError(kind="activations", name="a", differences=("dtype: 1 → 2",)),
    errors.ArtefactBusyError(name="a", owner="process 1 on here", age_s=3.2),
    errors.IncompleteArtefactError(
        kind="activations", name="a", missing="2 of 4 shards", command="saestore generate a.toml"
    ),
    errors.DamagedArtefactError(name="a", damage=tuple(f"file {n}: missing" for n in range(25))),
    errors.FormatVersionError(file="manifest.json", found=9, supported=1),
    errors.HookpointNotFoundError(
        pattern="blocks.1.hook_resid_pots", where="gpt2", known=("blocks.1.hook_resid_post",)
    ),
    errors.FeatureNotFoundError(dictionary="demo/topk", feature=99, n_features=10),
    errors.UnsupportedError("cannot be exact", found="per-row scale", hint="fold it"),
    errors.OverflowRowError("row 3 of blocks.0.hook_resid_post is 70000", hint="use bfloat16"),
    errors.DivergedError(step=12, loss=float("nan"), checkpoint="000000010"),
    errors.StoppedError(name="s/one", reason="its 90 s are over", done="step 12 of 40"),
    errors.QueryError("no such column", hint="DESCRIBE features"),
    errors.StorageError("writing x: No space left on device", hint="free space"),
    errors.IndexUnavailableError(
        place="mongodb://localhost:27017/saestore",
        reason="cannot be reached",
        expected="a MongoDB that listens",
        hint="start it",
    ),
    errors.EndpointError(
        place="http://127.0.0.1:9/v1",
        reason="refuses the key (401)",
        expected="a key",
        hint="set it",
    ),
    errors.BudgetError(name="s/one/a/run", used="9 tokens", budget="10", done="3 features"),
    errors.ReplayError(
        cassette="cassette.jsonl", request="ab" * 32, purpose="explaining feature 7"
    ),
    errors.MissingExtraError(package="torch", extra="model", purpose="training"),
]


def every_kind(kind=errors.SaestoreError):
    for child in kind.__subclasses__():
        yield child
        yield from every_kind(child)


def test_every_error_has_a_sample():
    assert {type(s) for s in SAMPLES} == set(every_kind())


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_says_what_to_do_and_survives_pickling(error):
    assert error.hint
    assert str(error)
    assert error.hint not in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert repr(again.__dict__) == repr(error.__dict__)


def test_the_nearest_names_are_suggested_and_damage_is_counted():
    assert SAMPLES[1].hint == "did you mean demo/topk32?"
    assert SAMPLES[7].hint == "did you mean blocks.1.hook_resid_post?"
    assert "and 5 more" in str(SAMPLES[5])
    assert len(SAMPLES[5].damage) == 25


def test_a_name_like_nothing_lists_what_there_is():
    error = errors.ArtefactNotFoundError(kind="features", name="zzz", looked="x", known=("abc",))
    assert error.hint == "there are: abc"
    assert "saestore ls" in errors.ArtefactNotFoundError(kind="f", name="z", looked="x").hint


def test_errors_are_the_builtins_that_callers_catch():
    with pytest.raises(ValueError, match="found 1; expected 2 or more"):
        raise SAMPLES[0]
    with pytest.raises(FileNotFoundError):
        raise SAMPLES[1]
    with pytest.raises(ImportError):
        raise SAMPLES[-1]
