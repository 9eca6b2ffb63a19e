"""What a server answers of a calibrated model: the client, the Open Inference Protocol, TorchServe's addresses."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fusiform
from fusiform.certainty import Decision, Threshold
from fusiform.errors import UsageError
from fusiform.serving.models import Served
from fusiform.zoo.model import open_model
from fusiform.zoo.restamp import restamp

from .conftest import ask, encoded
from .test_oip import infer, outputs

Start = Callable[..., fusiform.Server]


def test_the_client_asks_for_a_promise(start: Start, calibrated: Path, noise_and_stripes: Path) -> None:
    client = fusiform.Client(start(str(calibrated)).address)
    for certain in (None, 0.8):
        found = client.predict(noise_and_stripes, certain=certain)
        expected = fusiform.predict(noise_and_stripes, calibrated, certain=certain)
        assert found.to_dict() == expected.to_dict()
        known = [answer.classification.known for answer in found if answer.classification is not None]
        assert known == [True, False]
    with pytest.raises(UsageError, match="images of its calibration can promise"):
        client.predict(noise_and_stripes, certain=0.9999)


def test_models_without_promises_refuse_it(start: Start, colors: list[Served]) -> None:
    with pytest.raises(UsageError, match="certain is for calibrated models"):
        fusiform.Client(start().address).predict(encoded(), certain=0.9)


def test_the_open_inference_protocol_has_outputs_for_it(
    start: Start, calibrated: Path, noise_and_stripes: Path
) -> None:
    server = start(f"sure={calibrated}")
    names = [output["name"] for output in ask(server, "/v2/models/sure").json["outputs"]]
    assert names[3:] == ["set_count", "set_index", "set_label", "known", "p_known"]
    images = sorted(noise_and_stripes.iterdir())
    data = [base64.b64encode(image.read_bytes()).decode() for image in images]
    for certain in (None, 0.9):
        expected = [answer.classification for answer in fusiform.predict(images, calibrated, certain=certain)]
        given: dict[str, Any] = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": data}]}
        if certain is not None:
            given["parameters"] = {"certain": certain, "binary_data_output": True}
        found = outputs(infer(server, given, path="/v2/models/sure/infer"))
        assert list(found) == names
        for k, one in enumerate(expected):
            assert one is not None
            assert one.names is not None
            count = found["set_count"][k]
            assert found["set_label"][k][:count] == [guess.name for guess in one.names]
            assert found["set_index"][k][:count] == [guess.index for guess in one.names]
            assert set(found["set_label"][k][count:]) <= {""}
            assert found["known"][k] == one.known
            assert found["p_known"][k] == pytest.approx(one.p_known)


def test_a_rules_class_is_an_output(start: Start, calibrated: Path, noise_and_stripes: Path, tmp_path: Path) -> None:
    model = open_model(calibrated)
    certainty = model.spec.certainty
    assert certainty is not None
    ruled = dataclasses.replace(certainty, decision=Decision((Threshold(2, 0.9),)))
    file = tmp_path / "ruled.tflite"
    file.write_bytes(restamp(model, model.spec.replace(certainty=ruled)))
    images = sorted(noise_and_stripes.iterdir())
    data = [base64.b64encode(image.read_bytes()).decode() for image in images]
    given = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": data}]}
    server = start(str(file))
    found = outputs(infer(server, given, path="/v2/models/ruled/infer"))
    answers = fusiform.predict(images, file)
    decided = [answer.to_dict()["decided"] for answer in answers]
    assert found["decided"] == [-1 if each is None else each["index"] for each in decided]
    assert fusiform.Client(server.address).predict(images).to_dict() == answers.to_dict()


def test_torchserves_answers_have_no_place_for_it(start: Start, calibrated: Path, noise_and_stripes: Path) -> None:
    server = start(f"sure={calibrated}")
    data = (noise_and_stripes / "noise.png").read_bytes()
    assert ask(server, "/predictions/sure?certain=0.9", data).status == 400
    assert ask(server, "/predictions/sure", data).status == 200
