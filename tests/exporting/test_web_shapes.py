"""A detector and a segmenter that learned shapes: the page finds what Python finds with the same file."""

from __future__ import annotations

import dataclasses
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import fusiform
from fusiform.exporting.job import export
from fusiform.training.job import train
from fusiform.training.recipes import DEFAULTS, RECIPES

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, browsing, serving
from page import Page, mask_of

sys.path.pop(0)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive"),
]

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_shapes.py"
# As short as leaves something to be found.
LEARNED = {"detection": {"epochs": 12, "size": 160}, "segmentation": {"epochs": 14, "size": 129}}
PRECISIONS = ("float32", "float16", "int8")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory, shared_data):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make = runpy.run_path(str(SCRIPT))["main"]
    make(["--out", str(folder), "--count", "250", "--photographs", str(shared_data / "imagenet_train_samples")])
    return folder


@pytest.fixture(scope="module")
def sites(tmp_path_factory, shapes):
    """A function that gives the folders of a task's pages by their precision, trained and exported when first asked."""
    made = {}

    def of(task):
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            numbers = LEARNED[task]
            recipe = dataclasses.replace(
                RECIPES[DEFAULTS[task]],
                epochs=numbers["epochs"],
                size=numbers["size"],
                eval_size=numbers["size"],
                cache="memory",
            )
            run = train(shapes, folder / "run", model="mobilenet_v2", recipe=recipe, threads=2)
            least = {"detection": "map50", "segmentation": "miou"}[task]
            assert float(run.figures[least]) > 0.2  # it has learned something
            made[task] = {}
            for precision in PRECISIONS:
                export(folder / "run", "web", folder / precision, precision=precision)
                (made[task][precision],) = (folder / precision).glob("*_web")
        return made[task]

    return of


@pytest.fixture
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def pictures(shapes, count):
    held_out = (shapes / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:count]
    paths = [next((shapes / "JPEGImages").glob(f"{name}.*")) for name in held_out]
    assert len(paths) == count
    return paths


def check_boxes(told, expected, path):
    """The same objects in the same order; of equal scores in any."""
    assert len(told["boxes"]) == len(expected), path
    left = list(expected)
    for ours in told["boxes"]:
        best = max((box for box in left if box.name == ours["name"]), key=lambda box: iou(ours, box), default=None)
        assert best is not None, (path, ours)
        left.remove(best)
        assert iou(ours, best) >= 0.99, (path, ours, best)
        assert abs(ours["score"] - best.score) <= 1e-3, (path, ours, best)
    scores = [box["score"] for box in told["boxes"]]
    assert scores == sorted(scores, reverse=True)


def iou(ours, box):
    across = min(ours["right"], box.right) - max(ours["left"], box.left)
    down = min(ours["bottom"], box.bottom) - max(ours["top"], box.top)
    shared = max(across, 0) * max(down, 0)
    areas = [
        (right - left) * (bottom - top)
        for left, top, right, bottom in (
            [ours[edge] for edge in ("left", "top", "right", "bottom")],
            (box.left, box.top, box.right, box.bottom),
        )
    ]
    return shared / (sum(areas) - shared)


def check_again(browser, server, path, before):
    """The page loaded again answers as before, but for the times."""
    after = Page(browser, server.address).answer(path)
    assert {**after, "milliseconds": None} == {**before, "milliseconds": None}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_boxes_are_those_of_python(precision, sites, shapes, browser):
    site = sites("detection")[precision]
    paths = pictures(shapes, 50)
    with serving(site) as server:
        page = Page(browser, server.address)
        found = 0
        for path in paths:
            expected = fusiform.predict(path, model=site)[0].detections.boxes
            told = page.answer(path)
            check_boxes(told, expected, path)
            found += len(expected)
        assert found > 50
        assert browser.problems == []
    check_again(browser, server, path, told)  # where nobody answers any more


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pixels_are_those_of_python(precision, sites, shapes, browser):
    site = sites("segmentation")[precision]
    with serving(site) as server:
        page = Page(browser, server.address)
        seen = set()
        for path in pictures(shapes, 20):
            expected = fusiform.predict(path, model=site)[0].segmentation.classes
            told = page.answer(path)
            mask = mask_of(told)
            assert mask.shape == expected.shape
            assert (mask == expected).mean() >= 0.999, path
            seen |= set(np.unique(expected))
        assert len(seen) > 2
        assert browser.problems == []
    check_again(browser, server, path, told)
