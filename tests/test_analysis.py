"""What ``analyze`` says against the papers, torchvision's figures and sums of its own rows."""

from __future__ import annotations

import pytest

from fusiform import analysis as module
from fusiform.analysis import analyze
from fusiform.errors import SpecError, UsageError, WeightsError
from fusiform.zoo.checkpoint import write_safetensors


@pytest.mark.parametrize(
    ("name", "parameters", "million_multiply_adds"),
    [("mobilenet_v2", 3504872, 300), ("mobilenet_v2_x1_4", 6_108_776, 582), ("shufflenet_v2_x0_5", 1366792, 40)],
)
def test_totals_are_published_and_the_sums_of_the_rows(name, parameters, million_multiply_adds):
    report = analyze(name)
    assert report.figures["parameters"] == parameters
    assert report.figures["multiply_adds"] // 1_000_000 == million_multiply_adds
    for total in ("parameters", "multiply_adds"):
        assert sum(row[total] for row in report.rows) == report.figures[total]


def test_a_row_by_hand():
    """Table 2's second bottleneck: 56x56 positions of 96 windows of 3x3, two bytes a value at 16 bits."""
    row = next(row for row in analyze("mobilenet_v2", bits=16).rows if row["layer"] == "features.2.conv.1.0")
    assert row == {
        "layer": "features.2.conv.1.0",
        "operator": "depthwise conv",
        "kernel": (3, 3),
        "dilation": 1,
        "stride": 2,
        "output_shape": (56, 56, 96),
        "parameters": 96 * 9 + 2 * 96,
        "multiply_adds": 56 * 56 * 96 * 9,
        "bytes": 56 * 56 * 96 * 2,
        "receptive_field": 11,
    }


def test_every_kind_of_operator_has_its_name():
    rows = [row for name in ("mobilenet_v2", "shufflenet_v2_x1_0") for row in analyze(name).rows]
    operators = {(row["operator"], row["kernel"], row["stride"]) for row in rows}
    assert operators == {
        ("conv", (3, 3), 2),
        ("conv", (1, 1), 1),
        ("depthwise conv", (3, 3), 1),
        ("depthwise conv", (3, 3), 2),
        ("add", None, None),
        ("gather", None, None),
        ("max pool", (3, 3), 2),
        ("mean", None, None),
        ("linear", None, None),
    }


def test_the_papers_memory():
    report = analyze("mobilenet_v2", bits=16)
    figures = report.figures
    assert figures["held_bytes"] == 112 * 112 * 16 * 2
    assert report.tables["resolutions"][0] == {"resolution": (112, 112), "channels": 16, "bytes": 112 * 112 * 16 * 2}
    assert {"resolution": (7, 7), "channels": 320, "bytes": 7 * 7 * 320 * 2} in report.tables["resolutions"]
    assert figures["formula_sliced_bytes"] < figures["peak_sliced_bytes"] < figures["formula_bytes"]
    assert figures["peak_sliced_bytes"] <= figures["arena_sliced_bytes"] < figures["arena_bytes"]
    assert figures["expansions"] == 17


def test_bits_and_size_scale_what_they_should():
    whole, bytes_ = analyze("mobilenet_v2").figures, analyze("mobilenet_v2", bits=8).figures
    assert whole["peak_bytes"] == 4 * bytes_["peak_bytes"]
    half = analyze("mobilenet_v2", size=112)
    assert half.title == "mobilenet_v2_x1_0 at 112x112"
    assert half.figures["parameters"] == whole["parameters"]
    assert 4 * half.figures["peak_bytes"] == whole["peak_bytes"]
    # Slim's table: 154 million at 160 pixels.
    assert analyze("mobilenet_v2", size=160).figures["multiply_adds"] // 1_000_000 == 154


def test_slices_shrink_mobilenet_alone():
    peaks = [analyze("mobilenet_v2", slices=n).figures["peak_sliced_bytes"] for n in (1, 2, 4)]
    assert peaks[0] > peaks[1] > peaks[2]
    figures = analyze("shufflenet_v2_x1_0").figures
    assert figures["expansions"] == 0
    assert figures["peak_sliced_bytes"] == figures["peak_bytes"]
    assert figures["formula_sliced_bytes"] == figures["formula_bytes"]


