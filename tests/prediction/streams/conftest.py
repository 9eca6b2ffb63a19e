"""A model for the frames' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fusiform import engines
from fusiform.zoo.model import Model

sys.path.insert(0, str(Path(__file__).parent))

from numbered_frames import MODEL, Engine

sys.path.pop(0)


@pytest.fixture(name="model")
def model_fixture(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model that names the brightest channel."""
    monkeypatch.setattr(Engine, "seconds", 0.0)
    monkeypatch.setattr(engines, "open_engine", lambda model, *, engine, threads, device, features: Engine())
    return MODEL
