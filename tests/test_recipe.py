"""`Recipe`: there and back as JSON, whatever came before it, and nothing that is not known."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from clm_kernels.recipe import VERSION, Recipe

FULL = Recipe("token", "/models/base", 128, "mean", (8, 16), "of {text}:", "bfloat16", {"best": {"f1": 0.5}, "lr": 1e-3})


@pytest.mark.parametrize("recipe", [FULL, Recipe()], ids=["full", "empty"])
def test_there_and_back(recipe):
    described = json.loads(recipe.to_json())
    assert described["version"] == VERSION == 1
    assert Recipe.from_json(recipe.to_json()) == recipe == Recipe.from_metadata({"recipe": recipe.to_json(), "made": "{}"})


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        FULL.task = "sequence"


def test_another_version_is_refused_before_its_fields_are_read():
    described = json.loads(FULL.to_json()) | {"version": 2, "fields": "of another kind"}
    with pytest.raises(ValueError, match=r"^Recipe: version must be 1, the one that is known here, got 2$"):
        Recipe.from_json(json.dumps(described))
    del described["version"]
    with pytest.raises(ValueError, match=r"got None$"):
        Recipe.from_json(json.dumps(described))


def test_unknown_fields_and_other_things_are_refused():
    with pytest.raises(ValueError, match=r"^Recipe: the record must be one of version 1, got one with colour, shape$"):
        Recipe.from_json(json.dumps(json.loads(FULL.to_json()) | {"shape": 1, "colour": 2}))
    for text in ("[]", "3", "null"):
        with pytest.raises(ValueError, match=r"^Recipe: the record must be an object, got "):
            Recipe.from_json(text)
    with pytest.raises(ValueError):
        Recipe.from_json("{")


@pytest.mark.parametrize(
    ("name", "value"),
    [("task", "tags"), ("model", 3), ("max_length", 0), ("max_length", "12"), ("max_length", True), ("pooling", None),
     ("bidirectional", (1,)), ("bidirectional", (1.0, 2.0)), ("bidirectional", "12"), ("template", ["{text}"]), ("dtype", 32),
     ("details", ["a"]), ("version", 0)],
)  # fmt: skip
def test_values_that_cannot_be(name, value):
    with pytest.raises(ValueError, match=rf"^Recipe: {name} must be .*, got "):
        replace(FULL, **{name: value})


def test_what_train_recorded_before_there_was_a_recipe():
    made = {"task": "sequence", "max_length": 64, "pooling": "last", "model": "/base", "template": "{text}?", "dtype": "float32",
            "config": {"epochs": 3}, "best": {"accuracy": 1.0}, "bidirectional": [0, 4]}  # fmt: skip
    details = {"config": {"epochs": 3}, "best": {"accuracy": 1.0}}
    expected = Recipe("sequence", "/base", 64, "last", (0, 4), "{text}?", "float32", details)
    assert Recipe.from_metadata({"made": json.dumps(made)}) == expected


def test_what_a_caller_recorded_under_the_same_names_is_kept_for_people():
    made = {"task": "intents", "model": {"layers": 2}, "pooling": "mean", "details": 1, "version": 9}
    found = Recipe.from_made(json.dumps(made))
    assert found == Recipe(pooling="mean", details={key: value for key, value in made.items() if key != "pooling"})


def test_a_file_without_a_record():
    with pytest.raises(KeyError):
        Recipe.from_metadata({})
