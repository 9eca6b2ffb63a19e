"""Where the real weights and photographs lie, for the tests that use them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("FUSIFORM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and photographs; a test that asks for it skips where it is absent."""
    if not (SHARED_DATA / "README.md").is_file():
        pytest.skip(f"no real weights and photographs at {SHARED_DATA} (set FUSIFORM_TEST_DATA)")
    return SHARED_DATA
