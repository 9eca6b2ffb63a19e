"""The folder of parts: what it was begun with, what is finished, and who is at work there.

parts.json          what the parts are of, written first: a run with anything else is refused
part-00003.jsonl    the answers for the pictures of a part (or .parquet), there only when it is whole
done-0-of-1.jsonl   a line for each part that the shard 0 of 1 has finished, held open while it is at work
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fusiform.errors import InputError, OutputError
from fusiform.files import create, hold, put, remove_leftovers, write_file

SAYS = {
    "listing_sha256": "other images",
    "model_sha256": "another model",
    "description_sha256": "other labels or another preprocessing",
    "images_per_part": "another --part",
    "format": "another --format",
    "dataset_sha256": "other images or other ground truth",
    "features": "a model that tells unknown images in another way",
}
"""What is meant by a key of parts.json that has another value; an option is called by its name."""


BEGINS = {
    "fusiform.parts/1": "fusiform predict --part",
    "fusiform.answers/1": "fusiform evaluate --part",
    "fusiform.feature_parts/1": "fusiform embed --part",
}
"""What writes a folder of parts, by the schema of its parts.json."""
_TOLD = ("schema", "fusiform", "model", "sources", "data", "images", "parts")
"""Keys of parts.json that are for people: the same parts may be called by other names."""


class Shard(NamedTuple):
    """Of so many machines the one with this ``number``, from 0: of as many parts it answers one."""

    number: int = 0
    machines: int = 1

    def has(self, part: int) -> bool:
        """Whether a part is this machine's."""
        return part % self.machines == self.number


class Done(NamedTuple):
    """What a finished part holds; ``seconds`` is how long it took, 0 where nobody asks."""

    images: int
    errors: int
    seconds: float = 0.0


