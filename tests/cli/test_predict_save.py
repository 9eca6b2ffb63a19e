from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import fusiform.cli
from fusiform import engines
from fusiform.drawing import grid, text
from fusiform.drawing.grid import GAP, TILE, Tile, draw_grid
from fusiform.drawing.text import _font_with, _runs
from fusiform.prediction.answer import THUMBNAIL
from fusiform.prediction.predict import predict_iter
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo import model as zoo_model

LABELS = ("Red Panda", "crane", "crane", "синий 青")
IDS = ("n0001", "n0002", "n0003", "n0004")
SPEC = ModelSpec("mobilenet_v2", 1.0, LABELS, label_ids=IDS, input_size=32, preprocess=Preprocess(resize=32, crop=32))
# The colour of a picture is its answer.
COLORS = {0: (255, 0, 0), 1: (0, 255, 0), 3: (0, 0, 255)}


class ColorEngine:
    """Answers class 0, 1 or 3 by which of the three channels is brightest."""

    spec = SPEC

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        red, green, blue = batch.mean(axis=(1, 2), dtype=np.float32).T / 32
        return {"logits": np.stack([red, green, np.zeros_like(red), blue], 1)}


@pytest.fixture(autouse=True)
def color_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "open_engine", lambda *_, **__: ColorEngine())
    model = zoo_model.Model(Path("m.tflite"), "tflite", SPEC, b"")
    monkeypatch.setattr(zoo_model, "open_model", lambda _, **__: model)
    monkeypatch.setattr("fusiform.prediction.predictor.open_model", lambda _: model)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tile]:
    """The tiles that were drawn."""
    tiles: list[Tile] = []

    def remember(given: list[Tile], *, side: int) -> Image.Image:
        tiles.extend(given)
        return draw_grid(given, side=side)

    monkeypatch.setattr(grid, "draw_grid", remember)
    return tiles


def picture(path: Path, answer: int, size: tuple[int, int] = (40, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLORS[answer]).save(path)
    return path


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(fusiform.cli.commands, list(map(str, arguments)), input=stdin, prog_name="fusiform")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_grid_shows_the_pictures_and_changes_nothing_else(tmp_path: Path) -> None:
    good, bad = picture(tmp_path / "a.png", 0), tmp_path / "bad.png"
    bad.write_bytes(b"")
    without = run("predict", good, bad)
    result = run("predict", good, bad, "--save", tmp_path / "grid.png")
    assert (result.stdout, result.stderr, result.exit_code) == (without.stdout, without.stderr, 0)
    saved = pixels(tmp_path / "grid.png")
    assert (saved[GAP : GAP + TILE, GAP : GAP + TILE] == COLORS[0]).all()
    assert (saved[GAP + 5, GAP + 236 + 5] == 0xDD).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "bad.png", "grid.png"]


@pytest.mark.parametrize(
    ("folder", "answer", "second_line", "color"),
    [
        ("red_panda", 0, "", "green"),
        ("RED PANDA", 0, "", "green"),
        ("red_panda", 1, "true: Red Panda", "red"),
        ("n0001", 0, "", "green"),
        ("n0004", 0, "true: синий 青", "red"),
        ("N0003", 1, "true: crane", "red"),
        ("crane", 1, "", "green"),  # two classes have this name
        ("crane", 0, "true: crane", "red"),
        ("holidays", 0, "", "black"),
    ],
)
def test_a_class_folder_says_what_is_right(
    tmp_path: Path, drawn: list[Tile], folder: str, answer: int, second_line: str, color: str
) -> None:
    picture(tmp_path / "test" / folder / "a.png", answer)
    assert run("predict", tmp_path / "test", "--save", tmp_path / "grid.png").exit_code == 0
    (tile,) = drawn
    probability, _, name = tile.caption.partition("  ")
    assert (probability, name) == ("99.9%", LABELS[answer])
    assert tile.second_line == second_line
    if color == "black":
        assert tile.color == color
        return
    hue = Image.new("RGB", (1, 1), tile.color).getpixel((0, 0))
    assert isinstance(hue, tuple)
    assert hue.index(max(hue)) == ["red", "green"].index(color)
    assert (pixels(tmp_path / "grid.png")[GAP - 2, GAP : GAP + TILE] == hue).all()


def test_the_class_folder_of_a_relative_path(
    tmp_path: Path, drawn: list[Tile], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "red_panda" / "a.png", 1)
    (tmp_path / "red_panda" / "crane").mkdir()
    for here, name in (("red_panda", "a.png"), ("red_panda/crane", "../a.png")):
        monkeypatch.chdir(tmp_path / here)
        assert run("predict", name, "--save", "grid.png").exit_code == 0
    assert [tile.second_line for tile in drawn] == ["true: Red Panda"] * 2


