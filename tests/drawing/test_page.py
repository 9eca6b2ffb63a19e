"""The page as a browser and a reader's software see it: parsed, not searched; and in a browser, where there is one."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fusiform.drawing import charts
from fusiform.drawing.curves import precision_recall_diagram
from fusiform.drawing.markup import Markup, element, joined, prose
from fusiform.drawing.page import Card, Headline, Number, Page, percent_cell

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"
EMPTY = {"meta", "img", "input", "br", "hr", "link", "path", "line", "rect", "circle"}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


class Tree(HTMLParser):
    """Every element with its attributes and text, whether elements are closed in their order, and the ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def full_page(text: str = "a text") -> Page:
    """A page with all that there is, every text of which contains ``text``."""
    page = Page(text, kind=text, about=[text])
    bar = (0.4, 0.5, 0.9)
    page.add_headlines([Headline("50.0", text, "%", text, bar)], [Headline("1", text, note=text, mark="error")] * 6)
    page.add_lead(text)
    page.add_notes([text])
    page.add_heading(text, count=3)
    page.add_text(text)
    page.add_cards([Card([(Image.new("RGB", (900, 30)), text), (None, "")], text, [text], text, "wrong")] * 14)
    page.add_legend([(text, (1, 2, 3))])
    page.add_heading(text, wide=False)
    rows = [{text: f"{text} {k}", "share, %": percent_cell(k / 100), "images": k, "nothing": None} for k in range(25)]
    page.add_table(rows, first=10)
    page.add_heading(text, below=True, kind="error", folded=True)
    page.add_list([text, (text, text)])
    page.add_list([(text, text)], kind="chips")
    page.add_terms([(text, text, text)])
    page.add_figures({text: text})
    page.add_drawing_with_table(charts.reliability_diagram([(1.0, 1.0, 5)]), rows[:1], caption=text)
    page.add_svg(charts.heat_table([text] * 30, [text] * 30, [[1] * 30] * 30), keeps_size=True)
    page.add_svg(precision_recall_diagram({text: [1.0, 0.0]}, {text: [0.0, 1.0]}))
    return page


def test_no_text_becomes_markup() -> None:
    tree = Tree(full_page(HOSTILE).render())
    assert len(tree.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in tree.elements)
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in tree.all("img"))
    plain = Tree(full_page("a text").render())
    assert [name for name, _ in tree.elements] == [name for name, _ in plain.elements]
    assert tree.text("h1") == [HOSTILE]