class PartsFolder:
    """The folder, open for one shard; ``close`` lets others be that shard."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        shard: Shard,
        count: Callable[[BinaryIO], tuple[int, int]],
    ) -> None:
        """Make the folder or go on in it; ``count`` gives the images and errors of a part, ValueError if it is none.

        Raises InputError where it was begun with other settings or another process is this shard, OutputError where
        it cannot be written.
        """
        self.folder = folder
        self.form: str = settings["format"]
        self._count = count
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the folder {folder} ({error.strerror or error}): choose another place for --out"
            ) from None
        self._begin(settings)
        self._label = f"{shard.number}-of-{shard.machines}"
        self._journal = self._lock(folder / f"done-{self._label}.jsonl", shard)
        remove_leftovers(folder, f".part-*.{self._label}.part")
        remove_leftovers(folder, "parts.json.*.part")

    def _begin(self, settings: Mapping[str, Any]) -> None:
        place = self.folder / "parts.json"
        if not place.exists():
            if any(self.folder.glob("part-*.*")):
                raise InputError(
                    f"{self.folder}: holds parts but no parts.json, which says of what: choose another folder for --out"
                )
            write_file(place, (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        begun = read_settings(self.folder)
        if what := differences(begun, settings):
            raise InputError(
                f"{self.folder}: was begun with {what}, and its parts would not fit together: run the command that "
                "began it, or choose another folder for --out"
            )

    def _lock(self, path: Path, shard: Shard) -> BinaryIO:
        try:
            journal = path.open("a+b", buffering=0)
        except OSError as error:
            raise OutputError(
                f"cannot write {path} ({error.strerror or error}): choose another place for --out"
            ) from None
        if not hold(journal.fileno()):
            journal.close()
            which = f"shard {shard.number}/{shard.machines}" if shard.machines > 1 else "these parts"
            raise InputError(f"{self.folder}: another process answers {which} there: wait for its end, or end it")
        return journal

    def path(self, part: int) -> Path:
        """Where a part lies when it is whole."""
        return _path(self.folder, part, self.form)

    def finished(self) -> dict[int, Done]:
        """The parts that are there, of all shards, each with what it holds."""
        told = read_journals(self.folder)
        found = {}
        for path in self.folder.glob(f"part-*.{self.form}"):
            named = re.fullmatch(r"part-(\d{5,})\.\w+", path.name)
            if named is None:
                continue
            part = int(named[1])
            if part in told:
                found[part] = told[part]
            else:  # killed between the part and its line
                with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
                    found[part] = Done(*self._count(file))
        return found

    @contextmanager
    def writing(self, part: int) -> Iterator[BinaryIO]:
        """A file for a part, which takes its place once the block has ended well; nothing is left of it otherwise.

        Raises OutputError where it cannot be written.
        """
        place = self.path(part)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.{self._label}.part")
        try:
            with create(temporary) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                put(file, temporary, place)
            _sync(self.folder)
        except OSError as error:
            if error.filename not in (None, str(temporary), str(place)):
                raise  # about another file, within the block
            raise OutputError(
                f"cannot write {place} ({error.strerror or error}): make room, then run the command again: it goes on"
            ) from None
        finally:
            with suppress(OSError):  # it is in its place
                temporary.unlink()

    def tell(self, part: int, done: Done) -> None:
        """Say that a part is finished."""
        took = {"seconds": round(done.seconds, 3)} if done.seconds else {}
        line = json.dumps({"part": part, "images": done.images, "errors": done.errors, **took}) + "\n"
        try:
            # A line that was broken off is ended first.
            end = self._journal.seek(0, os.SEEK_END)
            self._journal.seek(max(0, end - 1))
            broken = end > 0 and self._journal.read(1) != b"\n"
            self._journal.write(("\n" * broken + line).encode())
        except OSError as error:
            raise OutputError(
                f"cannot write into {self.folder} ({error.strerror or error}): make room, then run the command again: "
                "it goes on"
            ) from None

    def close(self) -> None:
        """Let another process be this shard."""
        self._journal.close()


def all_parts(folder: Path, count: int, form: str) -> list[Path]:
    """The files of a folder that has all of its parts; InputError that names those that it lacks."""
    paths = [_path(folder, part, form) for part in range(count)]
    missing = [str(part) for part, path in enumerate(paths) if not path.is_file()]
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise InputError(
            f"{folder}: lacks {len(missing)} of {count} parts ({shown}): run the command that began it, or the shards "
            "that have them, again"
        )
    return paths


def _path(folder: Path, part: int, form: str) -> Path:
    return folder / f"part-{part:05d}.{form}"


def read_settings(folder: Path) -> dict[str, Any]:
    """What parts.json of a folder says; empty where there is none; InputError where it cannot be read."""
    place = folder / "parts.json"
    try:
        settings = json.loads(place.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: cannot be read ({error}): choose another folder for --out") from None
    if not isinstance(settings, dict) or settings.get("schema") not in BEGINS:
        raise InputError(f"{place}: is not what --part writes: choose another folder for --out")
    return settings


def read_journals(folder: Path) -> dict[int, Done]:
    """What the shards of a folder say that their parts hold."""
    told: dict[int, Done] = {}
    for journal in sorted(folder.glob("done-*-of-*.jsonl")):
        for line in journal.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):  # the end of one that was killed
                record = json.loads(line)
                told[int(record["part"])] = Done(
                    int(record["images"]), int(record["errors"]), float(record.get("seconds", 0))
                )
    return told


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what parts were begun otherwise, in the words of the options; empty where they fit together."""
    if begun.get("schema") != now["schema"]:
        return BEGINS.get(str(begun.get("schema")), "another command")
    other = [key for key, value in now.items() if key not in _TOLD and begun.get(key) != value]
    what = " and ".join(SAYS.get(key, f"another --{key.replace('_', '-')}") for key in other)
    if {"listing_sha256", "dataset_sha256"} & set(other) and _count(begun) != _count(now):
        what += f" (then {_count(begun)}, now {_count(now)})"
    return what


def _count(settings: Mapping[str, Any]) -> str:
    images, parts = settings.get("images"), settings.get("parts")
    return f"{parts} parts" if images is None else f"{images:,} images"


def _sync(folder: Path) -> None:
    """Make sure that the new name lasts; Windows opens no folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
