from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform.errors import SpecError
from fusiform.spec import SPEC_VERSION, Accuracy, ModelSpec, Preprocess, network_name
from fusiform.tables import SHUFFLENET_V2_CHANNELS

SPEC = ModelSpec("mobilenet_v2", 1.0, ("cat", "dog"))

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-6, max_value=1e6)
shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    return Preprocess(
        resize=draw(st.integers(1, 4096)),
        crop=draw(st.integers(32, 4096)),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"])),
        antialias=draw(st.booleans()),
        mean=draw(st.tuples(finite, finite, finite)),
        std=draw(st.tuples(positive, positive, positive)),
        color_order=draw(st.sampled_from(["rgb", "bgr"])),
    )


@st.composite
def accuracies(draw: st.DrawFn) -> Accuracy:
    top1, top5 = draw(shares)
    return Accuracy(draw(st.text()), top1, top5, draw(st.integers(1, 10**9)), draw(st.text()))


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    architecture = draw(st.sampled_from(["mobilenet_v2", "shufflenet_v2"]))
    widths = positive if architecture == "mobilenet_v2" else st.sampled_from(sorted(SHUFFLENET_V2_CHANNELS))
    labels = tuple(draw(st.lists(st.text(), min_size=1, max_size=5)))
    preprocess = draw(preprocesses())
    return ModelSpec(
        architecture,
        draw(widths),
        labels,
        label_ids=tuple(f"id{i}" for i in range(len(labels))) if draw(st.booleans()) else (),
        input_size=preprocess.crop,
        input_channels=draw(st.integers(1, 16)),
        padding=draw(st.sampled_from(["symmetric", "same"])),
        output=draw(st.sampled_from(["logits", "probabilities"])),
        preprocess=preprocess,
        provenance=draw(st.text()),
        license=draw(st.text()),
        accuracy=tuple(draw(st.lists(accuracies(), max_size=2))),
    )