def test_other_labels_name_the_folders(tmp_path: Path, drawn: list[Tile]) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("rot\ngrün\nweiß\nblau\n", encoding="utf-8")
    for folder in ("Gru\u0308n", "red panda", "n0001"):  # as macOS keeps it; the model's own names count no more
        picture(tmp_path / "all" / folder / "a.png", 0)
    run("predict", tmp_path / "all", "--labels", labels, "--save", tmp_path / "grid.png")
    assert [tile.second_line for tile in drawn] == ["true: grün", "", ""]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


def test_addresses_and_standard_input_are_read_once(
    tmp_path: Path, drawn: list[Tile], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue, red = picture(tmp_path / "crane" / "b.png", 3), picture(tmp_path / "a.png", 0)
    (tmp_path / "red panda").mkdir()
    monkeypatch.chdir(tmp_path / "red panda")
    result = run("predict", "-", f"{server}/crane/b.png", "--save", "../grid.png", stdin=red.read_bytes())
    assert result.exit_code == 0, result.stderr
    assert [tile.image.getpixel((0, 0)) for tile in drawn if tile.image] == [COLORS[0], COLORS[3]]
    # Neither the folder of the server nor the one that the command runs in is a class.
    assert [(tile.second_line, tile.color) for tile in drawn] == [("", "black")] * 2
    assert blue.exists()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_64_are_drawn_and_only_they_are_kept(tmp_path: Path, drawn: list[Tile], threads: int) -> None:
    for k in range(70):
        picture(tmp_path / "in" / f"{k}.png", [0, 1, 3][k % 3])
    (tmp_path / "in" / "5.png").write_bytes(b"")
    result = run("predict", tmp_path / "in", "--save", tmp_path / "g.png", "--threads", threads, "--format", "csv")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == f"fusiform: {tmp_path}/g.png: shows the first 64 of 70 pictures"
    shown = [None if tile.image is None else tile.image.getpixel((0, 0)) for tile in drawn]
    assert shown == [None if k == 5 else COLORS[[0, 1, 3][k % 3]] for k in range(64)]
    assert pixels(tmp_path / "g.png").shape == (GAP + 8 * 284, GAP + 8 * 236, 3)

    answers = list(predict_iter(tmp_path / "in", thumbnails=3, threads=threads))
    assert [answer.thumbnail is not None for answer in answers] == [True] * 3 + [False] * 67


def test_thumbnails_are_small_upright_and_rgb(tmp_path: Path) -> None:
    sideways = Image.new("RGB", (600, 300), "white")
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "a.jpg", exif=exif)
    clear = Image.new("LA", (1000, 10), (0, 0))
    answers = list(predict_iter([tmp_path / "a.jpg", clear, Image.new("P", (7, 9))], thumbnails=3))
    assert [answer.thumbnail and (answer.thumbnail.mode, answer.thumbnail.size) for answer in answers] == [
        ("RGB", (THUMBNAIL // 2, THUMBNAIL)),
        ("RGB", (THUMBNAIL, 2)),
        ("RGB", (7, 9)),
    ]
    assert answers[1].thumbnail is not None
    assert answers[1].thumbnail.getpixel((50, 1)) == (255, 255, 255)
    assert clear.size == (1000, 10)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("grid.bmp", 2, "end in .png or .jpg"), ("absent/grid.png", 1, "cannot write"), ("folder.jpg", 1, "is a folder")],
)
def test_a_wrong_place_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(engines, "open_engine", fail)
    monkeypatch.setattr("fusiform.prediction.predictor.open_model", fail)
    (tmp_path / "folder.jpg").mkdir()
    result = run("predict", picture(tmp_path / "a.png", 0), "--save", tmp_path / name)
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert words in line
    assert name in line


def test_letters_without_a_font_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "SYSTEM_FONTS", ())
    caches = (_runs, _font_with)
    for function in caches:
        function.cache_clear()
    result = run("predict", picture(tmp_path / "a.png", 3), "--save", tmp_path / "g.jpg")
    for function in caches:
        function.cache_clear()
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert "no font here has ийнс青" in line  # the letters of "синий 青" in their order
    with Image.open(tmp_path / "g.jpg") as saved:
        assert saved.format == "JPEG"


@pytest.mark.slow
def test_the_bundled_model_draws_real_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    examples = Path(__file__).parents[2] / "examples"
    for folder, name in (("espresso", "coffee.jpg"), ("n01440764", "cat.jpg")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes((examples / name).read_bytes())
    result = run("predict", tmp_path / "espresso", tmp_path / "n01440764", "--save", tmp_path / "grid.png")
    assert result.exit_code == 0, result.stderr
    red, green, _ = pixels(tmp_path / "grid.png")[:, GAP : GAP + TILE].reshape(-1, 3).T.astype(int)
    assert (green - red > 60).sum() > 500  # the frame around the espresso, which is none of the photograph's colours


def test_the_help_names_as_many_pictures_as_are_drawn() -> None:
    from fusiform.cli import predict
    from fusiform.prediction import sheet

    assert predict.SAVED == sheet.SAVED
