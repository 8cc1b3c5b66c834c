"""Settings files, overrides, and what is said about mistakes in them."""

import pytest
from pydantic import BaseModel

from saestore.api import config, problems
from saestore.errors import ConfigError
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.settings import MachineSettings
from saestore_schemas.train import TrainSettings


TRAIN = {
    "series": "s",
    "name": "n",
    "activations": {"name": "a"},
    "budget": {"rows": 10},
    "dictionary": {"hookpoint": "h", "d_sae": 8, "activation": {"kind": "topk", "k": 2}},
}


def changed(*overrides, base=TRAIN):
    import copy

    data = copy.deepcopy(base)
    for text in overrides:
        config._assign(data, text)
    return data


def failing(model, data):
    with pytest.raises(ConfigError) as caught:
        config.as_settings(model, data)
    return caught.value


def test_a_model_a_mapping_and_a_file_mean_the_same(tmp_path):
    file = tmp_path / "train.toml"
    file.write_text(
        'series = "s"\nname = "n"\nactivations.name = "a"\nbudget.rows = 10\n'
        'dictionary = { hookpoint = "h", d_sae = 8, activation = { kind = "topk", k = 2 } }\n'
    )
    model = config.as_settings(TrainSettings, TRAIN)
    assert config.as_settings(TrainSettings, model) is model
    assert config.as_settings(TrainSettings, file) == model
    assert config.as_settings(TrainSettings, str(file)) == model
    assert config.load_settings("train", file) == model


def test_the_caller_s_mapping_is_left_alone():
    before = changed()
    config.as_settings(TrainSettings, before)
    assert before == TRAIN


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a=1", ("a",), 1),
        ("a.b.c=1.5", ("a", "b", "c"), 1.5),
        ("a=true", ("a",), True),
        ("a=word", ("a",), "word"),
        ("a=two words", ("a",), "two words"),
        ("a=x=y", ("a",), "x=y"),
        ('a="1"', ("a",), "1"),
        ("a=[1, 2]", ("a",), [1, 2]),
        ('a={ kind = "relu" }', ("a",), {"kind": "relu"}),
        ("a[0].b=x", ("a", 0, "b"), "x"),
        ("a.0.b=x", ("a", 0, "b"), "x"),
        ("a=null", ("a",), None),
        ("a=", ("a",), ""),
        ("a=blocks.*.hook", ("a",), "blocks.*.hook"),
        ("a=1e-3", ("a",), 1e-3),
    ],
)
def test_overrides_take_values_as_toml_writes_them_and_bare_words(text, path, value):
    assert config.parse_override(text) == (path, value)


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", "a=[1", 'a="x', "a={b=1", ".a=1"])
def test_malformed_overrides_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        config.parse_override(text)
    assert caught.value.hint


def test_the_last_override_wins_and_sections_are_made():
    data = changed("log.every=5", "log.every=7", "optimizer.lr=1e-3")
    assert data["log"] == {"every": 7}
    assert config.as_settings(TrainSettings, data).optimizer.lr == 1e-3


def test_false_means_null_where_null_is_allowed(tmp_path):
    file = tmp_path / "analyze.toml"
    file.write_text(
        'dictionary = "a/b"\nlogits = false\n[subsamples.top]\nkind = "top"\nwindow = false\n'
    )
    settings = config.load(AnalyzeSettings, file)
    assert settings.logits is None
    assert settings.subsamples["top"].window is None


def test_false_stays_false_for_booleans():
    data = problems.without_false(TrainSettings, changed("dictionary.decoder_bias=false"))
    assert config.as_settings(TrainSettings, data).dictionary.decoder_bias is False


def test_false_is_refused_where_absence_already_means_null(tmp_path):
    error = failing(TrainSettings, problems.without_false(TrainSettings, changed("loss.aux=false")))
    assert error.field == "loss.aux"
    cleared = changed("optimizer.lr=0.5", "optimizer.lr=null")
    assert config.as_settings(TrainSettings, cleared).optimizer.lr is None


def test_false_is_no_value_for_a_required_setting():
    error = failing(TrainSettings, changed("budget=false"))
    assert error.field == "budget"


def test_unknown_settings_come_first_because_they_cause_missing_ones():
    data = changed()
    data["seires"] = data.pop("series")
    error = failing(TrainSettings, data)
    assert (error.field, error.hint) == ("seires", "did you mean series?")
    assert any(line.startswith("series: missing") for line in error.others)


def test_a_setting_in_the_wrong_section_is_sent_to_the_right_one():
    error = failing(TrainSettings, changed("every=3"))
    assert error.hint == "did you mean log.every?"
    error = failing(TrainSettings, changed("log.series='x'"))
    assert error.hint == "did you mean series, in no section?"


@pytest.mark.parametrize("name", sorted(problems.ELSEWHERE))
def test_what_other_tools_call_it_is_recognised_only_to_suggest_ours(name):
    error = failing(TrainSettings, changed(f"{name}=1"))
    assert error.field == name
    assert error.hint == f"here it is called {problems.ELSEWHERE[name]}"


def every_setting(model, prefix=""):
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for child in problems.models_in(field.annotation):
            yield from every_setting(child, f"{prefix}{name}.")


def test_suggestions_name_settings_that_exist():
    known = {path for model in config.VERBS.values() for path in every_setting(model)}
    for target in problems.ELSEWHERE.values():
        assert target.split(" ")[0] in known, target


def test_both_members_of_a_union_are_expected():
    error = failing(TrainSettings, changed("schedule.warmup=soon"))
    assert error.field == "schedule.warmup"
    assert "integer" in error.expected
    assert "number" in error.expected


def test_paths_leave_out_tags_and_number_lists():
    data = {"name": "x", "hookpoints": ["h"], "lm": {"model": "m"}}
    data["corpus"] = {"sources": [{"kind": "text", "path": "p", "sufixes": []}]}
    from saestore_schemas.generate import GenerateSettings

    error = failing(GenerateSettings, data)
    assert error.field == "corpus.sources[0].sufixes"
    assert error.hint == "did you mean corpus.sources[0].suffixes?"


def test_a_missing_tag_and_a_wrong_tag():
    assert failing(TrainSettings, changed("dictionary.activation={ k = 2 }")).field == (
        "dictionary.activation.kind"
    )
    error = failing(TrainSettings, changed("dictionary.activation.kind=rleu"))
    assert (error.found, error.hint) == ("rleu", "did you mean relu?")


def test_the_verb_is_told_from_the_file(tmp_path):
    from saestore.api import template

    for verb in config.VERBS:
        file = tmp_path / f"{verb}.toml"
        file.write_text(template.toml(verb))
        assert config.verb_of(file) == verb
    (tmp_path / "alike.toml").write_text('dictionary = "a/b"\n')
    with pytest.raises(ConfigError, match="fits evaluate and analyze alike"):
        config.verb_of(tmp_path / "alike.toml")
    (tmp_path / "none.toml").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="fits no verb"):
        config.verb_of(tmp_path / "none.toml")


def test_every_machine_variable_is_known():
    environment = {f"SAESTORE_{name.upper()}": "x" for name in MachineSettings.model_fields}
    assert config.unknown_variables(environment) == []
    assert config.unknown_variables({"SAESTORE_XYZZY": "", "OTHER": ""})[0].startswith(
        "the environment variable SAESTORE_XYZZY"
    )


def test_errors_are_pickled_whole():
    import pickle

    error = failing(TrainSettings, changed("logg.every=3"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.hint, again.others) == (str(error), error.hint, error.others)


def test_models_are_models():
    assert all(issubclass(model, BaseModel) for model in config.VERBS.values())
