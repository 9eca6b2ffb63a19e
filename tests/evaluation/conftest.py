from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform import engines
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model

sys.path.insert(0, str(Path(__file__).parent))

from numbered_pictures import NumberedPictures

sys.path.pop(0)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have models answer from a list, by the name of the model's file where there are several."""
    known: dict[str, NumberedPictures] = {}

    def open_engine(model: Model, **_: object) -> NumberedPictures:
        return known.get(model.path.stem) or known[""]

    monkeypatch.setattr(engines, "open_engine", open_engine)

    def give(spec: ModelSpec, answers: list[dict[str, NDArray[np.float32]]], name: str = "") -> None:
        known[name] = NumberedPictures(spec, answers)

    return give
