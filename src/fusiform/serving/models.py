"""The models that are served: opened, tried, and opened again when their files are replaced."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from fusiform import engines
from fusiform.engines import EngineName
from fusiform.engines.crew import GROUP
from fusiform.errors import FusiformError, OutputError, UsageError
from fusiform.prediction.sources import Picture
from fusiform.prediction.worker import Asked, Read, Worker, check_fit
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model, open_model

if TYPE_CHECKING:
    from fusiform.prediction.kept import Keeper

NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
"""What a model may be called in an address."""
POLL = 1.0
"""Seconds between two looks at the models' files; one that is as it was a look ago is taken to be whole."""
DECODING = 0.005
"""Seconds that decoding a picture is taken to last before any was decoded."""

Signature = tuple[tuple[int, int, int], ...]
"""What changes when a file is replaced: its inode, size and time of change, and those of the weights beside it."""


class Opening:
    """How models are opened: in which engine, where, for how many threads, with what limits, and where sketches lie."""

    def __init__(
        self,
        threads: int,
        *,
        engine: EngineName | None = None,
        device: str = "cpu",
        fast: bool = False,
        max_pixels: int | None = None,
        sketch: str | None = None,
    ) -> None:
        self.threads, self.engine, self.device = threads, engine, device
        self.fast, self.max_pixels, self.sketch = fast, max_pixels, sketch


class Served:
    """A model under its name, with a worker for each thread; ``seconds`` is what a picture takes on the average.

    Where there is a ``keeper``, the sketch of what the model sees is kept.
    """

    keeper: Keeper | None = None

    def __init__(
        self, name: str, spec: ModelSpec, workers: list[Worker], again: Callable[[], Worker], seconds: float
    ) -> None:
        self.name, self.spec, self.workers, self.seconds = name, spec, workers, seconds
        self.loaded = datetime.now(timezone.utc)
        self._again = again

    def mend(self, number: int) -> None:
        """Give a thread a new engine in place of one that broke off; the old one stays where none can be opened."""
        with suppress(FusiformError, MemoryError, OSError):
            worker = self._again()
            worker.keeper = self.keeper
            self.workers[number] = worker

    def give(self, keeper: Keeper) -> None:
        """Let it keep a sketch from now on."""
        self.keeper = keeper
        for worker in self.workers:
            worker.keeper = keeper

    def keep(self) -> None:
        """Write the sketch, if there is one; OutputError where that cannot be done."""
        if self.keeper is not None:
            self.keeper.write()


def open_served(name: str, source: str, opening: Opening) -> tuple[Served, Path]:
    """Open a model with an engine for each thread, let each answer once, and say which file it was.

    Raises FusiformError for a model that cannot be opened or that does not answer.
    """
    model = open_model(source)
    check_fit(model.spec, model.path)
    place = engines.place_of(model, opening.engine, opening.device)
    # A batch pays on a GPU; runtimes on a CPU answer it picture by picture.
    batch = 1 if place == "cpu" else GROUP

    def start() -> Worker:
        engine = engines.open_engine(
            model, engine=opening.engine, threads=1, device=place, features=engines.tells_unknown(model)
        )
        return Worker(engine, model.spec, model.path, fast=opening.fast, batch=batch, max_pixels=opening.max_pixels)

    workers = [start() for _ in range(opening.threads)]
    seconds = 0.0
    for worker in workers:
        seconds = _try(worker)
    served = Served(name, model.spec, workers, start, seconds + DECODING)
    if opening.sketch is not None:
        served.give(_keeper(Path(opening.sketch), name, model))
    return served, model.path


def _keeper(folder: Path, name: str, model: Model) -> Keeper:
    """What keeps a model's sketch, in a file that no other model of the name has."""
    from fusiform.calibration.reference import mark  # only what is kept is to wait for it
    from fusiform.prediction.kept import Keeper, check_keeps

    check_keeps(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error}): name another folder") from None
    return Keeper(folder / f"{name}-{mark(model.spec)[:8]}.json", model)


def _try(worker: Worker) -> float:
    """Let a worker answer a grey picture, twice, and say how many seconds the second time took."""
    grey = worker.read(Picture("grey", partial(Image.new, "RGB", (64, 64), (128, 128, 128))))
    assert isinstance(grey, Read)
    worker.infer([grey], Asked())
    start = time.perf_counter()
    worker.infer([grey], Asked())
    return time.perf_counter() - start


