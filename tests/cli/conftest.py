"""Commands that run within the tests' own process leave its memory as it is."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _malloc_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's setting is one of the whole process, and would hold for every test after."""
    monkeypatch.setattr("fusiform.training.allocator.keep_freed_memory", lambda: False)
