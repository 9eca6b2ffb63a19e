"""What is in the wheel and the lock, and that the README and the guides say what the program does."""

from __future__ import annotations

import email
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fusiform.zoo.catalog import CATALOG

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
BUNDLED = sorted(weights.file for weights in CATALOG.values() if weights.bundled)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_package_its_models_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names} == {"fusiform", "fusiform-0.2.0.dist-info"}
    assert {f"fusiform/zoo/bundled/{file}" for file in BUNDLED} < names
    assert {f"fusiform/zoo/bundled/{Path(file).stem}.card.json" for file in BUNDLED} < names
    assert {"fusiform/zoo/imagenet_1k.tsv", "fusiform/py.typed", "fusiform/__main__.py"} < names
    for notice in ("LICENSE", "THIRD_PARTY.md"):
        assert f"fusiform-0.2.0.dist-info/licenses/{notice}" in names
    assert {f"fusiform/exporting/targets/web_runtime/{file}" for file in ("litert_js.tar.xz", "lock.json")} < names
    assert wheel.stat().st_size < 9.5e6


@pytest.mark.parametrize("file", BUNDLED)
def test_a_bundled_model_is_the_one_its_card_describes(file: str) -> None:
    folder = ROOT / "src" / "fusiform" / "zoo" / "bundled"
    card = json.loads((folder / f"{Path(file).stem}.card.json").read_text(encoding="utf-8"))
    assert (card["file"], card["sha256"]) == (file, sha256((folder / file).read_bytes()).hexdigest())


def asked_for(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read("fusiform-0.2.0.dist-info/METADATA"))
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def test_the_constraints_pin_all_that_the_package_asks_for(wheel: Path) -> None:
    asked = asked_for(wheel)
    names = {canonicalize_name(requirement.name) for requirement in asked} - {"fusiform"}
    assert {"numpy", "torch", "onnx", "pytest"} < names

    pinned: dict[str, list[str]] = {}
    for line in CONSTRAINTS.splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)  # also what an old pip takes as a constraint: no extras, no addresses
            assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), line
            assert not requirement.extras, line
            assert requirement.url is None, line
            pinned.setdefault(canonicalize_name(requirement.name), []).append(line)
    assert names <= set(pinned)
    for requirement in asked:
        for line in pinned.get(canonicalize_name(requirement.name), []):
            assert requirement.specifier.contains(str(Requirement(line).specifier).removeprefix("==")), line


def hashed(name: str) -> dict[str, list[str]]:
    """A lock's pins, each with its hashes; the checks install it with --require-hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    split = [next(i for i, word in enumerate(line) if word.startswith("--hash=")) for line in lines]
    return {" ".join(line[:at]): line[at:] for line, at in zip(lines, split, strict=True)}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-predict.lock"])
def test_a_lock_has_the_pins_of_the_constraints_and_a_hash_of_each_file(name: str) -> None:
    pins = hashed(name)
    constraints = {line for line in CONSTRAINTS.splitlines() if not line.startswith("#")}
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", text) for hashes in pins.values() for text in hashes)
    if name == "requirements.lock":
        assert set(pins) == constraints
    else:  # whose markers are simpler where fewer ask for the same
        assert {pin.partition(" ;")[0] for pin in pins} < {line.partition(" ;")[0] for line in constraints}


def test_the_small_lock_has_what_the_default_installation_asks_for_and_what_builds_it(wheel: Path) -> None:
    pins = {canonicalize_name(Requirement(pin).name) for pin in hashed("requirements-predict.lock")}
    default = {canonicalize_name(asked.name) for asked in asked_for(wheel) if "extra ==" not in str(asked.marker)}
    assert default | {"hatchling", "editables"} < pins
    assert not {"torch", "onnx", "matplotlib"} & pins


DOCS = sorted((ROOT / "docs").rglob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_checks_install_and_run_the_tests_as_the_readme_says() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for command in commands:
        for part in command.split(" && "):
            assert part in run
    # The last line and exit code of the tests are the run's; together the two commands run every test there is.
    assert run[-2:] == [".venv/bin/pytest", ".venv/bin/pytest -m slow"]


def test_the_readme_prints_what_the_command_prints() -> None:
    (shown,) = (block for block in blocks(README, "text") if block.startswith("examples/cat.jpg\n"))
    printed = subprocess.run(
        [sys.executable, "-m", "fusiform", "predict", "examples/cat.jpg"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
        check=True,
    ).stdout

    def first_names(text: str) -> list[str]:
        return [re.sub(r"^ +[\d.]+% +[\u2588\u258c]* +", "", line) for line in text.splitlines()[1:4]]

    # Not the digits, nor the order of close names, nor the names far down: those may differ between processors.
    assert first_names(printed)[0] == first_names(shown)[0]
    assert set(first_names(printed)) == set(first_names(shown))


def test_the_readme_and_the_pages_name_options_that_exist() -> None:
    from click.testing import CliRunner

    from fusiform.cli import COMMANDS, commands

    shown: dict[str, set[str]] = {}
    texts = [README, *(page.read_text(encoding="utf-8") for page in DOCS)]
    for block in (block for text in texts for block in blocks(text, "sh")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("#"):
                continue
            for part in line.partition("  #")[0].split(" | "):
                words = shlex.split(part)
                if "fusiform" in words and words[-1] != "fusiform":
                    name, *rest = words[words.index("fusiform") + 1 :]
                    shown.setdefault(name, set()).update(word for word in rest if word.startswith("--"))
    assert set(COMMANDS) <= set(shown)
    for name in set(shown) & set(COMMANDS):
        offered = CliRunner().invoke(commands, [name, "--help"]).output
        assert [option for option in shown[name] if option not in offered] == []


def test_where_the_native_library_cannot_be_compiled_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("FUSIFORM_NATIVE", raising=False)
    import hatch_build as build

    compiler = tmp_path / "old-cc"
    said = "echo 'In file included from i8mm.c:8:' >&2; echo 'x.c:1: error: i8mm?' >&2"
    compiler.write_text(f"#!/bin/sh\n{said}; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    for system, machine, wanted in (
        ("linux", "riscv64", "it is for x86-64, and for 64-bit ARM with Linux or macOS, and this is riscv64"),
        ("win32", "ARM64", "it is for x86-64, and for 64-bit ARM with Linux or macOS, and this is ARM64"),
        ("linux", "aarch64", f"{compiler} failed (x.c:1: error: i8mm?)"),
        ("darwin", "arm64", f"{compiler} failed (x.c:1: error: i8mm?)"),
    ):
        monkeypatch.setattr(build.sys, "platform", system)
        monkeypatch.setattr(build.platform, "machine", lambda machine=machine: machine)
        assert build.compile_library(build.FOLDER, tmp_path / "library") == wanted
