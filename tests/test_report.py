from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.report import Report, align, csv_lines, display_width, harmless, printable

names = st.text(min_size=1, max_size=6)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
cells = st.none() | texts | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
reports = st.builds(
    Report,
    texts,
    st.lists(st.dictionaries(names, cells, min_size=1), max_size=4).map(tuple),
    st.dictionaries(names, cells, min_size=1),
)


@given(reports)
def test_json_reads_back(report: Report) -> None:
    assert json.loads(report.to_json()) == {
        "title": report.title,
        "figures": report.figures,
        "rows": list(report.rows),
    }


@given(reports)
def test_json_lines_read_back(report: Report) -> None:
    lines = report.to_jsonl().removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == list(report.rows or [report.figures])


@given(reports)
def test_csv_reads_back(report: Report) -> None:
    rows = report.rows or (report.figures,)
    header, *records = csv.reader(io.StringIO(report.to_csv(), newline=""))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    assert header == [harmless(name) for name in columns]
    assert len(records) == len(rows)
    for record, row in zip(records, rows, strict=True):
        for name, text in zip(columns, record, strict=True):
            value = row.get(name)
            if isinstance(value, bool):
                assert text == json.dumps(value)
            elif isinstance(value, (int, float)):
                assert type(value)(text) == value
            else:
                assert text == harmless(value or "")


@given(reports)
def test_no_cell_can_break_a_line_of_the_table(report: Report) -> None:
    figures = len(report.figures) + 1
    rows = len(report.rows) + 2 if report.rows else 0
    assert len(report.to_table().split("\n")) == 1 + figures + rows + 1


def test_table() -> None:
    report = Report(
        "Speed",
        ({"engine": "litert", "ms": 2.125, "runs": 1000, "int8": True}, {"engine": "ねこ", "ms": 17.8, "note": "slow"}),
        {"machine": "2 cores", "threads": 2},
    )
    assert report.to_table() == (
        "Speed\n"
        "\n"
        "machine  2 cores\n"
        "threads  2\n"
        "\n"
        "engine      ms   runs  int8  note\n"
        "litert   2.125  1,000  yes\n"
        "ねこ    17.800               slow\n"
    )


FIGURES = {
    "model": "m.tflite",
    "top1": 0.675,
    "top1_low": 0.628,
    "top1_high": 0.719,
    "top5": None,
    "bytes": 3_781_854,
    "seconds": 12.3456,
    "labels": ("a", "b", "c", "d", "e", "f"),
    "drop": -0.004,
}


def test_people_see_percent_and_megabytes_of_what_machines_get_exactly() -> None:
    rows = ({"layer": "x", "output_shape": (7, 7, 320), "bytes": 2_500_000, "precision": 0.5, "median_ms": 1.23456},)
    report = Report("m.tflite", rows, FIGURES, {"kinds": ({"kind": "grey", "findings": 1200},)}, "fusiform.x/1")
    assert report.to_table() == (
        "m.tflite\n"
        "\n"
        "model   m.tflite\n"
        "top-1   67.5 % (95 % interval 62.8 to 71.9)\n"
        "size    3.78 MB\n"
        "time    12.35 s\n"
        "labels  a, b, c, d, e, ...\n"
        "drop    -0.4 points\n"
        "\n"
        "layer  output shape  size MB  precision %  median ms\n"
        "x      7x7x320          2.50         50.0      1.235\n"
        "\n"
        "kinds\n"
        "\n"
        "kind  findings\n"
        "grey     1,200\n"
    )
    content = json.loads(report.to_json())
    assert content["figures"] == {**FIGURES, "labels": list("abcdef")}
    assert content["rows"] == [{**rows[0], "output_shape": [7, 7, 320]}]
    assert (content["schema"], content["kinds"]) == ("fusiform.x/1", [{"kind": "grey", "findings": 1200}])
    assert "<td>67.5 % (95 % interval 62.8 to 71.9)</td>" in report._repr_html_()
    # The keys of a report of one's own may mean anything.
    assert "0.675" in Report("own", (), FIGURES).to_table()


