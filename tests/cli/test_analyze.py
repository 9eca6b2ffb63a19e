"""``fusiform analyze``, called as a user calls it."""

from __future__ import annotations

import csv
import io

import pytest
from click.testing import CliRunner

import fusiform.cli


def run(*arguments):
    result = CliRunner().invoke(fusiform.cli.commands, ["analyze", *arguments], prog_name="fusiform")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def test_the_table():
    result = run("mobilenet_v2_x0_35", "--size", "192")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "mobilenet_v2_x0_35 at 192x192"
    (total,) = (line.split()[2] for line in lines if line.startswith("multiply adds "))
    assert total.startswith("43,")  # million, as in TensorFlow slim's table
    assert any(line.split()[:5] == ["features.0.0", "conv", "3x3", "1", "2"] for line in lines)


def test_json_and_the_options(valid):
    report = valid(run("mobilenet_v2", "--bits", "16", "--slices", "2", "--format", "json").output)
    assert report["figures"]["held_bytes"] == 401_408
    assert (report["figures"]["bits"], report["figures"]["slices"]) == (16, 2)


def test_a_segmenter_with_its_options(valid):
    words = ("deeplab_v3_mobilenet_v2_x0_35", "--aspp", "--output-stride", "8", "--classes", "5", "--size", "129")
    report = valid(run(*words, "--format", "json").output)
    assert report["rows"][-1]["output_shape"] == [17, 17, 5]
    assert report["figures"]["multiply_adds_tensorflow"] > report["figures"]["multiply_adds"]
    assert sum((row["dilation"] or 1) > 1 for row in report["rows"] if row["layer"].startswith("branches")) == 3


def test_csv_has_a_line_for_each_layer():
    result = run("shufflenet_v2_x1_0", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout, newline="")))
    assert result.stderr == "fusiform: csv has no place for figures, resolutions: --format json has all\n"
    assert sum(int(row["parameters"]) for row in rows) == 2278604


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mobilenet_v2", "--bits", "4"), "'4' is not one of"),
        (("mobilenet_v2", "--size", "8"), "8 is not in the range x>=32"),
        (("mobilenet_v2", "--slices", "0"), "0 is not in the range x>=1"),
        (("mobilenet_v2", "--output-stride", "4"), "'4' is not one of"),
        (("mobilenet_v2", "--classes", "0"), "0 is not in the range x>=1"),
        (("mobilenet_v9",), "no weights are called 'mobilenet_v9'"),
    ],
)
def test_wrong_use(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
