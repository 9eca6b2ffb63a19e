"""The page of a model in one file, for whoever has no host: it is opened from a disk, by a double click.

``web_single/`` has the scripts that stand in for the server: ``start.js`` unpacks the files in the page, ``files.js``
gives them to the page's own scripts, which are those of the folder, and ``wait.js`` has what is said meanwhile. A
module cannot import another by its name where there are no addresses: ``import`` is written anew, with names that
``files.js`` replaces by addresses.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusiform.errors import WeightsError
from fusiform.exporting.targets.base import Written
from fusiform.exporting.targets.web import RUNTIME_NAME
from fusiform.files import write_file
from fusiform.zoo.model import open_model
from fusiform.zoo.pages import write_text

_SCRIPTS = Path(__file__).with_name("web_single")
_WITHOUT_SCRIPTS = (
    "This page needs a browser that runs its scripts, and the whole of the file: open it with Chrome, Edge, Firefox or "
    "Safari, or download it again."
)

# What a page in one file has no use for: it is kept already, and browsers install only what has an address. Of the
# runtime it has the one build that every browser runs: with the other the file would be 3 MB larger, for 6 ms less in
# MobileNetV2 and 4 ms in ShuffleNetV2 (13 and 7 of the int8 networks' milliseconds in Chromium).
_OF_FOLDERS = (
    "index.html",
    "sw.js",
    "manifest.webmanifest",
    "icons/",
    "runtime/litert_wasm_internal.js",
    "runtime/litert_wasm_internal.wasm.gz",
)

_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".ico": "image/x-icon", ".jpg": "image/jpeg"}

# "import ... from" and "export ... from" with what stands between them, and "import" of a file alone.
_STATIC = re.compile(
    r"""(?<![\w$.])(?P<words>(?:import|export)\b(?P<clause>[\s\w$,{}*]*?)(?:\bfrom)?\s*)(?P<quote>["'])(?P<name>[^"'\n]+)(?P=quote)"""
)
_DYNAMIC = re.compile(r"(?<![\w$.])import\(")
_COMMENT = re.compile(r"^\s*//[^\n]*$|\s//[^\"'`\n]*$|/\*.*?\*/", re.MULTILINE | re.DOTALL)


def in_one_file(written: Written) -> Written:
    """The page in a folder as ``NAME.html`` beside it; raises OutputError where it cannot be written."""
    site = written.path
    files = {path.relative_to(site).as_posix(): path.read_bytes() for path in sorted(site.rglob("*")) if path.is_file()}
    path = site.with_name(f"{site.name}.html")
    write_file(path, to_page(files))
    if open_model(path).data != open_model(site).data:
        raise WeightsError(f"{path.name}: holds another model than the folder that it was made from: export it again")
    return Written(path, (path,), {"runtime": f"{RUNTIME_NAME}, in the file"})


def to_page(files: Mapping[str, bytes]) -> bytes:
    """The page in one file, of the files that a folder for a static host has.

    ValueError for what stands in one of them in a form that is not understood here.
    """
    markup = files["index.html"].decode()
    kept = {name: data for name, data in files.items() if not name.startswith(_OF_FOLDERS)}
    (entry,) = re.findall(r'<script type="module" src="([^"]+)"></script>', markup)
    (sheet,) = re.findall(r'<link rel="stylesheet" href="([^"]+)">', markup)
    style = kept.pop(sheet).decode()
    if re.search(r"@import|url\((?!\s*[\"']?data:)", style):
        raise ValueError(f"{sheet}: loads another file, which a page in one file cannot")
    wait, *others = ((_SCRIPTS / name).read_text(encoding="utf-8") for name in ("wait.js", "files.js", "start.js"))
    script = "".join(others)
    for name, text, end in ((sheet, style, "</style"), ("start.js", script, "</script")):
        if end in text.lower():
            raise ValueError(f"{name}: {end} would end it where it stands in the page")
    blocks = "\n".join(_block(name, data) for name, data in sorted(_rewritten(kept).items(), key=lambda f: len(f[1])))
    markup = re.sub(r'\s*<script type="module"[^>]*></script>', "", markup)
    markup = markup.replace(f'<link rel="stylesheet" href="{sheet}">', f"<style>{style}</style>")
    markup = re.sub(r'\s*<link rel="(?:manifest|apple-touch-icon)"[^>]*>', "", markup)
    markup, lines = re.subn(
        r'(<p id="status" role="status">)[^<]*</p>',
        lambda found: f"{found[1]}{_WITHOUT_SCRIPTS}</p><script>{wait}</script>",
        markup,
    )
    if lines != 1:
        raise ValueError("index.html: there is no line that says what goes on")
    markup = re.sub(r'\b(href|src)="([^"#:]+)"', lambda found: f'{found[1]}="{_as_data(found[2], files)}"', markup)
    markup = _with_policy(markup, (wait, script), style)
    end = f'{blocks}\n<script data-first="{entry}">{script}</script>\n</body>'
    return f"\N{ZERO WIDTH NO-BREAK SPACE}{markup.replace('</body>', end)}".encode("utf-16-le")


def _block(name: str, data: bytes) -> str:
    """A file as text in the page, packed if that makes it smaller."""
    packed = data if data.startswith(b"\x1f\x8b") else gzip.compress(data, 9, mtime=0)
    smaller = len(packed) < len(data)
    content = packed if smaller else data
    mark = " data-gzip" if smaller else ""
    kind = f'data-file="{html.escape(name)}" data-bytes="{len(content)}"{mark}'
    return f'<script type="text/plain" {kind}>{write_text(content)}</script>'


def _as_data(name: str, files: Mapping[str, bytes]) -> str:
    """A file that the markup names, as an address that holds it."""
    ending = posixpath.splitext(name)[1]
    if name not in files or ending not in _TYPES:
        raise ValueError(f"index.html: {name} is no file that can stand in the page")
    return f"data:{_TYPES[ending]};base64,{base64.b64encode(files[name]).decode()}"


def _with_policy(markup: str, scripts: Sequence[str], style: str) -> str:
    """The markup with the folder's content policy made that of one file: no address is left that could be asked."""
    (given,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', markup)
    directives = {words[0]: words[1:] for words in map(str.split, given.split(";")) if words}
    if directives.get("default-src") != ["'none'"]:
        raise ValueError("index.html: the policy does not forbid what it does not name")
    directives["script-src"] = [*_hashes(*scripts), "blob:", "'wasm-unsafe-eval'"]
    directives["worker-src"] = ["blob:"]
    directives["style-src"] = _hashes(style)
    directives["trusted-types"] = [*directives["trusted-types"], "files"]
    for name in ("connect-src", "manifest-src"):
        directives.pop(name, None)
    for name, words in directives.items():
        if "'self'" in words:
            directives[name] = ["data:", "blob:", *(word for word in words if word not in ("'self'", "data:", "blob:"))]
    policy = "; ".join(" ".join((name, *words)) for name, words in directives.items())
    return markup.replace(given, policy)


def _hashes(*texts: str) -> list[str]:
    """The hashes by which a policy allows texts: of their UTF-8, as the standard says, and of UTF-16, as WebKit."""
    encoded = (text.encode(encoding) for text in texts for encoding in ("utf-8", "utf-16-le"))
    return [f"'sha256-{base64.b64encode(hashlib.sha256(data).digest()).decode()}'" for data in encoded]


def _rewritten(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files, with names in the imports of scripts that ``files.js`` finds them by."""
    imports: dict[str, list[str]] = {}
    rewritten = {}
    for name, data in files.items():
        if not name.endswith(".js"):
            rewritten[name] = data
            continue
        text, imports[name] = rewrite_imports(name, data.decode(), files)
        rewritten[name] = text.encode()
    _check_order(imports)
    return rewritten


def rewrite_imports(name: str, text: str, files: Mapping[str, bytes]) -> tuple[str, list[str]]:
    """A script with its imports as ``files.js`` takes them, and the names of those that have to be there before it.

    ValueError for an import that is not of one of the ``files``, or written in a way that is not understood.
    """
    folder = posixpath.dirname(name)
    found: list[str] = []

    def static(match: re.Match[str]) -> str:
        if match["words"].startswith("export") and not re.search(r"\bfrom\s*$", match["words"]):
            return match[0]  # a text that is exported
        if match["clause"].strip() and not re.search(r"\bfrom\s*$", match["words"]):
            return match[0]
        other = posixpath.normpath(posixpath.join(folder, match["name"]))
        if not match["name"].startswith(("./", "../")) or other not in files:
            raise ValueError(f'{name}: imports "{match["name"]}", which is no file of the page')
        found.append(other)
        return f'{match["words"]}"@file/{other}"'

    text = _STATIC.sub(static, text)
    text = _DYNAMIC.sub(f'importFile("{folder}/", ' if folder else 'importFile("", ', text)
    left = re.search(r"(?<![\w$.\"'@/-])import\b(?!\s*[\s\w$,{}*]*\"@file/).*", _COMMENT.sub("", text))
    if left is not None:
        raise ValueError(f"{name}: this import is not understood: {left[0][:60]}")
    return text, found


def _check_order(imports: Mapping[str, list[str]]) -> None:
    """ValueError where modules import each other in a circle: each needs the address of the other first."""
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            raise ValueError(f"scripts import each other in a circle: {' -> '.join((*way, name))}")
        if name not in done:
            for other in imports.get(name, ()):
                visit(other, (*way, name))
            done.add(name)

    for name in imports:
        visit(name, ())