def test_columns_have_one_unit_and_none_is_empty() -> None:
    rows = ({"bytes": 4_000, "top1": None}, {"bytes": 2_000_000_000, "top1": None}, {"bytes": None, "top1": None})
    assert Report("t", rows, schema="s").to_table() == "t\n\nsize GB\n   0.00\n   2.00\n\n"


def test_what_has_no_place_is_named() -> None:
    kinds = {"kinds": ({"kind": "grey"},), "resolutions": ()}
    both = Report("t", ({"a": 1},), {"b": 2}, kinds)
    assert both.left_out("csv") == both.left_out("jsonl") == ("figures", "kinds")
    assert both.left_out("json") == both.left_out("table") == ()
    figures = Report("t", (), {"b": 2, "c": (1, 2), "d": ("x", "=y")}, kinds)
    assert figures.left_out("csv") == ("kinds",)
    assert figures.left_out("jsonl") == ()
    assert json.loads(figures.to_jsonl()) == {
        "b": 2,
        "c": [1, 2],
        "d": ["x", "=y"],
        "kinds": [{"kind": "grey"}],
        "resolutions": [],
    }
    header, row = csv.reader(io.StringIO(figures.to_csv(), newline=""))
    assert (header, json.loads(row[1]), json.loads(row[2])) == (["b", "c", "d"], [1, 2], ["x", "=y"])


def test_rows_go_on_as_tables_of_pandas() -> None:
    pytest.importorskip("pandas")
    frame = Report(
        "t", ({"class": "a", "precision": 0.5, "others": ("x",)}, {"class": "b", "precision": None})
    ).to_pandas()
    assert list(frame["precision"].isna()) == [False, True]
    assert frame["others"][0] == ("x",)


def test_render_knows_every_format() -> None:
    report = Report("t", ({"a": 1},))
    assert report.render("table") == "t\n\na\n1\n"
    assert report.render("json").startswith("{")
    assert report.render("jsonl") == '{"a": 1}\n'
    assert report.render("csv") == "a\r\n1\r\n"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], {"a": 1}, (1, float("nan")), ([1],)])
def test_what_not_every_format_can_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="top1"):
        Report("t", ({"top1": value},))  # type: ignore[dict-item]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2))
def test_aligned_cells_end_in_the_same_terminal_column(text: str, extra: int) -> None:
    text = printable(text)
    lines = align([["x" * (display_width(text) + extra), "|"], [text, "|"]], "<<").split("\n")
    assert len({display_width(line) for line in lines}) == 1


@pytest.mark.parametrize(("text", "width"), [("dog", 3), ("собака", 6), ("ねこ", 4), ("é", 1), ("می‌خواهم", 7)])
def test_display_width(text: str, width: int) -> None:
    assert display_width(text) == width


def test_printable_disarms_terminal_codes_and_keeps_words() -> None:
    assert printable("a\x1b[31m\n\udcff\u202e.jpg") == "a\\x1b[31m\\n\\udcff\\u202e.jpg"
    assert printable("می‌خواهم 犬") == "می‌خواهم 犬"


def test_csv_is_made_harmless_for_those_who_open_it_and_json_is_exact() -> None:
    hostile = ["=cmd|'/c calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\x1b[2J", "\x9b2J", "\u202egnp", "a\rb"]
    plain = ["-", "-5", "+1.5e3", "a=b", "tabby, tabby cat", "naïve", "a\nb", ""]
    report = Report("names", tuple({"name": name} for name in hostile + plain))
    read = [row["name"] for row in csv.DictReader(io.StringIO(report.to_csv(), newline=""))]
    quoted = ["'=cmd|'/c calc'!A0", "'+1+1", "'-2+3", "'@SUM(A1)", "\\x1b[2J", "\\x9b2J", "\\u202egnp", "a\\rb"]
    assert read == [*quoted, *plain]
    assert [row["name"] for row in json.loads(report.to_json())["rows"]] == hostile + plain
    exact = csv_lines([[name] for name in hostile], exact=True)
    assert [row[0] for row in csv.reader(io.StringIO(exact, newline=""))] == hostile
