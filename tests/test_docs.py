"""The documentation: what its pages quote is true, and the site builds, stands alone and has no broken link."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fusiform
from fusiform.cli import COMMANDS, commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MISSING = [name for name in ("material", "mkdocstrings") if importlib.util.find_spec(name) is None]


# The source's messages.


@cache
def texts_of_the_source() -> list[str]:
    """Every text of the package; what an f-string fills in is an ellipsis, as on the page."""
    texts = []
    for path in sorted((ROOT / "src" / "fusiform").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if node in docstrings:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                texts.append("".join(str(part) for part in parts))
    return texts


def quoted_messages() -> list[str]:
    page = (DOCS / "reference" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^### `(.*)`$", page, re.MULTILINE)


def test_troubleshooting_has_the_messages_that_users_meet() -> None:
    messages = quoted_messages()
    assert len(messages) >= 25
    assert len(set(messages)) == len(messages)
    page = (DOCS / "reference" / "troubleshooting.md").read_text(encoding="utf-8")
    assert page.count("**Cause.**") == page.count("**Fix.**") == len(messages)


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_is_one_of_the_program(message: str) -> None:
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip(" :,;()")]
    assert pieces
    wanted = re.compile(".*".join(pieces), re.DOTALL)
    assert any(wanted.search(text) for text in texts_of_the_source())


# The repository's pages, whether or not the site can be built here.


def pages() -> list[Path]:
    return sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_the_repository_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    broken = [link for link in links if not urlsplit(link).scheme and not _target(page, link)]
    assert broken == []


def _target(page: Path, link: str) -> bool:
    file, _, anchor = link.partition("#")
    found = page if not file else (page.parent / unquote(file))
    return found.exists() or (file == "" and anchor != "")


def test_the_readme_is_one_screen() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.split()) <= 900


# The site.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MISSING:
        pytest.skip(f"the documentation is built with {' and '.join(MISSING)}: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONIOENCODING": "utf-8"},
        timeout=600,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


class _Page(HTMLParser):
    """What a page links to, what it loads, and the anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and "href" in given:
            self.loaded.append(given["href"])
        self.loaded += [given[name] for name in ("src", "poster", "data") if name in given]
        self.loaded += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]


@pytest.fixture(scope="module")
def built_pages(site: Path) -> dict[Path, _Page]:
    # 404.html is written for a server's root, which the folder does not have.
    return {path.resolve(): _Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def _is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc) or urlsplit(address).scheme not in ("", "data")


def test_the_site_loads_nothing_from_elsewhere(site: Path, built_pages: dict[Path, _Page]) -> None:
    assert [address for page in built_pages.values() for address in page.loaded if _is_elsewhere(address)] == []
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text), sheet
        assert "@import" not in text, sheet


def test_what_the_site_loads_is_there(built_pages: dict[Path, _Page]) -> None:
    for path, page in built_pages.items():
        for address in page.loaded:
            parts = urlsplit(address)
            if parts.scheme != "data":
                assert (path.parent / unquote(parts.path)).exists(), f"{path.name}: {address}"


def test_links_and_anchors_of_the_site_lead_somewhere(built_pages: dict[Path, _Page]) -> None:
    broken = []
    for path, page in built_pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = built_pages[target].anchors | {"__skip", "__toc"} if target in built_pages else set()
            if not target.exists() or (anchors and parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_nothing_is_left_to_make(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert "<!-- build:" not in path.read_text(encoding="utf-8"), path


def test_the_api_page_has_every_public_name(site: Path) -> None:
    page = _Page(site / "reference" / "api.html")
    assert [name for name in fusiform.__all__ if f"fusiform.{name}" not in page.anchors] == []


def test_the_commands_page_has_every_command_and_option(site: Path) -> None:
    path = site / "reference" / "commands.html"
    page, text = _Page(path), path.read_text(encoding="utf-8")
    assert "Exit codes" in text
    general = commands.make_context("fusiform", [], resilient_parsing=True)
    for name in COMMANDS:
        assert name in page.anchors
        command = commands.get_command(general, name)
        assert command is not None
        for parameter in command.params:
            long = max((option for option in parameter.opts if option.startswith("--")), key=len, default=None)
            assert long is None or f"{name}-{long.removeprefix('--')}" in page.anchors, (name, long)


def test_the_search_index_is_a_script(site: Path) -> None:
    """A page that was opened from the file system may run it, and may not fetch the JSON."""
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert {"guides/train.html", "reference/commands.html"} <= {
        entry["location"] for entry in json.loads(text.partition("=")[2])["docs"]
    }


# The README's table.


def test_the_readme_tells_the_ratios_that_were_measured() -> None:
    def rows(name: str) -> dict[str, dict[str, float]]:
        read = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        return {row["contender"]: row for row in read["rows"]}

    start = json.loads((ROOT / "benchmarks" / "results" / "cold_start.json").read_text(encoding="utf-8"))["figures"]
    ratios = [start["times faster (target: 10)"], start["times less memory (target: 5)"]]
    for name in ("folder", "folder_shufflenet_v2"):
        others = (row for contender, row in rows(name).items() if not contender.startswith("fusiform"))
        ratios += [row["fusiform is x faster"] for row in others]
    ratios.append(rows("training_step")["fuse, frozen"]["times plain"])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = "".join(line for line in readme.splitlines() if line.startswith("|"))
    shown = sorted(float(number) for number in re.findall(r"[\d.]+(?= times)", table))
    # Ratios under two with two decimals, under ten with one.
    assert shown == sorted(round(ratio, 2 if ratio < 2 else 1 if ratio < 10 else None) for ratio in ratios)
