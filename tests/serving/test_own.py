"""fusiform's own protocol."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.errors import UsageError
from fusiform.schemas import json_schema
from fusiform.schemas.server import Code
from fusiform.serving.models import Served, named_models
from fusiform.serving.reading import MAX_IMAGES
from fusiform.serving.rle import encode

from .conftest import Answer, ask, encoded, form, talk

Start = Callable[..., fusiform.Server]
EXAMPLES = Path(__file__).parents[2] / "examples"
PREDICT = "/v1/models/colors:predict"


def best(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [each["top"][0]["name"] for each in answer.json["predictions"]]


def refused(answer: Answer, status: int, code: str, said: str = "") -> None:
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert set(answer.json) == {"error", "code"}
    assert said in answer.json["error"]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("network", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_the_answer_is_predicts(start: Start, valid: Callable[..., Any], network: str) -> None:
    server = start(network)
    file = EXAMPLES / "cat.jpg"
    answer = ask(server, f"/v1/models/{network}:predict?top=3", file.read_bytes(), {"Content-Type": "image/jpeg"})
    assert answer.status == 200
    expected = fusiform.predict(file, network, top=3).to_dict()
    expected["predictions"][0]["path"] = "image"
    assert valid(answer.body) == expected


@pytest.mark.parametrize(
    "kind", ["image/png", "image/anything", "application/octet-stream", "application/x-www-form-urlencoded", None]
)
def test_an_image_as_the_body(start: Start, colors: list[Served], kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert best(ask(start(), PREDICT, encoded("blue"), headers)) == ["blue"]


def test_several_files_of_a_form_are_answered_in_their_order(start: Start, colors: list[Served]) -> None:
    server = start(threads=2)
    body, headers = form(("a.png", encoded("red")), ("b.txt", b"no image"), ("../../c.png", encoded("blue")))
    answer = ask(server, PREDICT, body, headers)
    assert answer.status == 200
    first, second, third = answer.json["predictions"]
    assert (first["path"], first["top"][0]["name"]) == ("a.png", "red")
    assert second["error"].startswith("b.txt: is not a picture")
    assert (third["path"], third["top"][0]["name"]) == ("../../c.png", "blue")


@pytest.mark.parametrize("key", ["images", "instances"])
def test_base64_in_json(start: Start, colors: list[Served], key: str) -> None:
    images = [{"b64": base64.b64encode(encoded(color)).decode()} for color in ("red", "green")]
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = ask(start(), PREDICT, json.dumps({key: images}).encode(), headers)
    assert best(answer) == ["red", "green"]
    assert [each["path"] for each in answer.json["predictions"]] == [f"{key}[0]", f"{key}[1]"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"images": []}',
        b'{"images": [1]}',
        b'{"images": "x"}',
        b'{"images": [{"b64": 1}]}',
        b'{"images": [{"b64": "not base64!"}]}',
        b'{"images": [{"b64": "data:image/png;base64,AAAA"}]}',
        b'{"images": [{"b64": "\xc3\xa4"}]}',
        b'{"images": [{"path": "/etc/passwd"}]}',
        b'{"images": [{"url": "http://169.254.169.254/"}]}',
        b'{"images": [{"b64": "AAAA", "url": "x"}]}',
        b'{"images": [{"b64": "AAAA"}], "instances": [{"b64": "AAAA"}]}',
        b'{"images": [{"b64": "AAAA"}], "top": 3}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_json_that_is_written_wrong(start: Start, colors: list[Served], body: bytes) -> None:
    refused(ask(start(), PREDICT, body, {"Content-Type": "application/json"}), 400, "bad_request")


def test_json_of_large_images_is_read_beside_the_loop(start: Start, colors: list[Served]) -> None:
    noise = np.random.default_rng(1).integers(0, 80, (400, 400, 3), np.uint8)
    noise[..., 2] += 100
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    body = json.dumps({"images": [{"b64": base64.b64encode(file.getvalue()).decode()}]}).encode()
    assert len(body) > 300_000
    assert best(ask(start(), PREDICT, body, {"Content-Type": "application/json"})) == ["blue"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("top=0", "at least 1"),
        ("top=x", "a whole number"),
        ("top=1.5", "a whole number"),
        ("top=", "a whole number"),
        ("top=" + "9" * 5000, "a whole number"),
        ("top=1e3", "a whole number"),
        ("top=1&top=2", "twice"),
        ("tops=1", "there is no option 'tops'"),
        ("score=0.5", "is for detection"),
        ("mask=png", "is for segmentation"),
        ("mask=gif", "png or rle"),
        ("top=%00", "a whole number"),
    ],
)
def test_options_that_are_wrong(start: Start, colors: list[Served], query: str, said: str) -> None:
    refused(ask(start(), f"{PREDICT}?{query}", encoded()), 400, "bad_request", said)


def test_more_names_than_there_are(start: Start, colors: list[Served]) -> None:
    server = start()
    for top in (4, 2**31, 2**63, 10**30):
        (answer,) = ask(server, f"{PREDICT}?top={top}", encoded()).json["predictions"]
        assert len(answer["top"]) == 3


def test_options_of_a_detector(start: Start, colors: list[Served], valid: Callable[..., Any]) -> None:
    server = start("colors=detection")
    (answer,) = valid(ask(server, f"{PREDICT}?limit=1", encoded(size=(200, 100))).body)["predictions"]
    assert (answer["width"], answer["height"]) == (200, 100)
    assert [box["name"] for box in answer["boxes"]] == ["b"]
    assert ask(server, f"{PREDICT}?score=1", encoded()).json["predictions"][0]["boxes"] == []
    assert len(ask(server, f"{PREDICT}?limit={10**30}", encoded()).json["predictions"][0]["boxes"]) >= 1
    for wrong in ("score=nan", "score=inf", "score=-0.1", "iou=2", "limit=0"):
        refused(ask(server, f"{PREDICT}?{wrong}", encoded()), 400, "bad_request")


def test_masks_of_a_segmenter(start: Start, colors: list[Served], valid: Callable[..., Any]) -> None:
    server = start("colors=segmentation")
    plain, png, rle = (
        valid(ask(server, PREDICT + query, encoded(size=(60, 30))).body)["predictions"][0]
        for query in ("", "?mask=png", "?mask=rle")
    )
    assert plain["mask"] is None
    with Image.open(io.BytesIO(base64.b64decode(png["mask"]))) as mask:
        assert (mask.mode, mask.size, set(mask.tobytes())) == ("P", (60, 30), {1})
    (shown,) = rle["classes"]
    assert (shown["name"], shown["rle"]) == ("b", encode(np.ones((30, 60), bool)))


def test_run_lengths_are_cocos() -> None:
    tools = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(3)
    masks = [random.random((height, width)) < share for height, width, share in [(1, 1, 0.0), (1, 1, 1.0), (7, 5, 0.5)]]
    masks += [random.random((200, 300)) < share for share in (0.001, 0.5, 0.999)]
    masks += [np.zeros((3000, 2000), bool), np.ones((3000, 2000), bool), np.indices((900, 1200))[1] > 700]
    for mask in masks:
        expected = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode(mask) == {"size": expected["size"], "counts": expected["counts"].decode()}


def test_an_image_alone_that_cannot_be_read_is_a_bad_request(start: Start, colors: list[Served]) -> None:
    server = start(max_pixels=5000)
    refused(ask(server, PREDICT, b"no image"), 400, "unreadable_image", "image: is not a picture")
    refused(ask(server, PREDICT, b""), 400, "bad_request", "empty")
    refused(ask(server, PREDICT, encoded()[:50]), 400, "unreadable_image")
    large = ask(server, PREDICT, encoded(size=(100, 51)))
    refused(large, 400, "unreadable_image", "is 100 x 51 pixels, and no more than 5,000 are taken")
    assert best(ask(server, PREDICT, encoded(size=(100, 50)))) == ["green"]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/mixed; boundary=x", "video/mp4", "x", "a/b\x80"])
def test_other_bodies_are_refused(start: Start, colors: list[Served], kind: str) -> None:
    refused(ask(start(), PREDICT, encoded(), {"Content-Type": kind}), 415, "unsupported_type")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=" + "x" * 300, b"x"),
        ("multipart/form-data; boundary=xyz", b"not a form"),
        ("multipart/form-data; boundary=xyz", b""),
        ("multipart/form-data; boundary=xyz", b"--xyz--\r\n"),
        ("multipart/form-data; boundary=xyz", form(("a", b"b"))[0][:-10]),
        (
            "multipart/form-data; boundary=xyz",
            b'--xyz\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n--xyz--\r\n',
        ),
        ("multipart/form-data; boundary=xyz", b"--xyz\r\n\r\nx\r\n--xyz--\r\n"),
        ("multipart/form-data; boundary=xyz", b"--xyz\r\n" + b"a: b\r\n" * 1000 + b"\r\nx\r\n--xyz--\r\n"),
        ("multipart/form-data; boundary=xyz", b"--xyz\r\na: " + b"b" * 100_000 + b"\r\n\r\nx\r\n--xyz--\r\n"),
    ],
)
def test_forms_that_are_written_wrong(start: Start, colors: list[Served], content_type: str, body: bytes) -> None:
    refused(ask(start(), PREDICT, body, {"Content-Type": content_type}), 400, "bad_request")


def test_a_form_has_so_many_files_and_no_more(start: Start, colors: list[Served]) -> None:
    server = start()
    body, headers = form(*[("a.png", encoded())] * MAX_IMAGES)
    assert len(best(ask(server, PREDICT, body, headers))) == MAX_IMAGES
    body, headers = form(*[("a.png", b"x")] * 10_000)
    refused(ask(server, PREDICT, body, headers), 400, "too_many_images")


@pytest.mark.parametrize("name", ["", "ä" * 500, "a\tb", "\u202egnp.exe", "x' OR 1=1 --", "<script>"])
def test_odd_names_of_files(start: Start, colors: list[Served], valid: Callable[..., Any], name: str) -> None:
    body, headers = form((name, encoded()))
    (answer,) = valid(ask(start(), PREDICT, body, headers).body)["predictions"]
    assert answer["top"][0]["name"] == "green"
    assert answer["path"]
    assert answer["path"].isprintable()


def test_models_are_listed_and_described(start: Start, valid: Callable[..., Any]) -> None:
    server = start(["mobilenet_v2", "small=shufflenet_v2_x1_0"])
    listed = valid(ask(server, "/v1/models").body)
    assert [model["name"] for model in listed["models"]] == ["mobilenet_v2", "small"]
    described = valid(ask(server, "/v1/models/small").body)
    assert described["spec"]["architecture"] == "shufflenet_v2"
    assert str(EXAMPLES.parent) not in json.dumps([listed, described]), "no path of this machine is told"
    refused(ask(server, "/v1/models/other"), 404, "no_such_model", "there are mobilenet_v2, small")
    refused(ask(server, "/v1/models/other:predict", b"x"), 404, "no_such_model")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/v1/models/", "GET", 404),
        ("/v1/models/a/b", "GET", 404),
        ("/v1/models/..%2f..%2fetc%2fpasswd", "GET", 404),
        ("/v1/models/colors%00", "GET", 404),
        ("/../../etc/passwd", "GET", 404),
        (PREDICT, "GET", 405),
        (PREDICT, "DELETE", 405),
        ("/v1/models", "POST", 405),
        ("/healthz", "PUT", 405),
    ],
)
def test_addresses_and_methods_that_are_not_there(
    start: Start, colors: list[Served], path: str, method: str, status: int
) -> None:
    answer = ask(start(), path, method=method)
    refused(answer, status, "not_found" if status == 404 else "not_allowed")
    assert (status == 405) == ("allow" in answer.headers)


def test_all_codes_are_published() -> None:
    assert sorted(get_args(Code)) == json_schema("refusal")["properties"]["code"]["enum"]


def test_a_model_that_breaks_off_is_told_and_goes_on(start: Start, colors: list[Served]) -> None:
    server = start()
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    refused(ask(server, PREDICT, file.getvalue()), 500, "failed")
    assert best(ask(server, PREDICT, encoded("red"))) == ["red"]


def test_a_full_queue_is_told_before_the_body_is_read(start: Start, colors: list[Served]) -> None:
    server = start(queue_seconds=0.1)
    (model,) = colors
    engine: Any = model.workers[0].engine
    engine.gate.clear()
    model.seconds = 1.0
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(server, PREDICT, encoded()).status)) for _ in range(2)
    ]
    threads[0].start()
    while not engine.batches:  # it is at work
        time.sleep(0.001)
    threads[1].start()

    def is_busy() -> bool:
        return b'busy"' in talk(
            server,
            f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2000000\r\n\r\n".encode(),
            seconds=0.5,
        )

    assert any(is_busy() for _ in range(20))
    refusal = ask(server, PREDICT, encoded())
    refused(refusal, 429, "busy")
    assert int(refusal.headers["retry-after"]) >= 1
    engine.gate.set()
    for thread in threads:
        thread.join()
    assert sorted(answers) in ([200, 200], [200, 429])


def test_names_of_models(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    folder.mkdir()
    file = tmp_path / "a=b.tflite"
    file.touch()
    assert named_models(["mobilenet_v2", "x=shufflenet_v2_x1_0", str(folder), "/models/some.tflite"]) == {
        "mobilenet_v2": "mobilenet_v2",
        "x": "shufflenet_v2_x1_0",
        "birds": str(folder),
        "some": "/models/some.tflite",
    }
    for wrong, said in (
        ([], "name one"),
        (["a", "a"], "two models are called a"),
        (["x="], "names no model"),
        (["a/b=c"], "cannot be a model's name"),
        ([str(file)], "NAME="),
        (["ä=mobilenet_v2"], "cannot be a model's name"),
    ):
        with pytest.raises(UsageError, match=said):
            named_models(wrong)
