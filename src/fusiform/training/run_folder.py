"""The folder of a training run: everything that is written, so that nothing is lost whenever it ends.

best.safetensors      the weights of the best epoch with their spec: the model to use
last.safetensors      those of the last epoch
state.pt              what ``--resume`` goes on from: weights, optimiser, averages, counters
run.json              the data, the model and the teacher that were asked for
recipe.json           every number of the training
data.csv, data.sha256 the list of pictures with class and split, and its hash
environment.json      versions, machine, command
metrics.jsonl         a line an epoch
train.log             what was said on the console
events.out.tfevents.* the same figures for TensorBoard
curves.png            the same figures to look at
report.json           what the best weights reach in the end
evaluations.jsonl     a line for each use of the test pictures, also by later evaluations
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusiform.errors import InputError, OutputError, WeightsError
from fusiform.files import hold, remove_leftovers, write_file
from fusiform.spec import ModelSpec
from fusiform.training.curves import draw_curves, read_metrics
from fusiform.zoo.checkpoint import write_safetensors

Record = dict[str, float | int | str]
Say = Callable[[str], None]


class RunFolder:
    """One run's folder; only the writing process makes one.

    ``say`` gets each line of the log as well. Whatever cannot be written raises OutputError, and what was complete
    before stays readable.
    """

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder = folder
        self._say = say
        self._writer: Any = None
        self._unwritten = ""  # of the log, until there is a folder
        self._logging = threading.Lock()
        self._lock: int | None = None
        self.saved: tuple[int, int, int] | None = None
        """Epochs done, steps of the next one, and steps of an epoch, of the state in the folder."""
        self.unsaved = False
        """Whether there were steps since."""

    def check(self) -> None:
        """Raise UsageError where the folder holds a run already, and OutputError where it cannot be written."""
        if (self.folder / "run.json").exists():
            raise InputError(
                f"{self.folder}: holds a run already: add --resume to go on with it, or choose another folder for --out"
            )
        there = self.folder.absolute()
        while not there.exists():
            there = there.parent
        if not there.is_dir() or not os.access(there, os.W_OK):
            reason = "may not be written to" if there.is_dir() else "is no folder"
            raise OutputError(f"cannot make {self.folder}: {there} {reason}: choose another place for --out")

    def lock(self) -> None:
        """Keep other trainings out of the folder until this one is closed, or its process gone in whatever way.

        Raises UsageError where one is at work there. What killed ones left of files is removed.
        """
        try:
            self._lock = os.open(self.folder, os.O_RDONLY)
        except OSError:  # Windows opens no folder
            return
        if not hold(self._lock):
            raise InputError(
                f"{self.folder}: another training is writing there: wait for its end, or choose another folder for "
                "--out"
            )
        remove_leftovers(self.folder, "*.part")

    def create(self, settings: Mapping[str, object]) -> None:
        """Make the folder for a new run."""
        make_folder(self.folder)
        self.write_json("run.json", settings)

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file of the run."""
        write_file(self.folder / name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run."""
        write_file(self.folder / name, text.encode("utf-8", "surrogateescape"))

    def say(self, text: str) -> None:
        """A line for the console and the log."""
        self._say(text)
        self.log(text)

    def log(self, text: str) -> None:
        """A line for the log."""
        with self._logging:
            self._unwritten += f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
            if self.folder.is_dir():
                self._append("train.log", self._unwritten)
                self._unwritten = ""

    def record(self, record: Record) -> None:
        """A line of figures for metrics.jsonl and TensorBoard."""
        self._append("metrics.jsonl", json.dumps(record, ensure_ascii=False) + "\n")
        writer, step = self._events(), int(record["step"])
        for name, value in record.items():
            if isinstance(value, float) and name != "epoch":
                writer.add_scalar(name, value, step)
        writer.flush()

    def save_model(self, name: str, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
        """Write weights and spec as ``name``, a safetensors file."""
        arrays = {key: value.detach().cpu().numpy() for key, value in state.items()}
        write_safetensors(self.folder / name, arrays, spec)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write what a resumed run goes on from."""
        data = io.BytesIO()
        torch.save(dict(state), data)
        write_file(self.folder / "state.pt", data.getvalue())
        self._remember(state)

    def load_state(self) -> dict[str, Any] | None:
        """What was saved last, or None where the run ended before it saved anything."""
        path = self.folder / "state.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if isinstance(error, pickle.UnpicklingError):  # PyTorch advises to run whatever is in it
                reason = "it is damaged, or holds more than numbers"
            raise WeightsError(f"{path}: cannot be read ({reason}): remove it to train from the start") from None
        if not isinstance(state, dict) or not all(
            isinstance(state.get(key), int) for key in ("epoch", "step", "steps")
        ):
            raise not_this_run(path)
        self._remember(state)
        return state

    def _remember(self, state: Mapping[str, Any]) -> None:
        self.saved, self.unsaved = (state["epoch"], state["step"], state["steps"]), False

    def interrupted(self, *, processes: int = 1) -> str:
        """What an interruption left, and the command that goes on."""
        if not (self.folder / "run.json").exists():
            return "nothing was written"
        command = shlex.join(["train", "--resume", "--out", str(self.folder)])
        if processes > 1:
            command = f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', processes)} -m fusiform {command}"
        else:
            command = f"fusiform {command}"
        if self.saved is None:
            return f"no step of the training was saved; begin it again with: {command}"
        kept = f"saved {place(*self.saved)}"
        if self.unsaved:
            kept += ", and what came later is done again"
        return f"{kept}; go on with: {command}"

    def forget_after(self, step: int) -> None:
        """Drop the figures of steps that a resumed run will take again."""
        if not (self.folder / "metrics.jsonl").exists():
            return
        kept = [record for record in read_metrics(self.folder / "metrics.jsonl") if int(record["step"]) <= step]
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        write_file(self.folder / "metrics.jsonl", lines.encode())
        self._events(purge=step + 1)

    def draw(self) -> None:
        """Draw the figures so far."""
        draw_curves(read_metrics(self.folder / "metrics.jsonl"), self.folder / "curves.png")

    def close(self) -> None:
        """Close TensorBoard's file, and let others into the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _append(self, name: str, text: str) -> None:
        path = self.folder / name
        try:
            with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
        except OSError as error:
            raise OutputError(
                f"cannot write {path} ({error.strerror or error}): make room, then go on with --resume"
            ) from None

    def _events(self, purge: int | None = None) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=purge)
        return self._writer


def place(epochs: int, step: int, steps: int) -> str:
    """Where in a training that is, in words: so many epochs are done, and so many steps of the next one."""
    if step == steps:
        return f"after epoch {epochs + 1}, before its validation"
    if step:
        return f"in epoch {epochs + 1}, after step {step} of {steps}"
    return f"after epoch {epochs}" if epochs else "before the first step"


def not_this_run(path: Path) -> WeightsError:
    """What to raise where a state is none of the run that is to go on."""
    return WeightsError(f"{path}: is no state of this run: put its own there, or remove it to train from the start")


def read_settings(folder: Path) -> dict[str, Any]:
    """What run.json of a folder says; UsageError where there is no run to go on with."""
    try:
        settings: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no run to go on with: leave out --resume to start one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'run.json'}: cannot be read ({error}): start a new run") from None
    kinds: dict[str, tuple[type, ...]] = {
        "data": (str,),
        "model": (str,),
        "teacher": (str, type(None)),
        "scratch": (bool,),
        "classes": (list,),
    }
    found = settings if isinstance(settings, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
    if wrong or not all(isinstance(name, str) for name in settings["classes"]):
        names = ", ".join(wrong or ["classes"])
        raise InputError(f"{folder / 'run.json'}: is not what fusiform train writes ({names}): start a new run")
    return settings


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; OutputError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder} ({error.strerror or error}): choose another place for --out"
        ) from None