class Models(Mapping[str, Served]):
    """The models by their names; ``reload`` and ``watch`` put new ones in the place of old ones, whole."""

    def __init__(
        self, sources: Mapping[str, str], opening: Opening, tell: Callable[[str, str, Exception | None], None]
    ) -> None:
        """Open all; ``tell`` is told of each that was opened again, or not: its name, why, and the error."""
        self._sources, self._opening, self._tell = dict(sources), opening, tell
        self._served: dict[str, Served] = {}
        self._paths: dict[str, Path] = {}
        self._signatures: dict[str, Signature] = {}
        self._wake = threading.Event()
        self._asked = self._stopped = False
        for name, source in self._sources.items():
            self._open(name, source)
        self._watcher: threading.Thread | None = None

    def __getitem__(self, name: str) -> Served:
        return self._served[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    def watch(self) -> None:
        """Look after the files in a thread until ``close``."""
        self._watcher = threading.Thread(target=self._look, name="fusiform-models", daemon=True)
        self._watcher.start()

    def reload(self) -> None:
        """Open all models again soon, in the watching thread."""
        self._asked = True
        self._wake.set()

    def close(self) -> None:
        """Look no more."""
        self._stopped = True
        self._wake.set()
        if self._watcher is not None:
            self._watcher.join()

    def _look(self) -> None:
        before: dict[str, Signature | None] = {}
        while not self._stopped:
            self._wake.wait(POLL)
            self._wake.clear()
            if self._stopped:
                return
            everything, self._asked = self._asked, False
            for name in self._sources:
                now = signature(self._paths[name])
                changed = now is not None and now != self._signatures[name] and now == before.get(name)
                before[name] = now
                if everything or changed:
                    self._open_again(name, "it was asked for" if everything else "its file was replaced", now)

    def _open_again(self, name: str, why: str, now: Signature | None) -> None:
        try:
            self._open(name, self._sources[name])
        except (FusiformError, MemoryError, OSError) as error:
            if now is not None:
                self._signatures[name] = now  # not again before it changes again
            self._tell(name, why, error)
        else:
            self._tell(name, why, None)

    def _open(self, name: str, source: str) -> None:
        expected = self._paths.get(name, Path(source))
        before = signature(expected)  # before it is read: a file that is replaced meanwhile is read again
        served, path = open_served(name, source, self._opening)
        old = self._served.get(name)
        if old is not None and old.keeper is not None and served.keeper is not None:
            if old.keeper.path == served.keeper.path:  # the same model, whose sketch goes on
                served.give(old.keeper)
            else:
                with suppress(OutputError):
                    old.keep()
        self._served[name], self._paths[name] = served, path
        self._signatures[name] = (before if path == expected else signature(path)) or ()


def signature(path: Path) -> Signature | None:
    """What changes when a model's file is replaced; None while there is none."""
    beside = path.with_suffix(".bin")  # OpenVINO's weights
    try:
        found = [os.stat(path)]  # noqa: PTH116
        if path.suffix == ".xml" and beside.exists():
            found.append(beside.stat())
    except OSError:
        return None
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Each model's source by the name that it is served under, from ``MODEL`` and ``NAME=MODEL``.

    Without a name it is the catalogue's, or the file's or folder's without its ending. UsageError for names that no
    address can have, or that come twice.
    """
    found: dict[str, str] = {}
    for given in models:
        name, equals, source = given.partition("=")
        if not equals or Path(given).exists():
            source = given
            path = Path(given)
            name = path.resolve().name if path.is_dir() else path.name
            name = re.sub(r"\.(tflite|onnx|safetensors|pth|pt|ckpt|xml|pte)$", "", name)
            advice = f"give it one: NAME={given}"
        else:
            advice = "take letters, digits, _, . and -, up to 64"
        if not re.fullmatch(NAME, name):
            raise UsageError(f"{given}: {name!r} cannot be a model's name in an address: {advice}")
        if not source:
            raise UsageError(f"{given}: names no model: give NAME=MODEL")
        if name in found:
            raise UsageError(f"two models are called {name}: give one another name: NAME={source}")
        found[name] = source
    if not found:
        raise UsageError("there is no model to serve: name one")
    return found
