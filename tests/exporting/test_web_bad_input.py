"""Whatever file is chosen: the page answers as Python does, or says in a sentence why not, and answers the next one."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fusiform
from fusiform.data.image import read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.errors import ImageError
from fusiform.exporting.targets.web import write
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, browsing, serving
from firefox import FIREFOX, browsing_firefox
from page import Page, crop_of
from pictures import EXAMPLES, make_pictures

sys.path.pop(0)

BROWSERS = {
    "chromium": (CHROMIUM if os.name == "posix" else None, browsing),
    "firefox": (FIREFOX if os.name == "posix" else None, browsing_firefox),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of pictures, and the reasons or formats by name."""
    folder = tmp_path_factory.mktemp("pictures")
    return folder, make_pictures(folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return write(open_model("shufflenet_v2_x1_0").graph(), "int8", tmp_path_factory.mktemp("site"))[0].path


@pytest.fixture(scope="module", params=list(BROWSERS))
def page(request, site, tmp_path_factory):
    program, opened = BROWSERS[request.param]
    if program is None:
        pytest.skip(f"there is no {request.param} to drive")
    with opened(tmp_path_factory.mktemp("profile")) as browser, serving(site) as server:
        yield Page(browser, server.address)


def compare(page, site, paths, most):
    """Each picture's crop as Python's but for so many grey levels, its size as Python's, and the same answer."""
    preprocess = open_model(site).spec.preprocess
    for path in paths:
        told = page.answer(path)
        expected = read_image(path)
        assert (told["size"]["width"], told["size"]["height"]) == expected.size, path
        difference = np.abs(crop_of(told, preprocess.crop).astype(int) - crop_pixels(expected, preprocess))
        assert difference.max() <= most, (path, difference.max(), difference.mean())
        if most == 0:
            guesses = fusiform.predict(path, model=site)[0].top
            assert [guess["name"] for guess in told["guesses"]] == [guess.name for guess in guesses], path


def test_pictures_of_every_kind_are_read_as_in_python(made, page, site):
    paths = sorted((made[0] / "same").iterdir())
    assert len(paths) > 50
    compare(page, site, paths, 0)


def test_wide_gamut_and_transparency_but_for_rounding(made, page, site):
    """One grey level where colours are converted or mixed with white, two where sixteen bits are."""
    paths = sorted((made[0] / "close").iterdir())
    compare(page, site, [path for path in paths if "sixteen" not in path.name], 1)
    compare(page, site, [path for path in paths if "sixteen" in path.name], 2)


def test_what_cannot_be_read_is_said_in_a_sentence_and_the_next_picture_works(made, page, site):
    folder, reasons = made
    for path in sorted((folder / "refused").iterdir()):
        with pytest.raises(ImageError):
            read_image(path)
        told = page.tell(path)
        assert told["error"]["reason"] == reasons[path.name], (path, told)
        assert re.fullmatch(r"(is|cannot) [^.]+", told["error"]["message"]), told
    compare(page, site, [EXAMPLES / "cat.jpg"], 0)


def test_formats_that_browsers_do_not_decode_are_named(made, page, site):
    folder, formats = made
    for path in sorted((folder / "elsewhere").iterdir()):
        told = page.tell(path)
        assert (told["error"]["reason"], told["error"]["message"]) == ("undecodable", formats[path.name]), path
    compare(page, site, [EXAMPLES / "cat.jpg"], 0)


def test_several_files_and_folders_that_are_dropped_are_answered_in_their_order(made, page, site):
    if not hasattr(page.browser, "drop"):
        pytest.skip("Firefox's protocol drops no files")
    folder = made[0]
    cat, coffee = EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"
    (alone,) = page.drop(folder)
    assert alone["error"]["reason"] == "unreadable"
    told = page.drop(coffee, folder / "refused" / "cut_0.5.jpg", folder / "same", cat)
    assert [answer.get("error", {}).get("reason") for answer in told] == [None, "cutShort", "unreadable", None]
    for answer, path in ((told[0], coffee), (told[3], cat)):
        assert answer["guesses"][0]["name"] == fusiform.predict(path, model=site)[0].top[0].name
    compare(page, site, [coffee], 0)