def test_nothing_is_loaded_and_only_its_own_script_runs() -> None:
    page = full_page().render()
    tree = Tree(page)
    for name, attributes in tree.elements:
        assert "style" not in attributes, name  # the policy would drop it
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href"):
            assert re.match("data:image/jpeg;base64,|#", str(attributes.get(key, "#")))
    (policy,) = (str(meta["content"]) for meta in tree.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for kind in ("style", "script"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert "url(" not in content
        assert "@import" not in content


def test_it_can_be_read_without_seeing_it() -> None:
    tree = Tree(full_page().render())
    assert tree.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in tree.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in tree.all("svg"))
    assert len(tree.text("caption")) == 2
    assert {head.get("scope") for head in tree.all("th")} == {"row", "col"}
    ids = [attributes["id"] for _, attributes in tree.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for link in tree.all("a"):
        assert str(link["href"])[1:] in ids
    for section in tree.all("section"):
        assert section["aria-labelledby"] in ids
    # The contents twice, of which one is seen: beside the text, or folded above it.
    assert sum("contents" in str(attributes.get("class")) for _, attributes in tree.elements) == 2


def test_a_table_has_only_columns_with_something_in_them_and_sorts_by_value() -> None:
    page = Page("t")
    page.add_table([{"a": "x", "b": Number("10.0", 0.1), "c": None, "d": ""}, {"a": "y", "b": None, "c": None}])
    html = page.render()
    tree = Tree(html)
    assert tree.text("th") == ["a", "b", "x", "y"]
    assert [cell.get("data-value") for cell in tree.all("td")] == ["0.1", None]
    assert [cell["class"] for cell in tree.all("td")] == ["number", "number"]
    assert 'class="sortable"' in html
    assert "folded" not in html.split("</style>")[1].split("<script>")[0]


def test_what_is_long_is_folded_away() -> None:
    tree = Tree(full_page().render())
    assert tree.text("label") == ["Show all 25"]
    assert any(attributes.get("class") == "folded-10" for _, attributes in tree.elements)
    assert "2 more" in tree.text("summary")


def test_pictures_are_kept_large_and_no_larger() -> None:
    page = Page("t")
    page.add_cards([Card([(Image.new("RGB", (1300, 650)), ""), (Image.new("RGB", (50, 20)), "")])])
    sizes = []
    for data in re.findall(r'base64,([^"]+)"', page.render()):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            sizes.append(image.size)
    assert sizes == [(640, 320), (50, 20)]


def test_a_fragment_has_no_style_no_script_and_no_contents() -> None:
    page = Page("t")
    page.add_heading("h")
    page.add_figures({"a": 1})
    assert Tree(page.fragment()).text("td") == ["1"]
    assert not re.search("<style|<script|<nav|<header", page.fragment())


def test_markup() -> None:
    assert element("p", {"class": 'a"b', "open": True, "id": False}, "<i>", Markup("<b>x</b>")) == (
        '<p class="a&quot;b" open>&lt;i&gt;<b>x</b></p>'
    )
    assert element("img", {"alt": "a\u202eb\udcff"}) == '<img alt="a\\u202eb\\udcff">'
    assert joined(["<", Markup("<br>")], " ") == "&lt; <br>"
    assert prose("try --fix <now>, a--b, --no-x") == "try <code>--fix</code> &lt;now&gt;, a--b, <code>--no-x</code>"
    assert not isinstance(Markup("a") + "b", Markup)  # what is added is not trusted


def test_a_circle_at_the_edge_is_whole() -> None:
    drawn = charts.reliability_diagram([(1.0, 1.0, 100), (0.0, 0.0, 100), (0.5, 0.5, 0)])
    ((width, height),) = (map(float, size) for size in re.findall('<svg [^>]* width="([^"]+)" height="([^"]+)"', drawn))
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', drawn)
    assert len(circles) == 2
    for x, y, radius in (map(float, circle) for circle in circles):
        assert radius + 1 <= x <= width - radius - 1
        assert radius + 1 <= y <= height - radius - 1


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_never_wider_than_its_window(tmp_path: Path, width: int) -> None:
    """In a frame of that width, for a window cannot be as narrow as a telephone."""
    assert CHROMIUM is not None
    full_page("a_long_name_without_a_place_to_break_" * 6).write(tmp_path / "page.html")
    (tmp_path / "frame.html").write_text(
        f'<iframe src="page.html" width="{width}" height="900"></iframe><p></p><script>onload = () => {{'
        "const page = document.querySelector('iframe').contentDocument;"
        "const told = [page.documentElement.scrollWidth, page.querySelectorAll('th button').length];"
        "const button = page.querySelectorAll('th button')[2]; button.click();"
        "const row = page.querySelector('table.sortable tbody').rows[0];"
        "told.push(row.cells[2].textContent, button.parentNode.getAttribute('aria-sort'));"
        "page.querySelector('a.shot').click(); told.push(page.querySelector('dialog').open);"
        "document.querySelector('p').textContent = `needs ${told.join(' ')}`; };</script>"
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path}/profile", f"http://127.0.0.1:{server.server_port}/frame.html"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        server.shutdown()
    found = re.search(r"needs (\d+) (.*?)</p>", shown.stdout)
    if found is None:
        pytest.skip(f"Chromium does not run here: {shown.stderr[-200:]}")
    assert int(found[1]) <= width
    # The script runs, as its policy allows: three columns can be sorted by, numbers from the largest, pictures open.
    assert found[2] == "3 24 descending true"
