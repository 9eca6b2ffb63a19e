"""A server answers by the rule of its model, and the client says so."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import fusiform
from fusiform.certainty import Certainty, Decision, Sets, Table, Threshold
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite

from .conftest import ask

SETS = Sets("lac", Table(9, tuple(range(1, 10)), tuple(k / 10 for k in range(1, 10))), 0.8)


def test_it_answers_by_the_rule(
    tmp_path: Path,
    start: Callable[..., fusiform.Server],
    small_spec: Callable[..., Any],
    lived_in_state: Callable[..., Any],
    valid: Callable[..., Any],
) -> None:
    spec = small_spec("mobilenet_v2", classes=3)
    state = lived_in_state(spec)
    state["classifier.1.bias"] = state["classifier.1.bias"] + np.array([2, 1, -3], np.float32)
    rules = {
        "priced": Decision(costs=((0, 1, 1), (1, 0, 1), (10_000, 10_000, 0))),
        "strict": Decision(tuple(Threshold(k, 1.0, 0.9) for k in range(3))),
    }
    for name, decision in rules.items():
        ruled = spec.replace(certainty=Certainty(SETS, None, 9, "noise", decision=decision))
        (tmp_path / f"{name}.tflite").write_bytes(to_tflite(build_graph(ruled, state)))
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)).save(data, "PNG")
    server = start([f"{name}={tmp_path / name}.tflite" for name in rules])
    said = {}
    for name in rules:
        answered = ask(server, f"/v1/models/{name}:predict", data.getvalue(), {"Content-Type": "image/png"})
        said[name] = valid(answered.body)
        assert valid(ask(server, f"/v1/models/{name}").body)["spec"]["certainty"]["decision"]
        (here,) = fusiform.predict(data.getvalue(), tmp_path / f"{name}.tflite")
        assert said[name]["predictions"][0]["decided"] == here.to_dict()["decided"]
        with fusiform.Client(server.address) as client:
            (there,) = client.predict(data.getvalue(), name)
        assert there.classification is not None
        assert here.classification is not None
        assert there.classification.rule == here.classification.rule == rules[name].rule
        assert (there.classification.decided is None) == (here.classification.decided is None)
        assert [guess.index for guess in there.top] == [guess.index for guess in here.top]
    assert said["priced"]["predictions"][0]["top"][0]["index"] == 2
    assert said["strict"]["predictions"][0]["decided"] is None
    # TorchServe's answer has the names alone, the rule's first.
    torchserve = ask(server, "/predictions/priced", data.getvalue(), {"Content-Type": "image/png"}).json
    assert next(iter(torchserve)) == "class 2"
