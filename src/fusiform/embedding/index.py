"""Features of many images and the files that keep them: numpy's two, Parquet, and CSV for programs that read no other.

``.npz`` holds all in one file, which ``numpy.load`` reads: ``features`` (images, C) float32, ``paths``, and
``description`` (JSON: the model, its hash, its preprocessing). ``.npy`` holds the matrix alone, and can be mapped into
memory; ``FILE.npy.json`` beside it has the description and the paths. A ``.parquet`` has the columns ``path`` and
``features``, and the description in its schema's metadata. A ``.csv`` has no description: it cannot be searched.
A folder of ``embed_parts`` has such files, ``.npz`` or ``.parquet``, one a part, whose descriptions have the messages
about images that could not be read as well.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import InputError, MissingExtraError, OutputError
from fusiform.files import check_place, write_file
from fusiform.report import Cell, Report, printable
from fusiform.scaling.folder import all_parts, read_settings
from fusiform.zoo.model import Model

ENDINGS = (".npz", ".npy", ".parquet", ".csv")
SCHEMA = "fusiform.features/1"
PARTS_SCHEMA = "fusiform.feature_parts/1"
_CHUNK = 8192
"""Images that are written or read at a time: 42 MB of features."""

Vectors = NDArray[np.float32]


class Origin(NamedTuple):
    """What features are of: the ``model`` as it was named, its file's ``sha256``, its network and preprocessing."""

    model: str
    sha256: str
    network: str
    preprocess: dict[str, Any]

    @classmethod
    def of(cls, model: Model, name: str) -> Origin:
        data = model.data or model.path.read_bytes()
        preprocess = model.spec.to_dict()["preprocess"]
        return cls(name, hashlib.sha256(data).hexdigest(), model.spec.name, json.loads(json.dumps(preprocess)))


@dataclasses.dataclass(frozen=True, repr=False)
class Embeddings:
    """The features of images: ``features[k]``, float32, are those of ``paths[k]``.

    ``errors`` say of each image that could not be read why; it has no features. ``model`` is the model's name or file,
    ``sha256`` the hash of that file: features of different models have nothing in common. ``file`` is where they are
    kept, if they are.

    Example:
        >>> import fusiform
        >>> found = fusiform.embed("examples")
        >>> found.paths, found.features.shape
        (('examples/cat.jpg', 'examples/coffee.jpg'), (2, 1280))

    """

    paths: tuple[str, ...]
    features: Vectors
    origin: Origin
    errors: tuple[str, ...] = ()
    file: Path | None = None

    @property
    def model(self) -> str:
        return self.origin.model

    @property
    def sha256(self) -> str:
        return self.origin.sha256

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as ``.npz``, ``.npy``, ``.parquet`` or ``.csv``; UsageError for another ending."""
        check_ending(path)
        write_features(self.paths, self.features, self.origin, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embeddings:
        """Read a file of ``save`` or ``fusiform embed``, or its folder of parts; InputError for others and ``.csv``."""
        return read_features(Path(path))

    def report(self) -> Report:
        """How many there are, of which model, and where they are kept."""
        figures: dict[str, Cell] = {
            "model": self.model,
            "sha256": self.sha256,
            "network": self.origin.network,
            "images": len(self.paths),
            "feature_count": int(self.features.shape[1]),
            "unread": len(self.errors),
            "file": None if self.file is None else str(self.file),
        }
        return Report(f"features of {len(self.paths):,} images", (), figures, schema="fusiform.embeddings/1")

    def __repr__(self) -> str:
        errors = f", {len(self.errors)} could not be read" if self.errors else ""
        return f"<features of {len(self.paths)} images by {printable(self.model)}: {self.features.shape}{errors}>"


def check_ending(path: str | os.PathLike[str]) -> None:
    """Raise UsageError for a file that is not to end as features' do, OutputError where nothing can be written."""
    check_place(path, ENDINGS, "features are saved as .npz, .npy, .parquet or .csv: let the name end in one of these")
    if Path(path).suffix.lower() == ".parquet":
        _pyarrow()


def write_features(paths: Sequence[str], features: Vectors, origin: Origin, path: Path) -> None:
    """Write them, whole or not at all; raises what ``check_ending`` raises."""
    description = json.dumps({"schema": SCHEMA, **origin._asdict()}, ensure_ascii=False)
    with tempfile.TemporaryDirectory(prefix=".features-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        try:
            if path.suffix.lower() == ".npz":
                _write_npz(paths, features, description, written)
            elif path.suffix.lower() == ".npy":
                np.save(written, features)
                beside = {"schema": SCHEMA, **origin._asdict(), "paths": list(paths)}
                write_file(beside_of(path), (json.dumps(beside, ensure_ascii=False) + "\n").encode())
            elif path.suffix.lower() == ".parquet":
                _write_parquet(paths, features, description, written)
            else:
                _write_csv(paths, features, written)
            written.replace(path)
        except OSError as error:
            raise OutputError(f"cannot write {path} ({error.strerror or error}): choose another place") from None


def beside_of(path: Path) -> Path:
    """The file with the paths and the description of an ``.npy``."""
    return path.with_name(f"{path.name}.json")


def write_part(
    paths: Sequence[str], features: Vectors, origin: Origin, errors: Sequence[str], form: str, file: BinaryIO
) -> None:
    """Write the features of a part to an open file, ``npz`` or ``parquet``, with the messages about other images."""
    description = json.dumps({"schema": SCHEMA, **origin._asdict(), "errors": list(errors)})
    if form == "parquet":
        shown = [path.encode("utf-8", "backslashreplace").decode() for path in paths]  # its texts are UTF-8
        _write_parquet(shown, features, description, file)
    else:
        _write_npz(paths, features, description, file)


def _write_npz(paths: Sequence[str], features: Vectors, description: str, place: Path | BinaryIO) -> None:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, values in (
            ("features", features),
            ("paths", np.array(paths, np.str_)),
            ("description", np.array(description)),
        ):
            # As numpy.savez, but without the time, so that the same features give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)


def _write_parquet(paths: Sequence[str], features: Vectors, description: str, place: Path | BinaryIO) -> None:
    pa, pq = _pyarrow()
    columns = [("path", pa.string()), ("features", pa.list_(pa.float32(), features.shape[1]))]
    schema = pa.schema(columns, metadata={SCHEMA: description})
    with pq.ParquetWriter(place, schema) as writer:
        for start in range(0, len(paths), _CHUNK):
            rows = np.ascontiguousarray(features[start : start + _CHUNK])
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), features.shape[1])
            writer.write_table(pa.table([pa.array(paths[start : start + _CHUNK]), values], schema=schema))


