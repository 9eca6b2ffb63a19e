"""Networks and pictures for the tests of files that decode boxes and masks themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fusiform.data.annotated import AnnotatedSample

sys.path.insert(0, str(Path(__file__).parent))

from decoded_files import Healthy, soft_picture

sys.path.pop(0)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    return Healthy("detection", tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    return Healthy("segmentation", tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(params=["detector", "segmenter"])
def healthy(request: pytest.FixtureRequest) -> Healthy:
    found: Healthy = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Sequence[AnnotatedSample]:
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(16):
        soft_picture(k).save(folder / f"{k}.png")
    return [AnnotatedSample(folder / f"{k}.png") for k in range(16)]
