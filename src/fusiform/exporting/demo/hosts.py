"""The folder of a page for static hosts, with what they read beside the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fusiform.errors import InputError, OutputError
from fusiform.exporting.targets.web import write_site
from fusiform.spec import ModelSpec, Task

LONGEST_DESCRIPTION = 60
"""Characters of ``short_description`` that Hugging Face takes."""

_VERBS: Mapping[Task, str] = {
    "classification": "Classifies photographs",
    "detection": "Detects objects",
    "segmentation": "Segments photographs",
}
# Hugging Face's names of licences; others are left out of its header, and stand in the text.
_LICENCES = {"Apache-2.0": "apache-2.0", "BSD-3-Clause": "bsd-3-clause", "MIT": "mit", "CC0-1.0": "cc0-1.0"}

_README = """\
---
title: {title}
emoji: 📷
colorFrom: green
colorTo: indigo
sdk: static
app_file: index.html
pinned: false
{license}short_description: {short}
---

# {heading}

{does}, on the visitor's own device: nothing is sent anywhere. A page by [fusiform](https://pypi.org/project/fusiform).

Model: {summary}. Licence of its weights: {weights}.

Put this folder onto any static host with https, which browsers ask for before they lend a camera:

- Hugging Face: a new Space of the kind "static", then `hf upload USER/NAME . . --repo-type space` in this folder
- GitHub Pages: push this folder as the branch `gh-pages`
- Netlify: `npx netlify-cli deploy --prod --dir .`
- Cloudflare Pages: `npx wrangler pages deploy .`
"""


def write_folder(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a page's files and what hosts read: ``README.md`` for Hugging Face, ``.nojekyll`` for GitHub.

    The folder is new, empty, or one that this has written before; files that begin with a dot are left in peace.
    Raises InputError for another one, OutputError where nothing can be written.
    """
    old = _old_files(folder)
    written = {**files, "README.md": readme(read_spec(files)).encode(), ".nojekyll": b""}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in old - set(written):
            (folder / name).unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write {folder} ({error.strerror or error}): choose another place for --out"
        ) from None
    write_site(written, folder)


def read_spec(files: Mapping[str, bytes]) -> ModelSpec:
    """The spec of the model of a page."""
    return ModelSpec.from_json(json.dumps(json.loads(files["model.json"])["spec"]), source="model.json")


def is_site(folder: Path) -> bool:
    """Whether a folder is a page as fusiform writes them."""
    return (folder / "index.html").is_file() and _model_of(folder) is not None


def _model_of(folder: Path) -> str | None:
    """The name of the model file in a page's folder."""
    try:
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return model if isinstance(model, str) else None


def _old_files(folder: Path) -> set[str]:
    """The model file that an earlier page has left in a folder; InputError where something else lies there."""
    try:
        there = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise OutputError(
            f"cannot write {folder} ({error.strerror or error}): choose another place for --out"
        ) from None
    if there and not is_site(folder):
        raise InputError(
            f"{folder}: holds other files ({', '.join(sorted(there)[:3])}): choose another folder for --out"
        )
    model = _model_of(folder)
    return {model} if model in there else set()


def readme(spec: ModelSpec) -> str:
    """The README of a page's folder, with the header that Hugging Face's Spaces are configured by."""
    does = _VERBS[spec.task]
    title = f"{spec.name.replace('_', ' ')} in the browser"
    short = f"{does} in your browser; nothing is sent."
    assert len(short) <= LONGEST_DESCRIPTION
    known = _LICENCES.get(spec.license)
    return _README.format(
        title=title,
        heading=title,
        license=f"license: {known}\n" if known else "",
        short=short,
        does=does,
        summary=spec.summary(),
        weights=spec.license or "not stated",
    )
