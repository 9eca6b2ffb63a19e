"""Rows of answers as JSON lines or Parquet, written as they come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

from fusiform.errors import MissingExtraError
from fusiform.prediction.formats import to_dict

if TYPE_CHECKING:
    from fusiform.prediction.answer import Answer
    from fusiform.spec import ModelSpec, Task

PartFormat = Literal["jsonl", "parquet"]
ROW_GROUP = 1000
"""Rows that are held until they are written to a Parquet file."""


class Rows(Protocol):
    """Writes rows to an open file."""

    def add(self, answer: Answer) -> None:
        """The next row."""
        ...

    def close(self) -> None:
        """Nothing more comes; the file itself stays open."""
        ...


def rows_to(file: BinaryIO, form: PartFormat, spec: ModelSpec) -> Rows:
    """What writes rows of a model's answers to a file; MissingExtraError where Parquet needs pyarrow."""
    return _Parquet(file, spec) if form == "parquet" else _Lines(file)


def has_parquet() -> bool:
    """Whether Parquet can be written."""
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None


class _Lines:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def add(self, answer: Answer) -> None:
        # A file name that is no UTF-8 keeps its bytes as an escape, which reads back as the same name.
        text = json.dumps(to_dict(answer), ensure_ascii=False) + "\n"
        self.file.write(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        self.file.flush()


class _Parquet:
    def __init__(self, file: BinaryIO, spec: ModelSpec) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise MissingExtraError("pyarrow", "parquet", "writing Parquet") from None
        self.schema = _schema(pyarrow, spec)
        self.table = pyarrow.Table
        self.writer = parquet.ParquetWriter(file, self.schema, compression="zstd")
        self.held: list[dict[str, Any]] = []

    def add(self, answer: Answer) -> None:
        row = to_dict(answer)
        row["path"] = row["path"].encode("utf-8", "backslashreplace").decode()
        if row["error"] is not None:
            row["error"] = row["error"].encode("utf-8", "backslashreplace").decode()
        self.held.append(row)
        if len(self.held) == ROW_GROUP:
            self._write()

    def _write(self) -> None:
        self.writer.write_table(self.table.from_pylist(self.held, self.schema))
        self.held = []

    def close(self) -> None:
        if self.held:
            self._write()
        self.writer.close()


def _schema(pyarrow: Any, spec: ModelSpec) -> Any:
    """The columns of a model's answers, the same in every part, whatever its images come to."""
    text, whole, number = pyarrow.string(), pyarrow.int32(), pyarrow.float64()
    named = [("index", whole), ("name", text)]
    guesses = pyarrow.list_(pyarrow.struct([*named, ("probability", number)]))
    sized = [("width", whole), ("height", whole)]
    columns: dict[Task, list[tuple[str, Any]]] = {
        "classification": [("top", guesses)],
        "detection": [
            *sized,
            ("boxes", pyarrow.list_(pyarrow.struct([*named, ("score", number), ("bbox", pyarrow.list_(number))]))),
        ],
        "segmentation": [*sized, ("classes", pyarrow.list_(pyarrow.struct([*named, ("share", number)])))],
    }
    promised = [("set", guesses), ("known", pyarrow.bool_()), ("p_known", number), ("certain", number)]
    ruled = [("rule", text), ("decided", pyarrow.struct(named))]
    more = []
    if spec.certainty is not None:
        more = [*promised, *ruled] if spec.certainty.decision is not None else promised
    return pyarrow.schema([("path", text), ("error", text), *columns[spec.task], *more])


def count_rows(file: BinaryIO, form: PartFormat) -> tuple[int, int]:
    """The number of rows of a written part, and of those with an error; ValueError where it is no such file."""
    if form == "parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            column = parquet.read_table(file, columns=["error"]).column("error")
        except pyarrow.ArrowException as error:
            raise ValueError(str(error)) from None
        return len(column), len(column) - column.null_count
    images = errors = 0
    for line in file:
        images += 1
        errors += json.loads(line)["error"] is not None
    return images, errors
