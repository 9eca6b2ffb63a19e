"""Sources that do not wait: the newest frame is answered, and what is lost is connected again."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import fusiform
from fusiform.errors import InputError
from fusiform.prediction.streams import live, sources
from fusiform.prediction.streams.frames import Frame, Pick
from fusiform.prediction.streams.live import Newest, Read
from fusiform.zoo.model import Model

sys.path.insert(0, str(Path(__file__).parent))

from numbered_frames import Engine, jpeg, make_video, number_of, numbered

sys.path.pop(0)


def camera(count: int, fps: float, first: int = 0) -> Generator[Read, None, None]:
    """Frames that come at their times, whoever waits for them."""
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number / fps - time.monotonic()))
        yield partial(numbered, (first + number) % 256)


def newest(connect: Callable[[], Generator[Read, None, None]], **how: object) -> Newest:
    settings: dict[str, object] = {"reconnect": 5.0, "stall": 1.0, "first_delay": 0.05, **how}
    return Newest(connect, "camera", Pick(None, None), **settings)  # type: ignore[arg-type]


def lag_of(seconds: float) -> tuple[list[float], Newest]:
    """How old each frame of a camera of 30 a second is when its answer, which takes 0.2 s, is begun."""
    source = newest(lambda: camera(round(30 * seconds), 30), again=False)
    ages = []
    for frame in source:
        assert frame.arrived is not None
        ages.append(time.monotonic() - frame.arrived)
        time.sleep(0.2)
    return ages, source


def test_answers_do_not_lag_behind_a_source_that_is_six_times_too_fast() -> None:
    ages, source = lag_of(3)
    assert len(ages) >= 12
    assert sorted(ages)[-2] <= 2 / 30  # one may be late on a busy machine
    assert source.dropped >= 90 - len(ages) - 1


SECONDS = int(os.environ.get("FUSIFORM_TEST_SECONDS", "20"))
"""How long a camera is watched; with 60 it was seen to hold for a minute."""


@pytest.mark.slow
def test_answers_do_not_lag_behind_after_a_while() -> None:
    ages, source = lag_of(SECONDS)
    assert sorted(ages[-50:])[-2] <= 2 / 30
    assert sorted(ages)[len(ages) // 2] <= 1 / 30 + 0.01
    assert source.dropped + len(ages) == 30 * SECONDS


def test_numbers_count_all_frames_and_what_was_dropped_before_each() -> None:
    source = newest(lambda: camera(60, 60), again=False)
    found: list[Frame] = []
    for frame in source:
        assert frame.read is not None
        assert number_of(frame.read()) == frame.number
        found.append(frame)
        time.sleep(0.1)
    places = [frame.number for frame in found if frame.number is not None]
    assert places == sorted(set(places))
    gaps = [second - first - 1 for first, second in pairwise(places)]
    assert [frame.dropped for frame in found][1:] == gaps
    assert source.dropped == sum(gaps) + found[0].dropped
    assert places[-1] == 59
    assert found[-1].seconds == pytest.approx(59 / 60, abs=0.3)


def test_a_source_that_ends_is_connected_again_and_counts_go_on() -> None:
    starts: list[float] = []

    def connect() -> Generator[Read, None, None]:
        starts.append(time.monotonic())
        if len(starts) == 3:
            raise OSError(111, "Connection refused")
        return camera(5, 100, first=10 * len(starts))

    source = newest(connect, reconnect=0.6)
    errors = []
    places: list[int] = []
    for frame in source:
        if frame.error is not None:
            errors.append(frame.error)
        else:
            assert frame.number is not None
            places.append(frame.number)
        if len(starts) >= 6:
            break
    assert len(starts) == 6
    assert places == sorted(set(places))
    assert set(errors) == {"camera: the source ended: connecting again, for up to 0.6 seconds"}
    assert source.lost == len(errors) == 4  # the refused attempt was within one loss
    # The wait before the refused attempt was doubled for the next.
    assert starts[3] - starts[2] >= 0.09


def test_a_source_that_stalls_counts_as_lost_and_comes_back() -> None:
    starts: list[int] = []

    def connect() -> Generator[Read, None, None]:
        starts.append(len(starts))
        yield from camera(3, 100, first=100 * starts[-1])
        if len(starts) == 1:
            time.sleep(3)
            yield partial(numbered, 77)  # too late: nobody listens any more

    source = newest(connect, stall=0.3, again=True, reconnect=0.5)
    found = []
    for frame in source:
        found.append(frame)
        if len(starts) == 2 and frame.error is None:
            break
    assert [frame.error for frame in found if frame.error] == [
        "camera: no frame for 0.3 seconds: connecting again, for up to 0.5 seconds"
    ]
    assert found[-1].read is not None
    assert 100 <= number_of(found[-1].read()) <= 102


def test_a_source_that_stays_away_is_given_up() -> None:
    starts: list[float] = []

    def connect() -> Generator[Read, None, None]:
        starts.append(time.monotonic())
        if len(starts) > 1:
            raise OSError(113, "No route to host")
        yield from camera(2, 100)

    errors = [frame.error for frame in newest(connect, reconnect=0.5) if frame.error]
    assert errors == [
        "camera: the source ended: connecting again, for up to 0.5 seconds",
        "camera: did not come back",
    ]
    assert 3 <= len(starts) <= 6  # 0.05, 0.1, 0.2 seconds between them, and what is left
    starts.clear()
    assert [frame.error for frame in newest(connect, reconnect=0.0) if frame.error] == ["camera: the source ended"]
    assert len(starts) == 1


def test_a_source_that_never_sent_anything_is_an_error_at_once() -> None:
    def refused() -> Generator[Read, None, None]:
        raise OSError(111, "Connection refused")
        yield

    begun = time.monotonic()
    with pytest.raises(InputError, match="camera: Connection refused: check the address"):
        list(newest(refused, stall=5.0))
    assert time.monotonic() - begun < 2

    def silent() -> Generator[Read, None, None]:
        time.sleep(1)
        yield partial(numbered, 0)

    with pytest.raises(InputError, match=r"camera: no frame for 0\.2 seconds"):
        list(newest(silent, stall=0.2))


# Standard input.


@contextmanager
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input is a pipe; the end that is written to."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield writing


def send(writing: int, count: int, fps: float) -> None:
    for number in range(count):
        os.write(writing, jpeg(number))
        time.sleep(1 / fps)
    os.close(writing)


def test_pictures_on_standard_input_need_no_extra(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(Engine, "seconds", 0.05)
    with standard_input(monkeypatch) as writing:
        threading.Thread(target=send, args=(writing, 60, 60), daemon=True).start()
        stream = fusiform.predict_video("-", model)
        found = list(stream)
    assert stream.live
    assert {answer.error for answer in found} == {None}
    for answer in found:
        assert answer.thumbnail is not None
        assert number_of(answer.thumbnail) == answer.frame
        assert answer.age_ms is not None
    assert len(found) + stream.dropped == 60
    assert found[-1].frame == 59


@pytest.mark.parametrize("content", [b"", b"no picture", jpeg(1)[:-10]])
def test_standard_input_without_a_whole_picture_is_an_error(
    model: Model, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    with standard_input(monkeypatch) as writing:
        os.write(writing, content)
        os.close(writing)
        with pytest.raises(InputError, match="-: the source ended: send whole JPEG pictures"):
            list(fusiform.predict_video("-", model))


def test_each_nth_frame_of_a_live_source_is_answered_and_the_others_are_not_dropped(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standard_input(monkeypatch) as writing:
        threading.Thread(target=send, args=(writing, 21, 100), daemon=True).start()
        stream = fusiform.predict_video("-", model, every=10)
        assert [answer.frame for answer in stream] == [0, 10, 20]
        assert stream.dropped == 0


# A camera with an HTTP address.


class Camera(BaseHTTPRequestHandler):
    """Sends JPEG after JPEG, as many as ``plan`` says for each connection; then it ends, or says nothing more."""

    plan: list[tuple[int, bool]]
    seen: list[str]
    stop: threading.Event

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        if not self.plan:
            self.send_error(503)
            return
        count, stalls = self.plan[0]
        # The first request only asks what is sent.
        if len(self.seen) > 1:
            self.plan.pop(0)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for number in range(count):
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(number) + b"\r\n")
                time.sleep(0.01)
            if stalls:
                self.stop.wait(20)
        except OSError:  # whoever listened has gone
            return

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def http_camera(plan: list[tuple[int, bool]]) -> Iterator[tuple[str, type[Camera]]]:
    class Here(Camera):
        pass

    Here.plan, Here.seen, Here.stop = plan, [], threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", Here
    finally:
        Here.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_camera_over_http_is_answered_and_connected_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(live, "FIRST_DELAY", 0.05)
    plan = [(10, False), (10, True), (10, False)]
    monkeypatch.setattr(sources, "Newest", partial(Newest, stall=0.5, first_delay=0.05))
    with http_camera(plan) as (host, camera_class):
        stream = fusiform.predict_video(f"http://user:secret@{host}/video", model, reconnect=1)
        found = list(stream)
        assert camera_class.seen[0].startswith("Basic ")
    shown = f"http://***@{host}/video"
    assert {answer.path for answer in found} == {shown}
    assert [answer.error for answer in found if answer.error] == [
        f"{shown}: the source ended: connecting again, for up to 1 seconds",
        f"{shown}: no frame for 0.5 seconds: connecting again, for up to 1 seconds",
        f"{shown}: the source ended: connecting again, for up to 1 seconds",
        f"{shown}: did not come back",
    ]
    assert stream.lost == 3
    places = [answer.frame for answer in found if answer.frame is not None]
    assert places == sorted(set(places))
    assert places[-1] == 29
    assert "secret" not in str(found)


def test_a_camera_that_answers_with_an_error_is_told_without_its_password(model: Model) -> None:
    with http_camera([]) as (host, _), pytest.raises(InputError, match=r"\*\*\*@.*: the server answered 503") as told:
        list(fusiform.predict_video(f"http://user:secret@{host}/video", model))
    assert "secret" not in str(told.value)


def test_a_video_file_over_http_is_answered_whole(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from http.server import SimpleHTTPRequestHandler

    make_video(tmp_path / "clip.mp4", [number / 25 for number in range(30)])

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}/clip.mp4"
        found = list(fusiform.predict_video(address, model))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [answer.frame for answer in found] == list(range(30))
    assert [number_of(answer.thumbnail) for answer in found if isinstance(answer.thumbnail, Image.Image)] == list(
        range(30)
    )
