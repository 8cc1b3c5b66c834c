"""A model that is loaded already serves several stores."""

import pytest

from saestore.errors import ConfigError
from saestore.generate import run
from saestore.lake import Lake, Ref
from saestore.lm import LanguageModel
from saestore.testing.stores import payload_bytes


def test_a_given_model_makes_the_same_store_as_one_that_is_loaded(plan, tmp_path):
    settings = plan()
    model = LanguageModel.load(settings.lm, device="cpu")
    lakes = Lake.at(tmp_path / "given"), Lake.at(tmp_path / "loaded")
    run(settings, lakes[0], model=model)
    run(settings, lakes[1], device="cpu")
    given, loaded = (payload_bytes(lake, Ref("activations", settings.name)) for lake in lakes)
    assert given == loaded


def test_a_model_of_other_settings_is_refused(plan, tmp_path):
    settings = plan()
    other = settings.lm.model_copy(update={"dtype": "bfloat16"})
    model = LanguageModel.load(other, device="cpu")
    with pytest.raises(ConfigError, match="lm") as caught:
        run(settings, Lake.at(tmp_path), model=model)
    assert caught.value.hint