def _write_csv(paths: Sequence[str], features: Vectors, place: Path) -> None:
    with place.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *(f"feature_{k}" for k in range(features.shape[1]))])
        for path, row in zip(paths, features, strict=True):
            writer.writerow([path, *row.tolist()])


def read_features(path: Path) -> Embeddings:
    """The features of a file, those of an ``.npy`` mapped into memory, or of a folder of parts."""
    if path.is_dir():
        return _read_folder(path)
    wrong = f"{path}: holds no features by fusiform: fusiform embed SOURCES --out FILE writes them"
    if path.suffix.lower() == ".csv":
        raise InputError(f"{path}: does not say which model its features are of: write .npz, .npy or .parquet")
    if not path.is_file():
        raise InputError(f"{path}: no such file: fusiform embed SOURCES --out {path} writes one")
    try:
        if path.suffix.lower() == ".npy":
            beside = json.loads(beside_of(path).read_text(encoding="utf-8"))
            paths, features = beside.pop("paths"), np.load(path, mmap_mode="r", allow_pickle=False)
            description = beside
        elif path.suffix.lower() == ".parquet":
            paths, features, description = _read_parquet(path)
        else:
            with np.load(path, allow_pickle=False) as arrays:
                paths, features = arrays["paths"].tolist(), arrays["features"]
                description = json.loads(str(arrays["description"]))
        if description.pop("schema") != SCHEMA:
            raise InputError(wrong)
        errors = tuple(map(str, description.pop("errors", ())))
        origin = Origin(**description)
    except FileNotFoundError:
        raise InputError(
            f"{path}: {beside_of(path).name}, with its images' paths, is not beside it: copy both"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile):
        raise InputError(wrong) from None
    if features.ndim != 2 or features.dtype != np.float32 or len(features) != len(paths):
        raise InputError(f"{path}: has {len(paths)} paths for features {features.shape}: embed the images again")
    return Embeddings(tuple(map(str, paths)), features, origin, errors, path)


def _read_folder(folder: Path) -> Embeddings:
    """The features of all parts of a folder, in a temporary file that is mapped into memory."""
    begun = read_settings(folder)
    count, form = begun.get("parts"), begun.get("format")
    if begun.get("schema") != PARTS_SCHEMA or not isinstance(count, int):
        raise InputError(
            f"{folder}: holds no features by fusiform: fusiform embed SOURCES --part 10000 --out {folder} writes them"
        )
    parts = all_parts(folder, count, str(form))
    paths: list[str] = []
    errors: list[str] = []
    first: Embeddings | None = None
    with ExitStack() as stack:
        rows: Growing | None = None
        for part in parts:
            here = read_features(part)
            first = first or here
            if here.origin.sha256 != begun.get("model_sha256") or here.origin[1:] != first.origin[1:]:
                raise InputError(
                    f"{part}: has features of another model than the rest of its folder: remove it, and run the "
                    "command that began its folder again"
                )
            rows = rows or stack.enter_context(Growing(here.features.shape[1]))
            rows.extend(here.features)
            paths += here.paths
            errors += here.errors
        if first is None or rows is None or not paths:
            raise InputError(f"{folder}: no image of it could be read" + (f": {errors[0]}" if errors else ""))
        return Embeddings(tuple(paths), rows.rows(), first.origin, tuple(errors), folder)


def _read_parquet(path: Path) -> tuple[list[str], Vectors, dict[str, Any]]:
    pa, pq = _pyarrow()
    try:
        table = pq.read_table(path)
        description = json.loads((table.schema.metadata or {})[SCHEMA.encode()])
        column = table["features"].combine_chunks()
        features = np.asarray(column.flatten(), np.float32).reshape(len(table), column.type.list_size)
        return table["path"].to_pylist(), features, description
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "features in Parquet files") from None
    return pyarrow, pyarrow.parquet


class Growing:
    """Rows of features that go to a temporary file as they come: a million images have five gigabytes of them."""

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the rows are needed

    def __enter__(self) -> Growing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Vectors) -> None:
        self._file.write(np.ascontiguousarray(row, np.float32).tobytes())
        self.count += 1

    def extend(self, rows: Vectors) -> None:
        """The same for several rows."""
        self._file.write(np.ascontiguousarray(rows, np.float32).tobytes())
        self.count += len(rows)

    def rows(self) -> Vectors:
        """All that came, mapped into memory where there are any: they stay when the file is closed."""
        self._file.flush()
        if not self.count:
            return np.empty((0, self.size), np.float32)
        return np.memmap(self._file, np.float32, "r", shape=(self.count, self.size))


def chunks(features: Vectors) -> Iterator[tuple[int, Vectors]]:
    """Parts of the features, each with the number of its first row."""
    for start in range(0, len(features), _CHUNK):
        yield start, np.asarray(features[start : start + _CHUNK])