def test_a_file(tmp_path, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", 0.5, size=64, classes=7)
    write_safetensors(tmp_path / "mine.safetensors", lived_in_state(spec), spec)
    report = analyze(tmp_path / "mine.safetensors")
    assert report.title == "mobilenet_v2_x0_5 at 64x64"
    assert report.figures["classes"] == 7
    assert report.rows[-1]["output_shape"] == (1, 1, 7)


@pytest.mark.parametrize(
    ("name", "arguments", "title", "parameters", "multiply_adds"),
    [
        # Tables 6 and 7 of MobileNetV2's paper: 4.3M and 0.8B, 2.11M and 2.75B, 4.52M and 5.8B as TensorFlow computes.
        ("ssdlite_mobilenet_v2_x1_0", {}, "ssdlite_mobilenet_v2_x1_0 at 320x320", 4_337_013, 0.789e9),
        ("deeplab_v3_mobilenet_v2_x1_0", {}, "deeplab_v3_mobilenet_v2_x1_0 at 513x513", 2_113_557, 2.741e9),
        (
            "deeplab_v3_mobilenet_v2_x1_0",
            {"aspp": True},
            "deeplab_v3_mobilenet_v2_x1_0 at 513x513",
            4_523_541,
            5.364e9,
        ),
    ],
)
def test_the_papers_detectors_and_segmenters(name, arguments, title, parameters, multiply_adds):
    report = analyze(name, **arguments)
    assert report.title == title
    assert report.figures["parameters"] == parameters
    assert report.figures["multiply_adds"] == pytest.approx(multiply_adds, rel=1e-3)
    for total in ("parameters", "multiply_adds"):
        assert sum(row[total] for row in report.rows) == report.figures[total]


def test_atrous_convolutions_as_tensorflow_computes_them():
    """36 x 36 places for 33 x 33 at rates 6, 12 and 18, and 34 x 34 at rate 2: 5.8 billion with the paper's head."""
    figures = analyze("deeplab_v3_mobilenet_v2_x1_0", aspp=True).figures
    more = 3 * (36**2 - 33**2) * 320 * 256 * 9 + (34**2 - 33**2) * 9 * 960 * 3
    assert figures["multiply_adds_tensorflow"] - figures["multiply_adds"] == more
    assert round(figures["multiply_adds_tensorflow"] / 1e9, 1) == 5.8
    assert analyze("ssdlite_mobilenet_v2_x0_35").figures["multiply_adds_tensorflow"] is None


def test_other_classes_strides_and_sizes():
    detector = analyze("ssdlite_shufflenet_v2_x0_5", classes=3, size=224)
    assert detector.figures["classes"] == 3
    # 14^2 cells of 3 priors, then 7^2, 4^2, 2^2, 1 and 1 of 6; each has a logit for three classes and background.
    assert [row["output_shape"] for row in detector.rows if row["operator"] == "stack"] == [(1, 1014, 4)] * 2
    assert 14**2 * 3 + (7**2 + 4**2 + 2**2 + 1 + 1) * 6 == 1014
    segmenter = analyze("deeplab_v3_mobilenet_v2_x0_35", classes=2, output_stride=8, size=257)
    assert segmenter.rows[-1]["output_shape"] == (33, 33, 2)
    assert analyze("mobilenet_v2", classes=7).rows[-1]["output_shape"] == (1, 1, 7)


def test_nothing_is_downloaded(monkeypatch):
    def refuse(_):
        raise AssertionError("opened a model")

    monkeypatch.setattr(module, "open_model", refuse)
    for name in ("shufflenet_v2_x2_0", "mobilenet_v2_x1_0.torchvision_v2", "MobileNet_V2_Weights.IMAGENET1K_V1"):
        assert analyze(name).figures["classes"] == 1000


def test_refusals(tmp_path):
    for arguments, message in (
        ({"bits": 4}, "8, 16 or 32 bits, not 4"),
        ({"slices": 0}, "1 slice or more, not in 0"),
        ({"size": 31}, "at least 32 pixels a side, not 31"),
    ):
        with pytest.raises(UsageError, match=message):
            analyze("mobilenet_v2", **arguments)
    with pytest.raises(UsageError, match="no weights are called 'mobilenet_v3'; did you mean"):
        analyze("mobilenet_v3")
    with pytest.raises(UsageError, match="at least 1 class, not 0"):
        analyze("mobilenet_v2", classes=0)
    with pytest.raises(SpecError, match="classification: aspp is for segmentation"):
        analyze("mobilenet_v2", aspp=True)
    with pytest.raises(SpecError, match="detection: output_stride must be 32, got 8"):
        analyze("ssdlite_mobilenet_v2_x1_0", output_stride=8)
    with pytest.raises(SpecError, match=r"shufflenet_v2 has widths"):
        analyze("shufflenet_v2_x0_7")
    with pytest.raises(WeightsError, match="no such model file"):
        analyze(tmp_path / "gone.tflite")
