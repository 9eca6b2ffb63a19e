"""``evaluate --stress``: a classifier that looks at brightness alone, so that it is known what harms it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform import engines
from fusiform.data.corruptions import CORRUPTIONS, FAMILIES, corrupt
from fusiform.data.dataset import DataSet, Sample
from fusiform.errors import UsageError
from fusiform.evaluation import remedies
from fusiform.evaluation.job import evaluate
from fusiform.evaluation.stress import Stress, stress, stress_figures, stress_table
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.training.recipe import Recipe, override
from fusiform.training.recipes import finetune_small
from fusiform.zoo.model import open_model

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "augmentations.json"
SPEC = ModelSpec("mobilenet_v2", 0.35, ("dark", "light"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


class Brightness:
    spec = SPEC

    def run(self, batch):
        light = batch.mean((1, 2, 3)) / 255
        return {self.spec.output: np.stack([1 - light, light], 1).astype(np.float32)}


@pytest.fixture
def model(tmp_path, monkeypatch, lived_in_state):
    path = tmp_path / "brightness.tflite"
    path.write_bytes(to_tflite(build_graph(SPEC, lived_in_state(SPEC))))
    monkeypatch.setattr(engines, "open_engine", lambda *_, **__: Brightness())
    return open_model(path)


@pytest.fixture
def data(tmp_path):
    samples = []
    for k, level in enumerate((20, 90, 100, 180, 220)):
        path = tmp_path / f"{k}.png"
        Image.new("RGB", (32, 32), (level,) * 3).save(path)
        samples.append(Sample(path, int(level > 127)))
    return DataSet(tmp_path, ("dark", "light"), {"val": tuple(samples)})


def test_each_answer_is_that_of_the_corrupted_image(model, data):
    samples = data.splits["val"]
    truth = np.array([sample.label for sample in samples])
    found = stress(model, samples, truth, threads=1)
    assert found.clean.all()
    assert found.right.shape == (15, 5, 5)
    for c, name in enumerate(CORRUPTIONS):
        for strength in (1, 5):
            expected = [
                (corrupt(np.asarray(Image.open(sample.file)), name, strength, seed=i).mean() > 127.5) == sample.label
                for i, sample in enumerate(samples)
            ]
            assert found.right[c, strength - 1].tolist() == expected, (name, strength)
    assert np.array_equal(stress(model, samples, truth, threads=2, batch=3).right, found.right)


def test_brightness_harms_it_and_contrast_does_not(model, data):
    result = evaluate(model, data, stress=True, threads=1)
    rows = {row["corruption"]: row for row in result.to_dict()["stress"]["corruptions"]}
    assert rows["contrast"]["top1"] == 1
    # Images of 90 and 100 are light once 0.2 of 255 is added, one of 20 once it is 0.5.
    assert [rows["brightness"][f"strength_{k}"] for k in (1, 2, 3, 4, 5)] == [1, 0.6, 0.6, 0.6, 0.4]
    assert rows["brightness"]["top1_low"] <= rows["brightness"]["top1"] <= rows["brightness"]["top1_high"]


def test_the_mean_and_its_interval_by_hand():
    right = np.zeros((15, 5, 4), bool)
    right[:, :, 0] = True  # one image is always right, one in a third of the ways
    right[:5, :, 1] = True
    figures = stress_figures(Stress(right, np.array([True, True, True, False]), 1.0))
    assert figures["clean_top1"] == 0.75
    assert figures["corrupted_top1"] == pytest.approx(4 / 3 / 4, rel=1e-5)
    assert figures["mean_corruption_error"] == pytest.approx(2 / 3, rel=1e-5)
    assert figures["retained"] == pytest.approx(4 / 9, rel=1e-5)
    assert figures["corrupted_top1_low"] < 0.2 < 0.5 < figures["corrupted_top1_high"]
    none = stress_figures(Stress(right, np.zeros(4, bool), 1.0))
    assert none["retained"] is None


def test_it_is_in_the_table_the_json_and_the_page(model, data, tmp_path, valid):
    page = tmp_path / "page.html"
    result = evaluate(model, data, stress=True, threads=1, html=page)
    text = result.to_table()
    assert "the mean corruption error is" in text
    assert all(f"\n{name} " in text for name in CORRUPTIONS)
    found = valid(result.to_json())
    assert found["stress"]["images"] == 5
    assert "Corrupted images" in page.read_text("utf-8")
    assert "jpeg compression" in page.read_text("utf-8")
    without = evaluate(model, data, threads=1)
    assert json.loads(without.to_json())["stress"] is None
    assert "corruption" not in without.to_table()


def test_it_is_for_classifiers(model, tmp_path):
    spec = dataclasses.replace(
        SPEC, task="segmentation", output_stride=16, preprocess=dataclasses.replace(SPEC.preprocess, fit="stretch")
    )
    with pytest.raises(UsageError, match="--stress is for a classifier"):
        evaluate(dataclasses.replace(model, spec=spec), tmp_path, stress=True)


def test_what_to_try_is_said_of_the_families_below_the_mean():
    right = np.ones((15, 5, 4), bool)
    ways = list(CORRUPTIONS)
    for family, images in (("blur", 3), ("noise", 2)):
        for name in FAMILIES[family]:
            right[ways.index(name), :, :images] = False
    found = Stress(right, np.ones(4, bool), 1.0)
    assert found.families == {"noise": 0.5, "blur": 0.25, "weather": 1.0, "digital": 1.0}
    first, second = remedies.advice(found.families)
    assert first.startswith("Blur harms it more than other corruptions: 25.0 % are right.")
    assert second.startswith("Noise harms it")
    assert stress_table(found).endswith(f"\n{first}\n\n{second}\n")
    assert remedies.advice(dict.fromkeys(FAMILIES, 0.7)) == []


def test_the_remedies_are_those_of_the_benchmark():
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    assert remedies.BOUGHT.keys() == FAMILIES.keys()
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(CORRUPTIONS)
    for family, bought in remedies.BOUGHT.items():
        best = max((row for row in rows if row["corruptions"] == family), key=lambda row: row["points"])
        if best["points from"] <= 0:
            assert bought is None
            continue
        assert bought is not None
        name = best["augmentation"]
        assert bought.setting == (name if "=" in name else f"augment={name}")
        measured = [best["points"], best["points from"], best["points to"]]
        assert [100 * bought.gain, 100 * bought.low, 100 * bought.high] == pytest.approx(measured)
        Recipe.from_json(override(finetune_small, [bought.setting]).to_json())