@settings(deadline=None)
@given(specs())
def test_json_gives_back_an_equal_spec(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert ModelSpec.from_json(spec.to_json(indent=2).encode()) == spec


other_json = st.recursive(
    st.none() | st.booleans() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(deadline=None)
@given(other_json)
def test_any_other_json_is_a_spec_error(value: object) -> None:
    with pytest.raises(SpecError, match=r"^the file: "):
        ModelSpec.from_json(json.dumps(value), source="the file")


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(SPEC.to_json()) | fields)


def test_defaults_may_be_left_out_and_are_filled_in() -> None:
    assert ModelSpec.from_json('{"architecture": "mobilenet_v2", "width": 1, "labels": ["cat", "dog"]}') == SPEC


@pytest.mark.parametrize("name", ["architecture", "width", "labels"])
def test_a_missing_field_is_named(name: str) -> None:
    fields = json.loads(SPEC.to_json())
    del fields[name]
    with pytest.raises(SpecError, match=f"m.tflite: field '{name}' is missing"):
        ModelSpec.from_json(json.dumps(fields), source="m.tflite")


def test_a_missing_nested_field_is_named_with_its_place() -> None:
    with pytest.raises(SpecError, match=r"field accuracy\[0\]\.'source' is missing"):
        ModelSpec.from_json(changed(accuracy=[{"dataset": "d", "top1": 1, "top5": 2, "pictures": 3}]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"preprocess": {"scale": 1}}, r"unknown field preprocess\.'scale'"),
        ({"preprocess": [1]}, r"preprocess\. must be an object"),
        ({"architecture": "resnet"}, "'architecture' must be one of 'mobilenet_v2', 'shufflenet_v2', got 'resnet'"),
        ({"width": "1.0"}, "'width' must be a number, got '1.0'"),
        ({"width": True}, "'width' must be a number, got True"),
        ({"width": None}, "'width' must be a number, got None"),
        ({"width": 10**400}, "'width' is too large a number"),
        ({"labels": "cat"}, "'labels' must be a list of a text"),
        ({"labels": ["cat", 3]}, "'labels' must be a list of a text"),
        ({"labels": []}, "at least one class"),
        ({"label_ids": ["n1"]}, "1 label_ids for 2 labels"),
        ({"input_size": 224.0}, "'input_size' must be a whole number"),
        ({"input_size": True}, "'input_size' must be a whole number"),
        ({"input_size": 192}, "crop is 224 but input_size is 192"),
        ({"input_size": 31, "preprocess": {"crop": 31}}, "at least 32 pixels"),
        ({"input_channels": 0}, "input_channels must be at least 1"),
        ({"padding": "valid"}, "'padding' must be one of 'symmetric', 'same'"),
        ({"task": "pose"}, "'task' must be one of 'classification', 'detection', 'segmentation'"),
        ({"task": "segmentation"}, "segmentation: output_stride must be 8 or 16, got 32"),
        ({"task": "detection", "output_stride": 16}, "detection: output_stride must be 32, got 16"),
        ({"task": "detection", "output": "probabilities"}, "detection: the output must be logits"),
        ({"task": "detection", "temperature": 2.0}, "detection: there is no temperature"),
        ({"aspp": True}, "classification: aspp is for segmentation"),
        ({"scores": "sigmoid"}, "classification: scores is for detection"),
        ({"preprocess": {"fit": "pad"}}, "fit=pad needs resize equal to crop, got 256, 224"),
        ({"output": None}, "'output' must be one of"),
        ({"preprocess": {"mean": [0.5, 0.5]}}, "'mean' must be a list of 3 x a number"),
        ({"preprocess": {"std": [1, 1, 0]}}, "std positive"),
        ({"preprocess": {"antialias": 1}}, "'antialias' must be true or false"),
        ({"preprocess": {"resize": 0}}, "at least 1 pixel"),
        ({"preprocess": {"color_order": "RGB"}}, "'color_order' must be one of"),
        ({"accuracy": [3]}, r"accuracy\[0\]\. must be an object"),
        ({"accuracy": [{"dataset": "d", "top1": 9, "top5": 8, "pictures": 1, "source": ""}]}, "top1 <= top5"),
        ({"accuracy": [{"dataset": "d", "top1": 9, "top5": 10, "pictures": 0, "source": ""}]}, "pictures > 0"),
        ({"version": "1"}, "'version' must be a whole number"),
        ({"version": 0}, "spec version 0 is not the version 2"),
    ],
)
def test_a_wrong_field_is_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ModelSpec.from_json(changed(**fields))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "0", "-1"])
def test_width_must_be_a_positive_number(number: str) -> None:
    with pytest.raises(SpecError, match="width must be a positive number"):
        ModelSpec.from_json(changed(width="W").replace('"W"', number))


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
@pytest.mark.parametrize("field", ["mean", "std"])
def test_mean_and_std_must_be_finite(field: str, number: str) -> None:
    with pytest.raises(SpecError, match="mean must be finite and std positive"):
        ModelSpec.from_json(changed(preprocess={field: ["V", 1, 1]}).replace('"V"', number))


def test_accuracy_must_not_be_nan() -> None:
    with pytest.raises(SpecError, match="need 0 <= top1 <= top5 <= 1"):
        Accuracy("d", float("nan"), 0.9, 1, "")


def test_accuracies_of_the_first_version_are_in_percent() -> None:
    entry = {"dataset": "d", "top1": 69.4, "top5": 100, "pictures": 500, "source": "s"}
    spec = ModelSpec.from_json(changed(version=1, accuracy=[entry]))
    assert spec.accuracy == (Accuracy("d", 0.694, 1.0, 500, "s"),)
    assert spec.to_dict()["version"] == 2
    assert ModelSpec.from_json(spec.to_json()) == spec
    for wrong in (True, "69", None, -1, 100.1):
        with pytest.raises(SpecError, match="top1"):
            ModelSpec.from_json(changed(version=1, accuracy=[{**entry, "top1": wrong}]))


def test_what_says_nothing_of_accuracy_can_be_read_by_the_first_version() -> None:
    assert SPEC.to_dict()["version"] == 1
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC


