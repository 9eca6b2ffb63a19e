"""The guide's script for a Raspberry Pi, taken from the page and run as it is pasted; here, on another processor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "raspberry-pi.md"
LEFT_OUT = (".git", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", "site")


def script() -> str:
    found = re.findall(r"<!-- the tests run this block -->\n```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    assert len(found) == 1
    return str(found[0])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a script for a shell")
def test_the_script_to_paste(tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path / "asked"), "click"]
    if subprocess.run(asked, capture_output=True, timeout=300, check=False).returncode != 0:
        pytest.skip("PyPI cannot be reached")
    clone = tmp_path / "fusiform"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    result = subprocess.run(
        ["bash", "-c", script()],
        cwd=clone,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "Egyptian cat" in result.stdout
    assert re.search(r"shufflenet_v2_x1_0 .*(litert|native)", result.stdout), result.stdout[-2000:]


@pytest.mark.skipif(os.name != "posix", reason="a script for a shell")
def test_systems_that_it_does_not_run_on_are_told(tmp_path: Path) -> None:
    """A Python that says what one of a 32-bit system says, and one that is too old; nothing is installed."""
    programs = re.findall(r"python3 -c '(.*?)'", script())
    setups = ("sys.maxsize = 2**31 - 1", "sys.version_info = (3, 9, 2)", "pass")
    told = ("a 32-bit one, for which there is no LiteRT", "Python 3.10 or later is needed", "")
    for setup, said in zip(setups, told, strict=True):
        errors = []
        for program in programs:
            code = f"import sys; {setup}\n{program}"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == bool(done.stderr)
            errors.append(done.stderr)
        assert said in "".join(errors)
        assert [bool(error) for error in errors].count(True) == bool(said)
