"""Node, which runs the page's JavaScript without a browser, where one is installed that is new enough."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

import pytest

LEAST = (18, 15)  # ``node --test`` has named its reporters since


@cache
def _find():
    """The program, or why there is none."""
    found = shutil.which("node")
    if found is None:
        return None, "node is not installed, which runs the page's JavaScript"
    said = subprocess.run([found, "--version"], capture_output=True, encoding="utf-8", timeout=60, check=False).stdout
    version = re.match(r"v(\d+)\.(\d+)", said)
    if version is None or tuple(map(int, version.groups())) < LEAST:
        return None, f"node {said.strip() or '?'} is too old for the page's tests, which need {LEAST[0]}.{LEAST[1]}"
    return found, ""


def node_or_skip():
    program, missing = _find()
    if program is None:
        pytest.skip(missing)
    return program
