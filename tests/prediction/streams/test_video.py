"""Videos that wait for their reader: every frame, in order, upright, at its own time, and drawn on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.errors import InputError, MissingExtraError, OutputError, UsageError
from fusiform.prediction.streams.frames import FramePrediction, Pick, clock
from fusiform.prediction.streams.saving import VideoFile
from fusiform.zoo.model import Model

sys.path.insert(0, str(Path(__file__).parent))

from numbered_frames import Engine, damage, jpeg, make_video, number_of, numbered

sys.path.pop(0)

av = pytest.importorskip("av")

EVEN = [number / 25 for number in range(50)]


def answers(path: Path | str, model: Model, **how: object) -> list[FramePrediction]:
    return list(fusiform.predict_video(path, model, **how))  # type: ignore[arg-type]


def numbers(found: list[FramePrediction]) -> list[int]:
    assert all(answer.thumbnail is not None for answer in found)
    return [number_of(answer.thumbnail) for answer in found if answer.thumbnail is not None]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_frame_is_answered_once_in_order_at_its_time(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, threads: int, batch: int
) -> None:
    path = make_video(tmp_path / "clip.mp4", EVEN)
    monkeypatch.setattr(Engine, "seconds", 0.001)
    found = answers(path, model, threads=threads, batch=batch)
    assert numbers(found) == [answer.frame for answer in found] == list(range(50))
    assert [answer.seconds for answer in found] == pytest.approx(EVEN, abs=1e-3)
    assert {answer.top[0].name for answer in found} == {"red"}
    assert {(answer.path, answer.dropped, answer.age_ms) for answer in found} == {(str(path), 0, None)}


def test_times_that_are_not_even_stay_so(tmp_path: Path, model: Model) -> None:
    times = [0, 0.04, 0.5, 0.52, 3.0, 3.001, 10.0]
    found = answers(make_video(tmp_path / "clip.mkv", times), model)
    assert [answer.seconds for answer in found] == pytest.approx(times, abs=1e-3)
    assert numbers(found) == list(range(7))


def test_times_count_from_the_videos_beginning(tmp_path: Path, model: Model) -> None:
    found = answers(make_video(tmp_path / "clip.ts", [5, 5.2, 5.4]), model)
    assert [answer.seconds for answer in found] == pytest.approx([0, 0.2, 0.4], abs=1e-3)


def test_each_nth_frame_and_so_many_a_second(tmp_path: Path, model: Model) -> None:
    path = make_video(tmp_path / "clip.mp4", EVEN)
    assert numbers(answers(path, model, every=7)) == [0, 7, 14, 21, 28, 35, 42, 49]
    assert numbers(answers(path, model, fps=5)) == list(range(0, 50, 5))
    assert numbers(answers(path, model, fps=100)) == list(range(50))
    uneven = make_video(tmp_path / "uneven.mkv", [0, 0.3, 0.6, 0.9, 1.2, 5.0, 5.1, 6.0])
    assert numbers(answers(uneven, model, fps=1)) == [0, 4, 5, 7]


@pytest.mark.parametrize(
    ("rate", "fps", "expected"), [(30_000 / 1001, 30_000 / 1001, 300), (29.97, 10, 100), (25, 0.5, 6)]
)
def test_frames_a_second_are_neither_lost_nor_doubled_by_rounding(rate: float, fps: float, expected: int) -> None:
    pick = Pick(None, fps)
    assert sum(pick(number, round(number / rate, 3)) for number in range(300)) == expected


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_upright(tmp_path: Path, model: Model, degrees: int, mirrored: bool) -> None:
    # The stored picture has one green corner; the file says how it is to be turned.
    stored = Image.new("RGB", (64, 48), "black")
    stored.paste((0, 255, 0), (0, 0, 16, 16))
    path = make_video(
        tmp_path / "clip.mp4",
        [0, 0.04],
        picture=lambda _: stored,
        turn=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),  # type: ignore[attr-defined]
    )
    image = answers(path, model)[0].thumbnail
    assert image is not None
    expected = stored.rotate(degrees, expand=True)  # counter-clockwise, as FFmpeg's
    if mirrored:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert image.size == expected.size == ((64, 48) if degrees in (0, 180) else (48, 64))
    difference = np.abs(np.asarray(image, int) - np.asarray(expected, int))
    assert difference.mean() < 12, degrees


def test_after_a_damaged_part_the_rest_is_answered(tmp_path: Path, model: Model) -> None:
    path = make_video(tmp_path / "clip.avi", EVEN, codec="mjpeg")
    damage(path, 20)
    found = answers(path, model)
    good = [answer for answer in found if answer.error is None]
    bad = [answer for answer in found if answer.error is not None]
    assert [answer.frame for answer in good] == numbers(good)
    assert [answer.frame for answer in good] == [number for number in range(50) if number != 20]
    assert [(answer.frame, answer.error) for answer in bad] == [(None, f"{path}: after 0:00.760: is damaged")]
    assert found.index(bad[0]) == 20


def test_what_comes_before_the_place_where_a_file_breaks_off_is_answered(tmp_path: Path, model: Model) -> None:
    path = make_video(tmp_path / "clip.mkv", EVEN)
    data = path.read_bytes()
    path.write_bytes(data[: 4 * len(data) // 5])
    found = [answer for answer in answers(path, model) if answer.error is None]
    assert 3 < len(found) < 50
    assert numbers(found) == list(range(len(found)))


def test_what_is_no_video_is_refused_by_name(tmp_path: Path, model: Model) -> None:
    (tmp_path / "text.mp4").write_text("hello" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(InputError, match=rf"{name}: is no video, or damaged"):
            answers(tmp_path / name, model)
    with pytest.raises(InputError, match=r"absent\.mp4: no such file"):
        fusiform.predict_video(tmp_path / "absent.mp4", model)
    with pytest.raises(InputError, match="is a folder: name a video in it; fusiform watch"):
        fusiform.predict_video(tmp_path, model)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        track = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        quiet.sample_rate = 8000
        container.mux(track.encode(quiet))
        container.mux(track.encode(None))
    with pytest.raises(InputError, match="there is no video in it"):
        answers(tmp_path / "sound.wav", model)


def test_a_picture_of_a_cover_is_no_video(tmp_path: Path, model: Model) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        track = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        quiet.sample_rate, quiet.pts = 8000, 0
        for stream, frame in ((track, quiet), (cover, av.VideoFrame.from_image(numbered(1)))):
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with av.open(str(tmp_path / "song.mp4")) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(InputError, match="there is no video in it"):
        answers(tmp_path / "song.mp4", model)


def test_a_list_in_a_file_cannot_ask_the_network(tmp_path: Path, model: Model) -> None:
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match=r"list\.m3u8: "):
        answers(tmp_path / "list.m3u8", model)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"fps": 0.0}, "fps must be above 0"),
        ({"fps": float("nan")}, "fps must be above 0"),
        ({"every": 2, "fps": 2.0}, "exclude each other"),
        ({"reconnect": -1.0}, "reconnect must be 0 seconds or more"),
        ({"save": "x.gif"}, r"saved as \.mp4, \.mov, \.mkv"),
        ({"score": 0.5}, "score is for detection"),
    ],
)
def test_arguments_that_do_not_fit_are_told_at_once(
    tmp_path: Path, model: Model, how: dict[str, object], message: str
) -> None:
    path = make_video(tmp_path / "clip.mp4", [0])
    with pytest.raises(UsageError, match=message):
        fusiform.predict_video(path, model, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["rtsp://user:secret@localhost/x", "http://user:secret@localhost/x.mp4"])
def test_offline_no_address_is_asked_and_no_password_shown(
    model: Model, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    with pytest.raises(InputError, match=r"\*\*\*@localhost/x.*: not fetched, because FUSIFORM_OFFLINE is set") as told:
        fusiform.predict_video(address, model)
    assert "secret" not in str(told.value)


def test_other_kinds_of_addresses_are_refused_by_name(model: Model) -> None:
    with pytest.raises(UsageError, match="ftp is not read; --video takes http"):
        fusiform.predict_video("ftp://user:secret@localhost/x", model)


# The video that is saved.


def read_back(path: Path) -> list[tuple[float, Image.Image]]:
    with av.open(str(path)) as container:
        return [(float(frame.time), frame.to_image()) for frame in container.decode(video=0)]


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_answered_frames_are_saved_at_their_times(tmp_path: Path, model: Model, ending: str) -> None:
    times = [0, 0.04, 0.5, 0.52, 3.0, 3.04, 10.0]
    path = make_video(tmp_path / "clip.mkv", times, size=(320, 240), sound=True)
    saved = tmp_path / f"out{ending}"
    stream = fusiform.predict_video(path, model, every=2, save=saved)
    assert [answer.frame for answer in stream] == [0, 2, 4, 6]
    assert stream.notes == [f"{saved}: has no sound"]
    found = read_back(saved)
    assert [number_of(image) for _, image in found] == [0, 2, 4, 6]
    assert [seconds for seconds, _ in found] == pytest.approx([0, 0.5, 3.0, 10.0], abs=2e-3)
    # The likeliest class is written in the upper left corner, on a plate in its colour.
    plain = np.asarray(numbered(0, (320, 240)), int)
    assert np.abs(np.asarray(found[0][1], int) - plain)[:12, :20].mean() > 40
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["clip.mkv", saved.name])


def test_a_turned_video_of_odd_size_is_saved_upright(tmp_path: Path, model: Model) -> None:
    path = make_video(
        tmp_path / "clip.mp4",
        [0, 0.04],
        size=(64, 48),
        turn=lambda stream: stream.set_display_rotation(90),  # type: ignore[attr-defined]
    )
    list(fusiform.predict_video(path, model, save=tmp_path / "out.mp4"))
    assert {image.size for _, image in read_back(tmp_path / "out.mp4")} == {(48, 64)}
    file = VideoFile(tmp_path / "odd.mp4")
    for k, size in enumerate([(65, 49), (65, 49), (128, 98)]):
        file.add(Image.new("RGB", size, "red"), k / 10)
    notes = file.close()
    assert any("1 frames of another size were brought to 64 x 48" in note for note in notes)
    assert {image.size for _, image in read_back(tmp_path / "odd.mp4")} == {(64, 48)}


def test_a_stream_that_is_closed_early_leaves_a_whole_video(tmp_path: Path, model: Model) -> None:
    stream = fusiform.predict_video(make_video(tmp_path / "clip.mp4", EVEN), model, save=tmp_path / "out.mp4")
    for _ in range(10):
        next(stream)
    assert not (tmp_path / "out.mp4").exists()
    stream.close()
    assert [number_of(image) for _, image in read_back(tmp_path / "out.mp4")] == list(range(10))


def test_a_source_without_frames_leaves_the_old_video(tmp_path: Path, model: Model) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    (tmp_path / "out.mp4").write_bytes(b"old")
    with pytest.raises(InputError):
        answers(tmp_path / "clip.mp4", model, save=tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_written_is_told_and_leaves_nothing(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "clip.mp4", EVEN)
    with pytest.raises(OutputError, match="cannot write"):
        fusiform.predict_video(path, model, save=tmp_path / "absent" / "out.mp4")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"cannot write .*out\.mp4 \(.*No space left"):
        answers(path, model, save=tmp_path / "out.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_clock_is_as_players_show_it() -> None:
    assert [clock(seconds) for seconds in (0, 1.2345, 61.5, 3599.9996, 3723.4)] == [
        "0:00.000",
        "0:01.234",
        "1:01.500",
        "1:00:00.000",
        "1:02:03.400",
    ]
    assert clock(None) == "?"


def test_without_the_extra_its_name_is_told(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "clip.mp4", [0])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"reading a video needs av.*pip install 'fusiform\[video\]'"):
        answers(path, model)


def test_pictures_from_a_file_on_standard_input_need_no_extra(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mjpeg").write_bytes(b"".join(jpeg(number) for number in range(30)))
    monkeypatch.setitem(sys.modules, "av", None)
    with (tmp_path / "clip.mjpeg").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        found = answers("-", model)
    assert numbers(found) == [answer.frame for answer in found] == list(range(30))
