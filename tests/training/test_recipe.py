from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.errors import UsageError
from fusiform.training.recipe import Recipe, override
from fusiform.training.recipes import RECIPES

PLAIN = Recipe("plain", 10)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_has_its_own_name_and_survives_json(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(recipe.to_json(indent=2).encode()) == recipe
    hash(recipe)


def test_the_papers_numbers() -> None:
    mobilenet, shufflenet = RECIPES["imagenet_paper"], RECIPES["shufflenet_paper"]
    # MobileNetV2, Section 6.1.
    assert (mobilenet.optimizer, mobilenet.momentum, mobilenet.rmsprop_decay) == ("rmsprop", 0.9, 0.9)
    assert (mobilenet.lr, mobilenet.decay_rate, mobilenet.weight_decay, mobilenet.batch) == (0.045, 0.98, 4e-5, 96)
    # ShuffleNetV1, Section 4: 3 * 10^5 steps of 1024 of 1,281,167 pictures.
    assert (shufflenet.lr, shufflenet.batch, shufflenet.weight_decay) == (0.5, 1024, 4e-5)
    assert (shufflenet.schedule, shufflenet.min_lr) == ("linear", 0)
    assert round(300_000 * 1024 / 1_281_167) == shufflenet.epochs


@given(
    st.builds(
        Recipe,
        name=st.text(st.characters(exclude_categories=["Cs"])),
        epochs=st.integers(20, 1000),
        lr=st.floats(1e-6, 10),
        dropout=st.none() | st.floats(0, 0.9),
        sizes=st.lists(st.integers(32, 512), max_size=5).map(tuple),
        crop_scale=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
        optimizer=st.sampled_from(["sgd", "adamw", "rmsprop"]),
        flip=st.booleans(),
        seed=st.integers(0, 2**32 - 1),
    )
)
def test_json_gives_back_an_equal_recipe(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": "fast"}, "'lr' must be a number, got 'fast'"),
        ({"lr": math.nan}, "lr must be above 0, got nan"),
        ({"lr": math.inf}, "lr must be above 0, got inf"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"epochs": 2.5}, "'epochs' must be a whole number, got 2.5"),
        ({"epochs": -1}, "epochs must be 0 or more, got -1"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"batch": 30, "accumulate": 4}, "multiple of accumulate, got 30 and 4"),
        ({"size": 31}, "size must be 32 pixels or more, got 31"),
        ({"sizes": (96, 16)}, r"sizes must be 32 pixels or more, got \(96, 16\)"),
        ({"sizes": (96,) * 11}, "11 sizes do not share 10 epochs"),
        ({"optimizer": "adam"}, "'optimizer' must be one of 'sgd', 'adamw', 'rmsprop', got 'adam'"),
        ({"momentum": 1.0}, "momentum must be 0 or more and below 1"),
        ({"nesterov": 1}, "'nesterov' must be true or false"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
        ({"dropout": "none"}, "'dropout' must be a number or none, got 'none'"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1"),
        ({"crop_scale": (0.5,)}, "'crop_scale' must be a list of 2 x a number"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be above 0 and at most 1"),
        ({"crop_scale": (0.9, 0.5)}, "the smaller share, then the larger"),
        ({"min_lr": 0.1}, r"min_lr must be at most lr \(0.01\), got 0.1"),
        ({"warmup_epochs": 10.0}, r"warmup_epochs must be less than epochs \(10\), got 10.0"),
        ({"augment": "flip", "flip": False}, "set augment=none or flip=true"),
        ({"class_weights": "balanced", "sampler": "balanced"}, "rare classes twice"),
        ({"val_fraction": 1.0}, "val_fraction must be 0 or more and below 1"),
        ({"freeze": 1.5}, "freeze must be 0 to 1"),
        ({"seed": 1 << 32}, "seed must be 0 to 4294967295"),
        ({"workers": -2}, "workers must be -1"),
    ],
)
def test_a_wrong_field_is_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(PLAIN, **fields)


def test_no_main_phase_needs_no_shorter_warmup() -> None:
    assert dataclasses.replace(PLAIN, warmup_epochs=1, epochs=0).warmup_epochs == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "my.json: the recipe is not JSON"),
        ("[]", "my.json: the description must be an object"),
        ('{"name": "x"}', "my.json: field 'epochs' is missing"),
        ('{"name": "x", "epochs": 3, "learning_rate": 1}', "my.json: unknown field 'learning_rate'"),
        ('{"name": "x", "epochs": true}', "my.json: field 'epochs' must be a whole number, got True"),
        ('{"name": "x", "epochs": 3, "lr": NaN}', "my.json: recipe: lr must be above 0"),
    ],
)
def test_what_is_no_recipe_is_told_with_its_file(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.from_json(text, source="my.json")


def test_fields_are_overridden_by_text() -> None:
    changed = override(
        PLAIN,
        ["lr=0.1", "epochs=3", "flip=False", "dropout=0.5", "sizes=96, 128", "augment=crop_trivial", "lr = 2e-1"],
    )
    assert changed == dataclasses.replace(
        PLAIN, lr=0.2, epochs=3, flip=False, dropout=0.5, sizes=(96, 128), augment="crop_trivial"
    )
    assert override(changed, ["dropout=none", "sizes=none"]) == dataclasses.replace(changed, dropout=None, sizes=())
    assert override(PLAIN, ["crop_scale=(0.1,1)", "name=a=b"]) == dataclasses.replace(
        PLAIN, crop_scale=(0.1, 1.0), name="a=b"
    )
    assert override(PLAIN, []) == PLAIN


def test_overrides_are_checked_together() -> None:
    # Neither alone would do: 10 epochs are too few for 20 of warm-up.
    assert override(PLAIN, ["warmup_epochs=20", "epochs=30"]).epochs == 30


def test_so_few_epochs_shorten_what_would_not_fit() -> None:
    slow = dataclasses.replace(PLAIN, epochs=10, warmup_epochs=2.0, sizes=(64, 96, 128))
    for settings in (["epochs=1"], {"epochs": 1}):
        short = override(slow, settings)
        assert (short.epochs, short.warmup_epochs, short.sizes) == (1, pytest.approx(0.2), (128,))
    assert override(slow, ["epochs=3"]).warmup_epochs == 2.0  # which fits
    assert override(slow, ["epochs=3"]).sizes == (64, 96, 128)
    assert override(slow, ["epochs=0"]).warmup_epochs == 2.0
    # What was asked for is refused and not changed.
    with pytest.raises(UsageError, match=r"warmup_epochs must be less than epochs \(1\), got 1.0"):
        override(slow, ["epochs=1", "warmup_epochs=1", "sizes=96"])
    with pytest.raises(UsageError, match="2 sizes do not share 1 epochs"):
        override(slow, ["epochs=1", "sizes=96,128"])


def test_every_recipe_trains_for_one_epoch() -> None:
    for recipe in RECIPES.values():
        if recipe.epochs:
            assert override(recipe, ["epochs=1"]).epochs == 1


@given(st.sampled_from([field.name for field in dataclasses.fields(Recipe)]))
def test_what_a_field_holds_can_be_set_as_text(name: str) -> None:
    value = json.loads(PLAIN.to_json())[name]
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    assert override(PLAIN, [f"{name}={text}"]) == PLAIN


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr=fast", "lr must be a number, got 'fast'"),
        ("lr=", "lr must be a number, got ''"),
        ("lr=none", "lr must be a number, got 'none'"),
        ("epochs=1.5", "epochs must be a whole number, got '1.5'"),
        ("flip=1", "flip must be true or false, got '1'"),
        ("sizes=96,big", "sizes must be a whole number, got 'big'"),
        ("crop_scale=0.5", "'crop_scale' must be a list of 2 x a number"),
        ("optimizer=adam", "'optimizer' must be one of 'sgd', 'adamw', 'rmsprop', got 'adam'"),
        ("dropout=much", "dropout must be a number, got 'much'"),
        ("mix_up=0.2", "no field 'mix_up': did you mean mixup"),
        ("zzzzzz=1", "no field 'zzzzzz': there are name, epochs, "),
        ("lr", "'lr' sets nothing: write NAME=VALUE"),
    ],
)
def test_a_wrong_override_is_told(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        override(PLAIN, [setting])
