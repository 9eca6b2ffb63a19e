"""``fusiform predict --video``: what is written, what is refused, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fusiform.cli import commands

sys.path.insert(0, str(Path(__file__).parents[1] / "prediction" / "streams"))

from numbered_frames import damage, jpeg, make_video

sys.path.pop(0)

pytest.importorskip("av")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "clip.mp4", [number / 10 for number in range(12)])


def run(*words: object) -> Result:
    return CliRunner().invoke(commands, ["predict", *map(str, words), "--threads", "1"])


def test_each_format_says_which_frame_and_when(clip: Path, valid: Any) -> None:
    table = run("--video", clip, "--every", 5, "--top", 1)
    assert table.exit_code == 0
    assert [line for line in table.stdout.splitlines() if line.startswith(str(clip))] == [
        f"{clip}  0:00.000  frame 0",
        f"{clip}  0:00.500  frame 5",
        f"{clip}  0:01.000  frame 10",
    ]
    records = [json.loads(line) for line in run("--video", clip, "--every", 5, "-f", "jsonl").stdout.splitlines()]
    assert [(record["frame"], record["seconds"]) for record in records] == [(0, 0.0), (5, 0.5), (10, 1.0)]
    assert (records[0]["dropped"], records[0]["age_ms"], records[0]["path"]) == (0, None, str(clip))
    for record in records:
        valid(json.dumps(record), "frame")
    whole = run("--video", clip, "--every", 5, "-f", "json").stdout
    valid(whole, "frames")
    assert json.loads(whole)["predictions"] == records
    rows = list(csv.DictReader(run("--video", clip, "--every", 5, "-f", "csv", "--top", 2).stdout.splitlines()))
    assert [(row["frame"], row["seconds"], row["rank"]) for row in rows] == [
        (frame, seconds, rank) for frame, seconds in (("0", "0.0"), ("5", "0.5"), ("10", "1.0")) for rank in "12"
    ]


def test_a_video_is_saved_beside_the_answers(clip: Path, tmp_path: Path) -> None:
    result = run(
        "--video", clip, "--fps", 5, "--out", tmp_path / "a.jsonl", "-f", "jsonl", "--save", tmp_path / "a.mp4"
    )
    assert result.exit_code == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 6
    assert f"fusiform: {tmp_path / 'a.mp4'}: has no sound\n" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.mp4"]


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        ((), "Missing argument 'SOURCE...'.", 2),
        (("a.jpg", "--video", "b.mp4"), "leave SOURCE out", 2),
        (("a.jpg", "--every", "2"), "--every is for --video", 2),
        (("a.jpg", "--reconnect", "2"), "--reconnect is for --video", 2),
        (("--video", "b.mp4", "--every", "2", "--fps", "3"), "exclude each other", 2),
        (("--video", "b.mp4", "--masks", "m"), "--masks is for images", 2),
        (("--video", "b.mp4", "--fast"), "--fast is for images", 2),
        (("--video", "b.mp4", "-f", "coco"), "--format coco is for images", 2),
        (("--video", "b.mp4", "--save", "b.png"), "videos are saved as .mp4", 2),
        (("--video", "b.mp4", "--fps", "0"), "0", 2),
        (("a.jpg", "--overlap", "0.3"), "--overlap is for --tiles", 2),
        (("a.jpg", "--tiles", "640"), "tiles is for detection", 2),
        (("--video", "absent.mp4"), "absent.mp4: no such file", 1),
        (("--video", "ftp://u:secret@h/x"), "ftp://***@h/x: ftp is not read", 2),
    ],
)
def test_what_does_not_go_together_is_refused(words: tuple[str, ...], message: str, code: int) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert "secret" not in result.stderr


def test_errors_and_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    assert run("--video", tmp_path / "text.mp4").exit_code == 1
    clip = make_video(tmp_path / "clip.avi", [number / 10 for number in range(12)], codec="mjpeg")
    damage(clip, 6)
    for more, code in (((), 0), (("--strict",), 3)):
        result = run("--video", clip, "-f", "jsonl", *more)
        assert result.exit_code == code, result.stderr
        errors = [json.loads(line) for line in result.stdout.splitlines() if json.loads(line)["error"]]
        assert len(errors) == 1
        assert errors[0]["frame"] is None
        assert f"fusiform: {errors[0]['error']}\n" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_ctrl_c_ends_a_live_source_with_whole_files(
    tmp_path: Path, number: int, code: int, form: str, valid: Any
) -> None:
    command = [sys.executable, "-m", "fusiform", "predict", "--video", "-", "--threads", "1", "-f", form]
    files = ["--out", str(tmp_path / "out.json"), "--save", str(tmp_path / "out.mp4")]
    process = subprocess.Popen(
        [*command, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    until = time.monotonic() + 20
    sent = 0
    while not list(tmp_path.glob(".out.mp4.*.part")) and time.monotonic() < until:
        process.stdin.write(jpeg(sent % 256))
        process.stdin.flush()
        sent += 1
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code, told.decode()
    text = (tmp_path / "out.json").read_text()
    frames = json.loads(text)["predictions"] if form == "json" else [json.loads(line) for line in text.splitlines()]
    assert frames
    assert f"fusiform: {len(frames)} frame" in told.decode()
    assert "dropped because newer ones came" in told.decode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.mp4"]


def test_answers_of_a_live_source_are_written_as_they_come() -> None:
    command = [sys.executable, "-m", "fusiform", "predict", "--video", "-", "--threads", "1", "-f", "jsonl"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(3):
        process.stdin.write(jpeg(number))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["frame"] == number  # though nothing else has come
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0
    assert told.decode() == "fusiform: 3 frames answered, 0 dropped because newer ones came\n"