@pytest.mark.parametrize("width", [0.25, 0.75, 1.4, 3.0])
def test_shufflenet_has_only_the_published_widths(width: float) -> None:
    with pytest.raises(SpecError, match=r"shufflenet_v2 has widths \[0.5, 1.0, 1.5, 2.0\]"):
        ModelSpec("shufflenet_v2", width, ("a",))


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe\x00", "[" * 100_000])
def test_what_is_not_json_is_a_spec_error(text: str | bytes) -> None:
    with pytest.raises(SpecError, match=r"m\.onnx: the model's description is not JSON"):
        ModelSpec.from_json(text, source="m.onnx")


def test_a_newer_version_says_to_update_even_with_fields_unknown_here() -> None:
    with pytest.raises(SpecError, match=r"newer fusiform .*update fusiform"):
        ModelSpec.from_json(changed(version=SPEC_VERSION + 1, anchors=[1, 2]))


@pytest.mark.parametrize("instance", [SPEC, SPEC.preprocess, Accuracy("d", 0.1, 0.2, 3, "s")])
def test_specs_are_frozen_and_hashable(instance: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(instance, dataclasses.fields(instance)[0].name, "x")
    hash(instance)


def test_replace_checks_the_copy() -> None:
    assert SPEC.replace(width=0.5).name == "mobilenet_v2_x0_5"
    assert SPEC.width == 1.0
    with pytest.raises(SpecError, match="input_size is 96"):
        SPEC.replace(input_size=96)


@pytest.mark.parametrize(
    ("architecture", "width", "name"),
    [
        ("mobilenet_v2", 0.35, "mobilenet_v2_x0_35"),
        ("mobilenet_v2", 1, "mobilenet_v2_x1_0"),
        ("shufflenet_v2", 2.0, "shufflenet_v2_x2_0"),
    ],
)
def test_network_name(architecture: str, width: float, name: str) -> None:
    assert network_name(architecture, width) == name


def test_lists_are_taken_as_tuples() -> None:
    spec = ModelSpec("mobilenet_v2", 1.0, ["cat", "dog"])  # type: ignore[arg-type]  # what a user would write
    assert spec.labels == ("cat", "dog")
    assert spec == ModelSpec.from_json(spec.to_json())
    assert hash(spec) == hash(ModelSpec("mobilenet_v2", 1.0, ("cat", "dog")))


def test_a_label_that_no_file_could_hold_is_refused() -> None:
    with pytest.raises(SpecError, match=r"not Unicode text.*rename the class"):
        ModelSpec("mobilenet_v2", 1.0, ("cat", "caf\udce9"))


def test_tasks_say_what_they_answer() -> None:
    assert (SPEC.name, SPEC.answers) == ("mobilenet_v2_x1_0", {"logits": (2,)})
    assert SPEC.replace(output="probabilities").answers == {"probabilities": (2,)}
    square = Preprocess(resize=320, crop=320, fit="stretch")
    detector = SPEC.replace(task="detection", input_size=320, preprocess=square)
    assert (detector.name, detector.backbone) == ("ssdlite_mobilenet_v2_x1_0", "mobilenet_v2_x1_0")
    assert detector.answers == {"logits": (2034, 3), "codes": (2034, 4)}
    padded = Preprocess(resize=513, crop=513, fit="pad")
    segmenter = SPEC.replace(task="segmentation", output_stride=16, input_size=513, preprocess=padded)
    assert segmenter.name == "deeplab_v3_mobilenet_v2_x1_0"
    assert segmenter.answers == {"logits": (33, 33, 2)}
    assert segmenter.replace(output_stride=8).answers == {"logits": (65, 65, 2)}


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "detection", "scores": "sigmoid"},
        {"task": "segmentation", "output_stride": 8, "aspp": True, "align_corners": False},
    ],
)
def test_the_fields_of_tasks_travel_and_are_silent_elsewhere(changes: dict[str, Any]) -> None:
    spec = SPEC.replace(preprocess=Preprocess(resize=224, crop=224, fit="pad"), **changes)
    assert ModelSpec.from_json(spec.to_json()) == spec
    plain = json.loads(SPEC.to_json())
    assert not {"scores", "output_stride", "aspp", "align_corners", "temperature"} & set(plain)
    assert "fit" not in plain["preprocess"]
