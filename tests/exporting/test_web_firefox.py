"""The page in a second browser, Firefox, where one is installed: Debian's is the package firefox-esr."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import fusiform
from fusiform.exporting.targets.web import write
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from browser import serving
from firefox import FIREFOX, browsing_firefox
from page import Page

sys.path.pop(0)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FIREFOX is None or os.name != "posix", reason="there is no Firefox to drive"),
]


@pytest.mark.parametrize("name", ["mobilenet_v2_x1_0", "shufflenet_v2_x1_0"])
def test_a_hundred_photographs(name, shared_data, tmp_path):
    photographs = sorted((shared_data / "imagenet_val").rglob("*.JPEG"))[::5]
    assert len(photographs) == 100
    site = write(open_model(name).graph(), "int8", tmp_path)[0].path
    (tmp_path / "profile").mkdir()
    with browsing_firefox(tmp_path / "profile") as browser:
        with serving(site) as server:
            page = Page(browser, server.address)
            answers = [page.answer(path)["guesses"] for path in photographs]
        for guesses, expected in zip(answers, fusiform.predict(photographs, model=site), strict=True):
            assert [guess["name"] for guess in guesses] == [guess.name for guess in expected.top], expected.path
            for ours, theirs in zip(guesses, expected.top, strict=True):
                assert abs(ours["probability"] - theirs.probability) < 1e-6, expected.path
        again = Page(browser, server.address).answer(photographs[0])["guesses"]  # where nobody answers any more
        assert again == answers[0]
