"""What the page says of a calibrated classifier's answers: sets of names and the unknown, as ``predict`` does."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fusiform
from fusiform.calibration import unknown as unknowns
from fusiform.calibration.answer import Reader
from fusiform.calibration.conformal import fit_sets, in_sets, make_table
from fusiform.calibration.decision import decide
from fusiform.certainty import Decision, Threshold
from fusiform.engines import open_engine
from fusiform.exporting.demo.job import page_files
from fusiform.exporting.job import export
from fusiform.exporting.targets import web
from fusiform.prediction.answer import Answer
from fusiform.prediction.formats import promise
from fusiform.tasks.classification import Classification, Guess, guesses, to_probabilities
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, browsing, serving
from node import run_tests

sys.path.pop(0)

pytestmark = pytest.mark.usefixtures("unpacked_once")
needs_browser = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive")
SHARES = (0.05, 0.5, 0.8, 0.9, 0.95, 0.975, 0.99)
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
CATCH = "navigator.clipboard.writeText = async (text) => { window.copied = text; };"


def tables():
    random = np.random.default_rng(0)
    for count in (1, 2, 19, 150, 3000):
        values = random.random(count).round(3)  # some are equal
        table = make_table(values)
        asked = [*values[:20], *table.values[-20:], -1.0, 2.0, *random.random(20)]
        yield {
            "table": dataclasses.asdict(table),
            "thresholds": [{"share": share, "expected": table.threshold(share)} for share in SHARES],
            "values": [{"score": float(score), "expected": table.p_value(float(score))} for score in asked],
        }


def sets():
    random = np.random.default_rng(1)
    for classes in (2, 3, 12, 200):
        # Few levels, of which many are equal, as of quantised networks.
        probabilities = random.dirichlet(np.full(classes, 0.3), 400).astype(np.float32).round(2)
        truth = np.array([random.choice(classes, p=row / row.sum()) for row in probabilities.astype(float)])
        for score in ("lac", "aps", "raps"):
            for per_class in (False, True):
                made = fit_sets(probabilities, truth, score=score, per_class=per_class, coverage=0.9)
                if per_class:  # the promise to a class is kept with a table of its own, or with that of all
                    assert {table.count for table in made.classes} != {made.table.count} or classes > 12
                for share in SHARES:
                    some = probabilities[:: max(1, classes // 3)][:40].astype(np.float64)
                    inside = in_sets(some, made, share)
                    order = np.argsort(-some, axis=1, kind="stable")
                    yield {
                        "name": f"{score} of {classes} classes for {share}",
                        "sets": dataclasses.asdict(made),
                        "share": share,
                        "most": made.most,
                        "probabilities": some.tolist(),
                        "expected": [row[chosen[row]].tolist() for row, chosen in zip(order, inside, strict=True)],
                    }


def detectors(monkeypatch):
    random = np.random.default_rng(2)
    means = random.normal(size=(4, 30))
    truth = np.arange(160) % 4
    features = np.maximum(means[truth] + 0.4 * random.normal(size=(160, 30)), 0).astype(np.float32)
    weight, bias = means.astype(np.float32), random.normal(size=4).astype(np.float32)
    others = np.concatenate([features[:20], 3 * random.random((20, 30)), np.zeros((1, 30))]).astype(np.float32)
    for kinds in (*({kind: 1.0} for kind in unknowns.EVIDENCE), unknowns.CANDIDATES["all"]):
        monkeypatch.setattr(unknowns, "CANDIDATES", {"all": kinds})
        found = unknowns.fit_unknown(features, truth, weight, bias)
        assert {part.evidence for part in found.unknown.parts} == set(kinds)
        yield {
            "unknown": dataclasses.asdict(found.unknown),
            "features": others.tolist(),
            "expected": unknowns.Detector.of(found.unknown).scores(others).tolist(),
        }


def answers(model):
    spec = model.spec
    random = np.random.default_rng(3)
    said = open_engine(model, features=True).run(random.integers(0, 256, (12, 32, 32, 3), np.uint8))
    bare = spec.replace(certainty=dataclasses.replace(spec.certainty, unknown=None))
    for one, features in (
        (spec, said["features"]),
        (spec.replace(temperature=3.5), said["features"]),
        (spec, None),  # of a page that was exported without them
        (bare, said["features"]),
        (spec.replace(certainty=None), None),
    ):
        probabilities = to_probabilities(said["logits"], one)
        for share in (0.5, 0.95):
            found = None if one.certainty is None else Reader(one.certainty).read(probabilities, features, share)
            for k, row in enumerate(probabilities):
                record = {
                    "spec": json.loads(one.to_json()),
                    "logits": said["logits"][k].tolist(),
                    "features": None if features is None else features[k].tolist(),
                    "share": share,
                }
                if found is not None:
                    named = guesses(row, one, found.sets[k])
                    told = Classification("", named[:1], named, found.p_known[k], share)
                    record["set"] = [dataclasses.asdict(guess) for guess in named]
                    record |= {"known": told.known, "p_known": told.p_known}
                yield record


def as_rows(costs):
    return tuple(map(tuple, costs.tolist()))


def decisions():
    """Few levels, so that many probabilities and costs are equal."""
    random = np.random.default_rng(4)
    for classes in (2, 3, 7):
        probabilities = random.dirichlet(np.full(classes, 0.5), 200).round(1)
        probabilities /= probabilities.sum(1, keepdims=True)
        last, costs = classes - 1, random.integers(0, 4, (classes, classes)) * (1 - np.eye(classes))
        for name, decision in {
            "given": Decision((Threshold(last, 0.2),)),
            "given and chosen": Decision((Threshold(last, 0.3), Threshold(0, 0.6, 0.9))),
            "several given": Decision(tuple(Threshold(k, 0.3) for k in reversed(range(classes)))),
            "chosen": Decision((Threshold(0, 0.7, 0.95),)),
            "costs": Decision(costs=as_rows(costs)),
            "costs of no class": Decision(costs=as_rows(np.append(1 - np.eye(classes), np.full((classes, 1), 0.4), 1))),
        }.items():
            yield {
                "name": f"{name} of {classes}",
                "decision": dataclasses.asdict(decision),
                "probabilities": probabilities.tolist(),
                "expected": decide(probabilities, decision).tolist(),
            }


def words():
    for count in range(1, 9):
        named = tuple(Guess(k, f"class {k}", 0.5 / (k + 1)) for k in range(count))
        for p_known in (None, 0.01, 0.9):
            found = Classification("a.jpg", named[:1], named, p_known, 0.95)
            names = [guess.name for guess in named]
            yield {"names": names, "known": found.known, "said": promise(Answer("a.jpg", found))}
            other = Guess(9, "class 9", 0.01)
            for rule, decided in (("thresholds", None), ("costs", other)):
                ruled = dataclasses.replace(found, top=(decided or named[0],), rule=rule, decided=decided)
                told = None if decided is None else {"index": decided.index, "name": decided.name}
                said = promise(Answer("a.jpg", ruled))
                yield {"names": names, "known": found.known, "rule": rule, "decided": told, "said": said}


@pytest.fixture(scope="module")
def model(calibrated):
    return open_model(calibrated)


def test_promises_are_kept_as_in_python(model, tmp_path, monkeypatch):
    vectors = {
        "tables": list(tables()),
        "sets": list(sets()),
        "answers": list(answers(model)),
        "words": list(words()),
        "decisions": list(decisions()),
        "detectors": list(detectors(monkeypatch)),
    }
    (tmp_path / "certainty.json").write_text(json.dumps(vectors), encoding="utf-8")
    assert run_tests("web_certainty.test.mjs", tmp_path) == 6


def test_a_calibrated_models_page_answers_features(model, tmp_path):
    (written,) = web.write(model.graph(), "float32", tmp_path)
    assert written.path.name == "mobilenet_v2_x0_5_float32_web"  # as that of a model without promises
    described = json.loads((written.path / "model.json").read_text(encoding="utf-8"))
    assert described["answers"] == ["logits", "features"]
    assert described["spec"]["certainty"] == json.loads(model.spec.to_json())["certainty"]
    assert open_model(written.path).spec == model.spec.replace(features=True)
    files = page_files(model, None, lambda _: None, level=1)
    assert json.loads(files["model.json"])["answers"] == described["answers"]
    # Sets alone need none.
    alone = model.spec.replace(certainty=dataclasses.replace(model.spec.certainty, unknown=None))
    graph = dataclasses.replace(model.graph(), spec=alone)
    (written,) = web.write(graph, "float32", tmp_path)
    assert json.loads((written.path / "model.json").read_text(encoding="utf-8"))["answers"] == ["logits"]


def test_its_features_are_verified(model, tmp_path):
    pytest.importorskip("torch")
    (row,) = export(model, "web", tmp_path, golden=1).rows
    assert row["passed"]
    assert row["features_cosine"] == pytest.approx(1, abs=1e-5)


def text_of(browser, name):
    return browser.evaluate(f"document.getElementById('{name}').textContent")


def show(browser, path):
    browser.evaluate("document.body.dataset.state = 'asked'")
    browser.choose("#file", path)
    assert browser.wait("/answered|failed/.exec(document.body.dataset.state)?.[0]") == "answered"


def record_of(browser):
    browser.evaluate("document.getElementById('done').textContent = ''")
    browser.evaluate("document.getElementById('copy').click()")
    browser.wait("document.getElementById('done').textContent")
    return json.loads(browser.evaluate("window.copied"))["predictions"][0]


def hold(found, expected):
    """A record of the page against that of Python: p-values may be a step apart, where a score is at one's edge."""
    assert list(found) == list(expected)
    assert [guess["name"] for guess in found["set"]] == [guess["name"] for guess in expected["set"]]
    for one, other in zip(found["set"], expected["set"], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
    assert (found["known"], found["certain"]) == (expected["known"], expected["certain"])
    assert found["p_known"] == pytest.approx(expected["p_known"], abs=1.01 / 151)


def choose_share(browser, share):
    browser.evaluate(
        f"(() => {{ const select = document.getElementById('certain-share'); select.value = '{share}';"
        " select.dispatchEvent(new Event('change')); })()"
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile"), *CAMERA) as opened:
        opened.preload(CATCH)
        yield opened


@needs_browser
def test_the_page_says_what_predict_does(model, noise_and_stripes, tmp_path, browser):
    (written,) = web.write(model.graph(), "float32", tmp_path)
    with serving(written.path) as server:
        browser.open(server.address)
        browser.wait("document.body.dataset.state === 'ready'")
        offered = browser.evaluate("[...document.getElementById('certain-share').options].map((o) => o.textContent)")
        assert offered == ["80%", "90%", "95%", "99%"]
        assert browser.evaluate("document.getElementById('certain-share').value") == "0.95"
        for name in ("noise.png", "stripes.png"):
            show(browser, noise_and_stripes / name)
            for share in (0.95, 0.99, 0.8, 0.95):
                choose_share(browser, share)
                (found,) = fusiform.predict(noise_and_stripes / name, model, certain=share)
                browser.wait(f"document.getElementById('best').textContent === {json.dumps(promise(found))}")
                hold(record_of(browser), {**found.to_dict(), "path": name})
            assert promise(found) in text_of(browser, "status")
            shown = float(text_of(browser, "p-known").split("%")[0].split()[-1]) / 100
            assert shown == pytest.approx(found.classification.p_known, abs=1.1 / 151)
        assert text_of(browser, "best").startswith("unknown, nearest: ")
        browser.evaluate("document.getElementById('camera').click()")
        said = browser.wait("document.querySelector('.promised')?.textContent")
        assert re.match("(sure|unsure|unknown, nearest): ", said)
        choose_share(browser, 0.99)  # of what moves too
        assert browser.wait("document.querySelector('.promised')?.textContent")
        browser.evaluate("document.getElementById('camera').click()")
        assert browser.problems == []


@needs_browser
def test_the_page_decides_by_the_models_rule(model, noise_and_stripes, tmp_path, browser):
    (first,) = fusiform.predict(noise_and_stripes / "noise.png", model)[0].top[:1]
    other = (first.index + 1) % 3
    for decision in (Decision((Threshold(other, 1e-9),)), Decision((Threshold(first.index, 1.0, 0.9),))):
        ruled = dataclasses.replace(model.spec.certainty, decision=decision)
        graph = dataclasses.replace(model.graph(), spec=model.spec.replace(certainty=ruled))
        (written,) = web.write(graph, "float32", tmp_path)
        with serving(written.path) as server:
            browser.open(server.address)
            browser.wait("document.body.dataset.state === 'ready'")
            show(browser, noise_and_stripes / "noise.png")
            (found,) = fusiform.predict(noise_and_stripes / "noise.png", written.path)
            assert text_of(browser, "best") == promise(found)
            expected, record = {**found.to_dict(), "path": "noise.png"}, record_of(browser)
            hold(record, expected)
            assert (record["rule"], record["decided"]) == ("thresholds", expected["decided"])
            assert [each["index"] for each in record["top"]] == [each["index"] for each in expected["top"]]


@needs_browser
def test_a_model_without_promises_has_no_choice(model, tmp_path, browser):
    graph = dataclasses.replace(model.graph(), spec=model.spec.replace(certainty=None))
    (written,) = web.write(graph, "float32", tmp_path)
    with serving(written.path) as server:
        browser.open(server.address)
        browser.wait("document.body.dataset.state === 'ready'")
        assert browser.evaluate("document.getElementById('certain').hidden")
