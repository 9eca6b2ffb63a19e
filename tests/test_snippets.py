"""The Python in the README and the docs: mypy accepts every block, and every block runs.

The blocks of a page run one after the other, in one namespace, in a folder that has what the pages talk of: the
examples and a small dataset. A block that cannot run here says why in a comment before it: <!-- not run: reason -->.
"""

from __future__ import annotations

import dataclasses
import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import fusiform
from fusiform.training.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES = 12


class Block(NamedTuple):
    line: int
    code: str
    not_run: str


def blocks(page: Path) -> list[Block]:
    """The page's ```python blocks, each with the line it begins on and the reason not to run it, if there is one."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(
        r"(?:<!-- not run: (?P<why>.+?) -->\n+)?^```(?:python|py)\b.*\n(?P<code>(?s:.*?))^```", text, re.M
    ):
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(line, match["code"], match["why"] or ""))
    return found


WITH_PYTHON = [page for page in PAGES if blocks(page)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_the_search_finds_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "a\n```python\nx = 1\n```\nb\n<!-- not run: a GPU -->\n```py\ny\n```\n```sh\nz\n```\n", encoding="utf-8"
    )
    assert blocks(page) == [Block(3, "x = 1\n", ""), Block(8, "y\n", "a GPU")]
    assert ROOT / "README.md" in WITH_PYTHON


def test_mypy_accepts_every_block(tmp_path: Path) -> None:
    for page in WITH_PYTHON:
        # Blocks of a page go on from each other, as a reader takes them.
        code = "\n".join(block.code for block in blocks(page))
        (tmp_path / f"{re.sub('[^a-z0-9]+', '_', name(page).lower())}.py").write_text(code, encoding="utf-8")
    (tmp_path / "wrong.py").write_text("import fusiform\n\nfusiform.predict('cat.jpg', nonsense=1)\n", encoding="utf-8")
    options = [
        "--strict",
        "--untyped-calls-exclude=torch",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, sorted(tmp_path.glob("*.py")))],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    errors = [line for line in result.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, result.stdout + result.stderr
    assert 'wrong.py:3: error: Unexpected keyword argument "nonsense"' in errors[0]


def photograph(path: Path, seed: int, hue: tuple[int, int, int]) -> None:
    """Coloured noise: what a network tells apart in seconds."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 80, (96, 96, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(noise + np.array(hue), 0, 255).astype(np.uint8)).save(path, quality=90)


def write_coco(root: Path) -> None:
    """Squares on noise, one an image, in COCO's layout."""
    images, annotations = [], []
    for k in range(8):
        photograph(root / "train" / f"{k}.jpg", k, (90, 90, 90))
        with Image.open(root / "train" / f"{k}.jpg") as image:
            square = image.convert("RGB")
        square.paste((250, 240, 20), (20 + k, 20, 60 + k, 60))
        square.save(root / "train" / f"{k}.jpg")
        images.append({"id": k, "file_name": f"{k}.jpg", "width": 96, "height": 96})
        annotations.append(
            {"id": k, "image_id": k, "category_id": 1, "bbox": [20 + k, 20, 40, 40], "area": 1600, "iscrowd": 0}
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Presets that train for two epochs: nobody waits for an accuracy here."""
    shortened = {
        name: dataclasses.replace(
            recipe,
            epochs=2,
            min_steps=0,
            warmup_epochs=0,
            head_epochs=min(recipe.head_epochs, 2),
            sizes=recipe.sizes[:2],
        )
        for name, recipe in RECIPES.items()
        if name.endswith("_small")
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, recipe in shortened.items():
            patch.setitem(RECIPES, name, recipe)
        # The setting is one of the whole process, and would hold for every test after.
        patch.setattr("fusiform.training.allocator.keep_freed_memory", lambda: False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages talk of: ``examples``, ``photos`` with two classes, ``new`` photographs, ``coco`` with boxes."""
    root = tmp_path_factory.mktemp("snippets")
    shutil.copytree(ROOT / "examples", root / "examples")
    for label, hue in (("forest", (20, 140, 30)), ("sea", (20, 60, 150))):
        for k in range(24):
            split = "test" if k >= 16 else "train"
            photograph(root / "photos" / split / label / f"{k}.jpg", 100 * len(label) + k, hue)
        photograph(root / "new" / f"{label}.jpg", len(label), hue)
    write_coco(root / "coco")
    shutil.copy(root / "coco" / "train" / "0.jpg", root / "street.jpg")
    # What PyTorch Hub asks a clone for.
    (root / "hubconf.py").symlink_to(ROOT / "hubconf.py")
    (root / "src").symlink_to(ROOT / "src")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, quick: None) -> Path:
    """A finished run on ``photos``."""
    run = folder.parent / "first"
    return fusiform.train(folder / "photos", run, threads=1).folder


@pytest.fixture
def inside(folder: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, for one page alone."""
    place = tmp_path / "place"
    shutil.copytree(folder, place, symlinks=True)
    monkeypatch.chdir(place)
    return place


def takes_long(page: Path) -> bool:
    return any(step in block.code for block in blocks(page) for step in ("train(", "export(", "choose("))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name(page), marks=pytest.mark.slow if takes_long(page) else ())
        for page in WITH_PYTHON
        if page != ROOT / "README.md"  # it has a test of its own
    ],
)
def test_every_block_runs(page: Path, inside: Path, request: pytest.FixtureRequest) -> None:
    code = [block for block in blocks(page) if not block.not_run]
    if any("runs/first" in block.code for block in code) and not any(
        '"runs/first")' in block.code and "train(" in block.code for block in code
    ):
        shutil.copytree(request.getfixturevalue("trained"), inside / "runs" / "first")
    names: dict[str, object] = {"__name__": "snippet"}
    for block in code:
        exec(compile("\n" * (block.line - 1) + block.code, name(page), "exec"), names)


def test_the_readme_says_it_all_in_a_few_lines(inside: Path) -> None:
    """Train on a folder, evaluate, look, export, verify, predict, with no command line."""
    (block,) = (block for block in blocks(ROOT / "README.md") if "fusiform.train(" in block.code)
    lines = [line for line in block.code.splitlines() if line.strip()]
    assert len(lines) <= README_LINES
    for step in ("train(", "evaluate(", "export(", "verify(", "predict("):
        assert step in block.code
    exec(compile(block.code, "README.md", "exec"), {"__name__": "readme"})
    assert (inside / "report.html").is_file()


EXAMPLES = ("diagnose", "plan", "train", "Run", "evaluate", "export", "verify", "port", "benchmark", "choose")
"""The public names whose examples need a dataset or what an example before them made."""


@pytest.mark.slow
def test_examples_of_the_api_that_need_data(inside: Path) -> None:
    (inside / "photographs").mkdir()
    for label, file in (("tabby", "cat.jpg"), ("espresso", "coffee.jpg")):
        (inside / "photographs" / label).mkdir()
        shutil.copy(ROOT / "examples" / file, inside / "photographs" / label)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for public in EXAMPLES:
        (test,) = doctest.DocTestFinder(recurse=False).find(getattr(fusiform, public), public, globs={})
        assert test.examples
        assert not any(example.options.get(doctest.SKIP) for example in test.examples)
        runner.run(test, clear_globs=True)
        assert runner.failures == 0, public
