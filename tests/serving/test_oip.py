"""The Open Inference Protocol: plain JSON, binary tensors, and Triton's own client where it is installed."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusiform
from fusiform.serving.models import Served
from fusiform.serving.protocols import tensors
from fusiform.serving.refusals import Refusal

from .conftest import COLORS, Answer, ask, encoded, port_of

Start = Callable[..., fusiform.Server]
EXAMPLES = Path(__file__).parents[2] / "examples"
INFER = "/v2/models/colors/infer"
JSON = {"Content-Type": "application/json"}


def infer(server: fusiform.Server, request: dict[str, Any], binary: bytes | None = None, path: str = INFER) -> Answer:
    text = json.dumps(request).encode()
    headers = JSON if binary is None else {tensors.LENGTH_HEADER: str(len(text))}
    return ask(server, path, text + (binary or b""), headers)


def outputs(answer: Answer) -> dict[str, Any]:
    """The values of each output, from JSON or behind it."""
    assert answer.status == 200, answer.body
    length = int(answer.headers.get(tensors.LENGTH_HEADER.lower(), len(answer.body)))
    found, rest = json.loads(answer.body[:length]), answer.body[length:]
    values: dict[str, Any] = {}
    for output in found["outputs"]:
        kinds = {"FP32": "<f4", "INT64": "<i8", "UINT8": "<u1"}
        data = output.get("data")
        if data is None:
            size = output["parameters"]["binary_data_size"]
            piece, rest = rest[:size], rest[size:]
            if output["datatype"] == "BYTES":
                data = []
                while piece:
                    (count,) = struct.unpack_from("<I", piece)
                    data.append(piece[4 : 4 + count].decode())
                    piece = piece[4 + count :]
            else:
                data = np.frombuffer(piece, kinds[output["datatype"]]).tolist()
        assert len(data) == np.prod(output["shape"])
        values[output["name"]] = np.reshape(data, output["shape"]).tolist()
    assert not rest
    return values


def tensor(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", **fields}]}


def test_what_the_server_says(start: Start, colors: list[Served]) -> None:
    server = start(["colors=colors", "boxes=detection", "pixels=segmentation"])
    assert ask(server, "/v2").json["extensions"] == ["binary_tensor_data"]
    assert ask(server, "/v2/health/live").status == ask(server, "/v2/health/ready").status == 200
    assert ask(server, "/v2/models/colors/ready").json == {"name": "colors", "ready": True}
    assert ask(server, "/v2/models/other/ready").status == 404
    for name, first in (("colors", "probability"), ("boxes", "count"), ("pixels", "classes")):
        found = ask(server, f"/v2/models/{name}").json
        assert found["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert found["outputs"][0]["name"] == first


def test_encoded_images_in_json(start: Start, colors: list[Served]) -> None:
    images = [base64.b64encode(encoded(color)).decode() for color in ("red", "blue")]
    request = {**tensor(datatype="BYTES", shape=[2], data=images), "id": "a\ud800", "parameters": {"top": 2}}
    answer = infer(start(), request)
    assert (answer.json["model_name"], answer.json["id"]) == ("colors", "a\ud800")
    found = outputs(answer)
    assert [names[0] for names in found["label"]] == ["red", "blue"]
    assert [index[0] for index in found["index"]] == [0, 2]
    assert np.shape(found["probability"]) == (2, 2)


@pytest.mark.parametrize("shape", [[2], [2, 1], [1, 2]])
def test_encoded_images_as_binary_data(start: Start, colors: list[Served], shape: list[int]) -> None:
    images = [encoded("red"), encoded("blue")]
    data = b"".join(struct.pack("<I", len(image)) + image for image in images)
    request = tensor(datatype="BYTES", shape=shape, parameters={"binary_data_size": len(data)})
    answer = infer(start(), {**request, "parameters": {"binary_data_output": True}}, data)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert [names[0] for names in outputs(answer)["label"]] == ["red", "blue"]


def test_pixels(start: Start, colors: list[Served]) -> None:
    server = start()
    pixels = np.zeros((2, 20, 30, 3), np.uint8)
    pixels[0], pixels[1] = COLORS["green"], COLORS["blue"]
    data = pixels.tobytes()
    request = tensor(datatype="UINT8", shape=[2, 20, 30, 3], parameters={"binary_data_size": len(data)})
    wanted = {"outputs": [{"name": "label", "parameters": {"binary_data": False}}, {"name": "index"}]}
    answer = infer(server, {**request, **wanted}, data)
    assert list(outputs(answer)) == ["label", "index"]
    assert [names[0] for names in outputs(answer)["label"]] == ["green", "blue"]
    for nested in (pixels[0].tolist(), pixels[0].ravel().tolist()):
        request = tensor(datatype="UINT8", shape=[20, 30, 3], data=nested)
        assert outputs(infer(server, request))["label"][0][0] == "green"


def test_pixels_are_answered_as_predict_answers_an_array(start: Start) -> None:
    from PIL import Image

    with Image.open(EXAMPLES / "cat.jpg") as image:
        pixels = np.array(image.convert("RGB"))
    request = tensor(datatype="UINT8", shape=list(pixels.shape), parameters={"binary_data_size": pixels.size})
    found = outputs(infer(start("mobilenet_v2"), request, pixels.tobytes(), "/v2/models/mobilenet_v2/infer"))
    expected = fusiform.predict(pixels)[0].top
    assert found["label"] == [[guess.name for guess in expected]]
    assert np.allclose(found["probability"][0], [guess.probability for guess in expected])


def test_boxes_and_masks(start: Start, colors: list[Served]) -> None:
    server = start(["boxes=detection", "pixels=segmentation"])
    image = [base64.b64encode(encoded(size=(60, 30))).decode()]
    request = tensor(datatype="BYTES", shape=[1], data=image)
    found = outputs(infer(server, {**request, "parameters": {"limit": 1}}, path="/v2/models/boxes/infer"))
    assert found["count"] == [1]
    assert found["label"] == [["b"]]
    assert np.shape(found["box"]) == (1, 1, 4)
    none = outputs(infer(server, {**request, "parameters": {"score": 1}}, path="/v2/models/boxes/infer"))
    assert none["count"] == [0]
    binary = {**request, "parameters": {"binary_data_output": True}}
    mask = outputs(infer(server, binary, path="/v2/models/pixels/infer"))["classes"]
    assert np.array_equal(mask, np.ones((1, 30, 60)))
    two = tensor(datatype="BYTES", shape=[2], data=[*image, base64.b64encode(encoded()).decode()])
    assert infer(server, two, path="/v2/models/pixels/infer").status == 400


PNG = base64.b64encode(encoded()).decode()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": [1]}, "inputs"),
        (tensor(), "datatype"),
        (tensor(datatype="BYTES", data=[PNG]), "shape"),
        (tensor(datatype="BYTES", shape=[True], data=[PNG]), "shape"),
        (tensor(datatype="BYTES", shape=[0], data=[]), "shape"),
        (tensor(datatype="BYTES", shape=[-1], data=[PNG]), "shape"),
        (tensor(datatype="BYTES", shape=[1] * 9, data=[PNG]), "shape"),
        (tensor(datatype="BYTES", shape=[2], data=[PNG]), "elements"),
        (tensor(datatype="BYTES", shape=[10**18], data=[PNG]), "images"),
        (tensor(datatype="BYTES", shape=[1], data=PNG), "list"),
        (tensor(datatype="BYTES", shape=[1], data=["?"]), "base64"),
        (tensor(datatype="BYTES", shape=[1], data=[[PNG], PNG]), "nested"),
        (tensor(datatype="BYTES", shape=[1]), "either data"),
        (tensor(datatype="BYTES", shape=[1], data=[PNG], parameters={"binary_data_size": 0}), "either data"),
        (tensor(datatype="BYTES", shape=[1], parameters={"binary_data_size": 5}), "binary_data_size"),
        (tensor(datatype="FP32", shape=[1, 2, 2, 3], data=[0.5] * 12), "BYTES"),
        (tensor(datatype="UINT8", shape=[1, 2, 2, 3], data=[0.5] * 12), "whole numbers"),
        (tensor(datatype="UINT8", shape=[1, 2, 2, 3], data=[256] * 12), "whole numbers"),
        (tensor(datatype="UINT8", shape=[1, 3, 2, 2], data=[1] * 12), "height, width, 3"),
        (tensor(datatype="UINT8", shape=[1, 2, 2, 3], data=[1] * 11), "values"),
        ({**tensor(datatype="BYTES", shape=[1], data=[PNG]), "outputs": [{"name": "x"}]}, "no output"),
        ({**tensor(datatype="BYTES", shape=[1], data=[PNG]), "parameters": {"tops": 1}}, "no parameter"),
        ({**tensor(datatype="BYTES", shape=[1], data=[PNG]), "parameters": {"top": "x"}}, "top must be"),
        ({**tensor(datatype="BYTES", shape=[1], data=[PNG]), "parameters": {"top": 1.5}}, "top must be"),
        ({**tensor(datatype="BYTES", shape=[1], data=[PNG]), "parameters": {"top": True}}, "top must be"),
        ({**tensor(datatype="BYTES", shape=[1], data=[PNG]), "parameters": {"top": [1]}}, "top must be"),
        ({**tensor(datatype="BYTES", shape=[1], data=[PNG]), "parameters": []}, "parameters"),
        ({**tensor(datatype="BYTES", shape=[1], data=[PNG]), "id": 3}, "id"),
        ({"inputs": [tensor(datatype="BYTES", shape=[1], data=[PNG])["inputs"][0]] * 2}, "one input"),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [PNG]}]}, "one input"),
    ],
)
def test_requests_that_are_written_wrong(
    start: Start, colors: list[Served], request_: dict[str, Any], said: str
) -> None:
    answer = infer(start(), request_)
    assert answer.status == 400, answer.body
    assert said in answer.json["error"]


@pytest.mark.parametrize("length", ["x", "-1", "", "99999999999", "9" * 5000, "1_0", "1.0", "\u0664"])
def test_lengths_of_the_header_that_are_wrong(start: Start, colors: list[Served], length: str) -> None:
    server = start()
    try:
        answer = ask(server, INFER, b"{}", {tensors.LENGTH_HEADER: length})
    except UnicodeEncodeError:  # which no client can send
        return
    assert answer.status == 400


def unless_refused(read: Callable[[], Any]) -> Any:
    """What ``read`` gives, or None where it refuses; anything else that it raises is a fault."""
    try:
        return read()
    except Refusal as refusal:
        return None if refusal.status == 400 else refusal


@given(
    body=st.binary(max_size=200),
    length=st.one_of(st.none(), st.text(max_size=6), st.integers(-5, 300).map(str)),
)
def test_any_bytes_are_a_request_or_refused(body: bytes, length: str | None) -> None:
    asked = unless_refused(lambda: tensors.read_request(body, length))
    assert asked is None or asked.inputs


@given(
    images=st.lists(st.binary(max_size=30), min_size=1, max_size=8),
    cut=st.integers(0, 40),
    more=st.binary(max_size=8),
    change=st.integers(-2, 2),
)
def test_byte_strings_are_read_whole_or_refused(images: list[bytes], cut: int, more: bytes, change: int) -> None:
    whole = b"".join(struct.pack("<I", len(image)) + image for image in images)
    data = whole[: max(0, len(whole) - cut)] + more
    head = tensor(datatype="BYTES", shape=[max(1, len(images) + change)], parameters={"binary_data_size": len(data)})
    text = json.dumps(head).encode()
    asked = tensors.read_request(text + data, str(len(text)))
    found = unless_refused(lambda: tensors.byte_strings(asked.inputs[0]))
    if found is None:
        assert data != whole or change != 0
    else:
        assert b"".join(struct.pack("<I", len(image)) + image for image in found) == data
        assert len(found) == asked.inputs[0].shape[0]


@given(st.recursive(st.integers() | st.text(max_size=3) | st.none() | st.floats(), lambda v: st.lists(v, max_size=4)))
def test_any_data_is_pixels_or_refused(data: Any) -> None:
    given_ = tensors.Tensor("image", "UINT8", (1, 1, 3), data if isinstance(data, list) else [data])
    found = unless_refused(lambda: tensors.pixels(given_))
    assert found is None or [image.shape for image in found] == [(1, 1, 3)]


def test_tritons_client(start: Start) -> None:
    client = pytest.importorskip("tritonclient.http")
    server = start("mobilenet_v2")
    photo = (EXAMPLES / "cat.jpg").read_bytes()
    expected = [guess.name for guess in fusiform.predict(photo)[0].top]
    with client.InferenceServerClient(f"127.0.0.1:{port_of(server)}") as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("mobilenet_v2")
        assert triton.get_model_metadata("mobilenet_v2")["name"] == "mobilenet_v2"
        for binary in (True, False):
            images = client.InferInput("image", [1], "BYTES")
            sent = photo if binary else base64.b64encode(photo)
            images.set_data_from_numpy(np.array([sent], dtype=np.object_), binary_data=binary)
            answer = triton.infer("mobilenet_v2", [images], request_id="7")
            assert [name.decode() for name in answer.as_numpy("label")[0]] == expected
            assert answer.get_response()["id"] == "7"
        from PIL import Image

        with Image.open(EXAMPLES / "cat.jpg") as image:
            pixels = np.array(image.convert("RGB"))[None]
        tensor_ = client.InferInput("image", list(pixels.shape), "UINT8")
        tensor_.set_data_from_numpy(pixels)
        wanted = [client.InferRequestedOutput("label"), client.InferRequestedOutput("probability", binary_data=False)]
        answer = triton.infer("mobilenet_v2", [tensor_], outputs=wanted)
        assert answer.as_numpy("label")[0].astype(str).tolist() == expected
        assert answer.as_numpy("probability").shape == (1, 5)
        with pytest.raises(Exception, match="there is no model x"):
            triton.get_model_metadata("x")
