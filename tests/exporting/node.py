"""Node, which runs the page's JavaScript without a browser, where one is installed that is new enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from fusiform.exporting.targets.web import PAGE

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


def run_tests(script, folder, *, timeout=120):
    """Run tests in JavaScript on a copy of the page in ``folder``, where their vectors lie; how many have passed."""
    program = node_or_skip()
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')  # what the page's <script type=module> says
    done = subprocess.run(
        [program, "--test", "--test-reporter=tap", Path(__file__).with_name(script)],
        env={**os.environ, "FUSIFORM_WEB": str(folder)},
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, "\n".join(re.findall(r"(?ms)^ *not ok.*?^ *\.\.\.$", done.stdout)) + done.stderr
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout
    return int(passed[1])
