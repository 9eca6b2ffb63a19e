"""What the page's JavaScript reads of picture files, in Node, against Python; and that all of its tests are run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fusiform.exporting.targets
from fusiform.data.image import _foreign_profile, orientation, read_image
from fusiform.errors import ImageError

sys.path.insert(0, str(Path(__file__).parent))

from node import node_or_skip
from pictures import make_pictures

sys.path.pop(0)

HERE = Path(__file__).parent
PAGE = Path(fusiform.exporting.targets.__file__).with_name("web_page")
READ = """
import { readFile, readdir } from "node:fs/promises";
import { isTooLarge, readFormat } from "./formats.js";
const found = {};
for (const folder of process.argv.slice(2)) {
  for (const name of await readdir(folder)) {
    const said = await readFormat(new Uint8Array(await readFile(`${folder}/${name}`)));
    const { upright, ...rest } = said;
    found[name] = { ...rest, profile: said.profile ?? null, large: isTooLarge(said),
      again: (await readFormat(new Uint8Array(await new Blob(upright).arrayBuffer()))).orientation };
  }
}
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return folder, make_pictures(folder)


@pytest.fixture(scope="module")
def found(made, tmp_path_factory):
    node, folder = node_or_skip(), tmp_path_factory.mktemp("formats")
    shutil.copy(PAGE / "formats.js", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "read.mjs").write_text(READ)
    result = subprocess.run(
        [node, folder / "read.mjs", *sorted(made[0].iterdir())],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_formats_sizes_turns_and_profiles_are_those_of_python(made, found):
    turned = []
    for path in (*(made[0] / "same").iterdir(), *(made[0] / "close").iterdir()):
        said = found[path.name]
        with Image.open(path) as image:
            assert said["format"] == {"MPO": "JPEG", "WEBP": "WebP"}.get(image.format, image.format), path
            if said["width"]:  # as it is in the file
                assert (said["width"], said["height"]) == image.size, path
            if said["format"] in ("PNG", "WebP"):  # all browsers turn the others
                image.load()
                wanted = orientation(image)
                assert (said["orientation"], said["again"]) == (wanted if 1 <= wanted <= 8 else 1, 1), path
                turned += [path] if wanted > 1 else []
            assert said["profile"] == (_foreign_profile(image) is not None), path
        assert (said["whole"], said["large"]) == (True, False), path
    assert len(turned) > 8


def test_what_python_refuses_is_seen(made, found):
    folder, reasons = made
    for path in (folder / "refused").iterdir():
        with pytest.raises(ImageError):
            read_image(path)
        said, reason = found[path.name], reasons[path.name]
        if reason in ("cutShort", "notPicture", "tooLarge"):
            assert said["whole"] == (reason != "cutShort"), path
            assert (said["format"] is None) == (reason == "notPicture"), path
            assert said["large"] == (reason == "tooLarge"), path
    for path in (folder / "elsewhere").iterdir():
        assert found[path.name]["format"] == reasons[path.name]


def test_every_file_is_cut_without_a_fault(made, tmp_path):
    """However short a file is cut, it is read to an end, and what ends early is seen."""
    node, cut = node_or_skip(), tmp_path / "cut"
    cut.mkdir()
    wholes = {}
    for name in ("held_6.jpg", "held_6.png", "held_6.webp", "profile_of_srgb.png", "palette.gif", "a.bmp"):
        content = (made[0] / "same" / name).read_bytes()
        for length in (*range(120), *range(120, len(content) - 1, max(1, len(content) // 50))):
            (cut / f"{length}_{name}").write_bytes(content[:length])
            wholes[f"{length}_{name}"] = False
        (cut / f"whole_{name}").write_bytes(content)
        wholes[f"whole_{name}"] = True
    shutil.copy(PAGE / "formats.js", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "read.mjs").write_text(READ)
    command = [node, tmp_path / "read.mjs", cut]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    for name, said in json.loads(result.stdout).items():
        if said["format"] is not None:
            assert said["whole"] == wholes[name], (name, said)


def test_all_tests_in_javascript_are_run():
    """Each of the files is named by one of Python's, which runs it where Node is installed, and says where not."""
    tests = {path.name: path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py")}
    scripts = [path.name for path in HERE.glob("*.test.mjs")]
    assert scripts
    for script in scripts:
        runners = [name for name, text in tests.items() if script in text]
        assert len(runners) == 1, (script, runners)
        assert f'run_tests("{script}"' in tests[runners[0]], runners
