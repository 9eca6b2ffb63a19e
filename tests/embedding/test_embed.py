"""Features of images in files, and the images that are most similar to one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fusiform
from fusiform.cli import commands
from fusiform.embedding.index import ENDINGS, Embeddings, Origin, beside_of
from fusiform.embedding.search import nearest
from fusiform.errors import InputError, UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = "shufflenet_v2_x1_0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photographs, one of them twice, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("cat.jpg", "coffee.jpg"):
        shutil.copy(EXAMPLES / name, folder)
    shutil.copy(EXAMPLES / "cat.jpg", folder / "again.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return fusiform.embed(folder, MODEL, threads=1)


def test_images_that_can_be_read_have_features_and_the_others_errors(found, folder):
    assert [Path(path).name for path in found.paths] == ["again.jpg", "cat.jpg", "coffee.jpg"]
    assert found.features.shape == (3, 1024)
    assert found.features.dtype == np.float32
    assert len(found.errors) == 1
    assert "broken.jpg" in found.errors[0]
    with fusiform.Predictor(MODEL, features=True) as predictor:
        assert np.allclose(predictor(folder / "coffee.jpg")[0].features, found.features[2])


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != ".csv"])
def test_files_hold_all_and_are_read_back(found, tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"features{ending}"
    found.save(path)
    again = Embeddings.load(path)
    assert again.paths == found.paths
    assert again.origin == found.origin
    assert np.array_equal(again.features, found.features)
    first = path.read_bytes()
    found.save(path)
    assert path.read_bytes() == first
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_what_numpy_users_expect(found, tmp_path):
    found.save(tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz") as arrays:
        assert arrays["features"].shape == (3, 1024)
        assert arrays["paths"].tolist() == list(found.paths)
    found.save(tmp_path / "features.npy")
    assert np.array_equal(np.load(tmp_path / "features.npy"), found.features)
    assert json.loads(beside_of(tmp_path / "features.npy").read_text())["paths"] == list(found.paths)


def test_a_csv_has_a_row_an_image_and_is_no_index(found, tmp_path):
    path = tmp_path / "features.csv"
    found.save(path)
    head, *rows = path.read_text().splitlines()
    assert head.startswith("path,feature_0,feature_1,")
    assert len(rows) == 3
    assert np.allclose([float(cell) for cell in rows[2].split(",")[1:]], found.features[2])
    with pytest.raises(InputError, match="does not say which model"):
        fusiform.search(EXAMPLES / "cat.jpg", path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("missing.npz", None, "no such file"),
        ("other.npz", b"PK", "holds no features by fusiform"),
        ("other.npy", b"\x93NUMPY", r"other\.npy\.json, with its images' paths, is not beside it"),
    ],
)
def test_other_files_are_refused(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        Embeddings.load(tmp_path / name)


def test_arrays_of_other_programs_and_lists_of_another_length_are_refused(found, tmp_path):
    np.savez(tmp_path / "other.npz", features=found.features)
    with pytest.raises(InputError, match="holds no features by fusiform"):
        Embeddings.load(tmp_path / "other.npz")
    found.save(tmp_path / "short.npy")
    np.save(tmp_path / "short.npy", found.features[:2])
    with pytest.raises(InputError, match="has 3 paths for features"):
        Embeddings.load(tmp_path / "short.npy")


def test_a_wrong_ending_is_told_before_the_work():
    with pytest.raises(UsageError, match=r"let the name end in one of these"):
        fusiform.embed("nowhere", MODEL, out="features.txt")


def test_no_image_at_all_is_an_error(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="no image could be read"):
        fusiform.embed(tmp_path, MODEL, out=tmp_path / "features.npz")
    assert not (tmp_path / "features.npz").exists()


# Search


def test_an_image_finds_itself_and_its_copy_first(found, tmp_path):
    matches = fusiform.search(EXAMPLES / "cat.jpg", found, top=3)
    first, second, third = (row["path"] for row in matches.report().rows)
    assert {Path(first).name, Path(second).name} == {"again.jpg", "cat.jpg"}
    assert Path(third).name == "coffee.jpg"
    assert matches.similarities[0, :2] == pytest.approx(1, abs=1e-5)
    assert matches.similarities[0, 2] < 0.9
    matches.save(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_another_models_features_are_refused(found):
    with pytest.raises(InputError, match="is another model"):
        fusiform.search(EXAMPLES / "cat.jpg", found, model="mobilenet_v2")


def test_more_are_asked_for_than_there_are(found):
    assert fusiform.search(EXAMPLES / "cat.jpg", found, top=50).indices.shape == (1, 3)
    with pytest.raises(UsageError, match="top must be at least 1"):
        fusiform.search(EXAMPLES / "cat.jpg", found, top=0)


def test_the_nearest_are_those_of_all_cosines_computed_at_once(monkeypatch):
    from fusiform.embedding import index

    monkeypatch.setattr(index, "_CHUNK", 7)
    random = np.random.default_rng(0)
    features = random.normal(size=(50, 5)).astype(np.float32)
    queries = random.normal(size=(3, 5)).astype(np.float32)
    features[9] = 0  # of a black picture
    places, cosines = nearest(queries, features, 4)
    lengths = np.maximum(np.linalg.norm(features, axis=1), 1e-12)
    expected = queries @ features.T / lengths / np.linalg.norm(queries, axis=1, keepdims=True)
    assert np.array_equal(places, np.argsort(-expected, axis=1, kind="stable")[:, :4])
    assert np.allclose(cosines, -np.sort(-expected, axis=1)[:, :4], atol=1e-6)


def test_an_origin_knows_the_preprocessing():
    model = fusiform.open_model(MODEL)
    other = model.spec.replace(preprocess=model.spec.preprocess.__class__(resize=230))
    assert Origin.of(model, "a") == Origin.of(model, "a")
    assert Origin.of(model.__class__(model.path, model.format, other, model.data), "a") != Origin.of(model, "a")


# Commands


def test_the_commands_write_an_index_and_search_it(folder, tmp_path):
    index, sheet = tmp_path / "index.npz", tmp_path / "sheet.jpg"
    run = CliRunner().invoke(
        commands, ["embed", str(folder), "--model", MODEL, "--out", str(index), "--format", "json"]
    )
    assert run.exit_code == 0, run.output
    figures = json.loads(run.stdout)["figures"]
    assert (figures["images"], figures["unread"], figures["feature_count"]) == (3, 1, 1024)
    assert "broken.jpg" in run.stderr
    assert Embeddings.load(index).model == MODEL
    run = CliRunner().invoke(
        commands, ["search", str(folder / "cat.jpg"), str(index), "--top", "2", "--save", str(sheet), "-f", "json"]
    )
    assert run.exit_code == 0, run.output
    rows = json.loads(run.stdout)["rows"]
    assert [row["rank"] for row in rows] == [1, 2]
    assert sheet.exists()
