"""What the pickle in a PyTorch file would make, looked at before PyTorch makes it.

``torch.load(weights_only=True)`` runs no code of the file's, but it calls what the file names with the arguments that
the file gives: ``bytearray(2 ** 40)``, the text of a list that holds itself many times over, a tuple that takes for
ever to hash. Here the same instructions are followed without calling anything, and refused where a call is none that
saving a checkpoint leads to, or asks for more than lies in the file.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, which PyTorch translates too
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from fusiform.errors import WeightsError
from fusiform.fields import show
from fusiform.spec import MAX_TENSORS
from fusiform.zoo.archives import DAMAGED_ZIP
from fusiform.zoo.foreign_names import shown

_ZIP = b"PK\x03\x04"
_MAX_INSTRUCTIONS = 2_000_000
"""A checkpoint with its optimiser has some 30,000, one that keeps every loss the most; this many take seconds."""
_MAX_TUPLE = 10_000
"""Values in a tuple and the tuples within, each as often as it is there: all of them are looked at to hash it."""
_LEGACY_PICKLES = 5
"""At the beginning of PyTorch's files before they were archives: a number, version, system, the object, its keys."""

# Bytes of a number, by the class of its storage; of all others one.
_BYTES_EACH = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    "ComplexDoubleStorage": 16,
}
_CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True}
_NUMBERS_AND_TEXTS = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1")
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Global(NamedTuple):
    """A class or function by its name."""

    name: str


class _Tuple(NamedTuple):
    """``weight`` counts its values and those of the tuples within, each as often as it is there."""

    values: tuple[Any, ...]
    weight: int


class _Made(NamedTuple):
    """What the call of a class or function makes, and how many bytes or values that has."""

    by: str
    size: int = 0


class _RefusedError(Exception):
    """Why a file is not loaded, without its name."""


HOLDS_MORE = (
    "holds {}; loading more than tensors can run code, so nothing was loaded. Ask for a state dict, "
    "torch.save(model.state_dict(), file), or a safetensors file"
)
_DAMAGED = "is damaged or no PyTorch state dict ({}): fetch it again, or ask for a safetensors file"


def check_pickles(data: bytes, *, source: str) -> None:
    """WeightsError for a PyTorch file that would make more than lies in it, or calls what no checkpoint needs.

    What PyTorch refuses by itself is left to it.
    """
    try:
        if data.startswith(_ZIP):
            _check_zip(data)
        else:
            file, follower = io.BytesIO(data), _Follower(None, len(data))
            for _ in range(_LEGACY_PICKLES):
                if not follower.follow(file):
                    return
    except _RefusedError as refused:
        raise WeightsError(f"{source} {refused}") from None


def _check_zip(data: bytes) -> None:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        sizes: dict[str, int] = {}
        for entry in archive.infolist():
            name = entry.filename.lower()  # PyTorch finds entries in either case
            if name in sizes:
                raise _RefusedError(_DAMAGED.format(f"it has {entry.filename[:60]!r} twice"))
            sizes[name] = entry.file_size
        for entry in archive.infolist():
            folder, _, name = entry.filename.lower().rpartition("/")
            if name == "data.pkl":
                content = archive.read(entry)
                storages = {name[len(folder) :]: size for name, size in sizes.items() if name.startswith(folder)}
                _Follower(storages, sum(sizes.values())).follow(io.BytesIO(content))
    except DAMAGED_ZIP:  # PyTorch has its own reader, which would read what was not looked at
        raise _RefusedError(_DAMAGED.format("its archive")) from None


class _Follower:
    """Follows instructions as ``torch._weights_only_unpickler`` does, with names in place of what they stand for.

    ``storages`` are the bytes behind each ``/data/KEY`` of an archive, None in older files; ``most`` is the bytes of
    all together.
    """

    def __init__(self, storages: Mapping[str, int] | None, most: int) -> None:
        self.storages = storages
        self.most = most
        self.claimed: dict[str, int] = {}
        self.count = 0
        self.tensors = 0

    def follow(self, file: BinaryIO) -> bool:
        """Whether a pickle ended as it should; False where PyTorch stops at an instruction that it does not know."""
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        try:
            for instruction, given, _ in pickletools.genops(file):
                self.count += 1
                if self.count > _MAX_INSTRUCTIONS:
                    raise _RefusedError(
                        "holds millions of values beside its tensors: load it where it was made, and save its state "
                        "dict alone"
                    )
                if instruction.name == "STOP":
                    return True
                if not self.step(instruction.name, given):
                    return False
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
            raise _RefusedError(_DAMAGED.format("its pickle")) from None
        return False

    def step(self, name: str, given: Any) -> bool:
        """One instruction; False where it is none of those that PyTorch knows."""
        stack = self.stack
        if name in _NUMBERS_AND_TEXTS:
            stack.append(given)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[given] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[given])
        elif name in _TUPLES:
            length = _TUPLES[name]
            if length > len(stack):
                raise IndexError(name)
            values = stack[len(stack) - length :]
            del stack[len(stack) - length :]
            stack.append(_tuple(values))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_SET"):
            stack.append(_Made(name))
        elif name == "EMPTY_LIST":
            stack.append([])
        else:
            return self.rarer_step(name, given)
        return True

    def rarer_step(self, name: str, given: Any) -> bool:
        """Another instruction, likewise."""
        match name:
            case "MARK":
                self.marks.append(self.stack)
                self.stack = []
            case "TUPLE":
                values = self.pop_mark()
                self.stack.append(_tuple(values))
            case "APPEND":
                value = self.stack.pop()
                self.stack[-1].append(value)
            case "APPENDS":
                values = self.pop_mark()
                self.stack[-1].extend(values)
            case "SETITEM":
                del self.stack[-2:]
            case "SETITEMS":
                self.pop_mark()
            case "GLOBAL":
                self.stack.append(_named(given))
            case "REDUCE" | "NEWOBJ":
                arguments, called = self.stack.pop(), self.stack.pop()
                made = _call(called.name, arguments.values, self.most)
                self.tensors += made.by.startswith("torch._utils._rebuild_tensor")
                if self.tensors > MAX_TENSORS:
                    raise _RefusedError(
                        f"holds more than {MAX_TENSORS:,} tensors, and no checkpoint of a network here does: save the "
                        "state dict alone"
                    )
                self.stack.append(made)
            case "BUILD":
                _build(self.stack[-2], self.stack.pop())
            case "BINPERSID":
                self.stack.append(self.storage(self.stack.pop()))
            case "PROTO":
                pass
            case _:
                return False
        return True

    def pop_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def storage(self, saved: Any) -> _Made:
        """The numbers of one or several tensors, which the file holds elsewhere."""
        _, kind, key, _, count = saved.values[:5]
        bytes_claimed = count * _BYTES_EACH.get(kind.name.rpartition(".")[2], 1)
        if self.storages is not None:
            there = self.storages.get(f"/data/{key}".lower(), -1)
        else:
            self.claimed[str(key)] = bytes_claimed
            there = self.most - sum(self.claimed.values()) + bytes_claimed
        if not 0 <= bytes_claimed <= there:
            what = f"of the {show(bytes_claimed)} bytes of a tensor it has {max(there, 0):,}"
            raise _RefusedError(_DAMAGED.format(what))
        return _Made("storage", bytes_claimed)


def _tuple(values: list[Any]) -> _Tuple:
    weight = 1 + sum(value.weight if isinstance(value, _Tuple) else 1 for value in values)
    if weight > _MAX_TUPLE:
        raise _RefusedError("holds a tuple of tens of thousands of values, which no checkpoint needs: fetch another")
    return _Tuple(tuple(values), weight)


def _named(given: str) -> _Global:
    module, _, name = given.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return _Global(f"{IMPORT_MAPPING.get(module, module)}.{name}")


def _call(name: str, arguments: tuple[Any, ...], most: int) -> _Made:
    """What a call makes; refused where it is none of those that saving leads to."""
    for pattern, fits in _CALLS:
        if pattern.fullmatch(name):
            if not fits(arguments):
                raise _RefusedError(_DAMAGED.format(f"what it gives to {shown(name)}"))
            if name.endswith("._rebuild_from_type_v2"):  # calls the first with the third
                return _call(arguments[0].name, arguments[2].values, most)
            made = _Made(name, _size(arguments))
            if name.endswith("_from_cpu_tensor") and arguments[0].size > most:  # copies it
                raise _RefusedError(_DAMAGED.format(f"what it gives to {shown(name)}"))
            return made
    raise _RefusedError(HOLDS_MORE.format(shown(name.removeprefix("builtins."))))


def _size(arguments: tuple[Any, ...]) -> int:
    """Of a tensor (storage, offset, size, strides, ...) its numbers, of a text its characters."""
    if len(arguments) > 3 and isinstance(arguments[2], _Tuple):
        return math.prod(arguments[2].values)
    return len(arguments[0]) if arguments and isinstance(arguments[0], (str, list)) else 0


def _build(made: Any, state: Any) -> None:
    """What is put into an object that was made: of an array its numbers, which have to be there."""
    if not isinstance(made, _Made):
        raise TypeError
    if made.by.endswith("multiarray._reconstruct"):
        shape, numbers = state.values[1].values, state.values[4]
        there = len(numbers) if isinstance(numbers, (str, list)) else numbers.size
        if min(shape, default=0) < 0 or math.prod(shape) > there:
            raise _RefusedError(_DAMAGED.format("an array larger than its numbers"))
    elif made.by == "numpy.dtype" and (
        any(value is not None for value in state.values[2:5]) or max(state.values[5:7]) > _MAX_TUPLE
    ):
        raise _RefusedError(_DAMAGED.format("an array of structures"))


def _nothing(arguments: tuple[Any, ...]) -> bool:
    return not arguments


def _anything(arguments: tuple[Any, ...]) -> bool:
    del arguments
    return True


def _one_dict(arguments: tuple[Any, ...]) -> bool:
    return not arguments or (len(arguments) == 1 and arguments[0] == _Made("EMPTY_DICT"))


def _one_list(arguments: tuple[Any, ...]) -> bool:
    return not arguments or (len(arguments) == 1 and isinstance(arguments[0], list))


def _latin_text(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] in ("latin1", "latin-1")


def _bytes(arguments: tuple[Any, ...]) -> bool:
    return _nothing(arguments) or _latin_text(arguments) or (len(arguments) == 1 and _is_bytes(arguments[0]))


def _is_bytes(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, _Made) and value.by == "_codecs.encode")


def _dtype(arguments: tuple[Any, ...]) -> bool:
    text = arguments[0]
    return isinstance(text, str) and re.fullmatch(r"[<>|=]?[?bBhHiIlLqQefdgFDGSUOVmM]\d{0,4}", text) is not None


def _scalar(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 2 and isinstance(arguments[0], _Made) and _is_bytes(arguments[1])


def _empty_array(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments[0] == _Global("numpy.ndarray") and arguments[1].values == (0,))


def _rebuilt(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments[0].name.startswith("torch._utils._rebuild_"))


# What saving a checkpoint calls, by what ``zoo.checkpoint`` allows beside PyTorch, and with which arguments.
_CALLS: tuple[tuple[re.Pattern[str], Callable[[tuple[Any, ...]], bool]], ...] = tuple(
    (re.compile(pattern), fits)
    for pattern, fits in (
        (r"torch\._utils\._rebuild_\w+", _anything),
        (r"torch\._tensor\._rebuild_from_type_v2", _rebuilt),
        (r"torch\.nn\.parameter\.Parameter", lambda arguments: isinstance(arguments[0], _Made)),
        (r"torch\.(\w+\.)*\w*Tensor", _nothing),
        (r"torch\.(Size|device|serialization\._get_layout)", _anything),
        (r"collections\.OrderedDict|builtins\.set", _one_list),
        (r"collections\.Counter|.*\.AttributeDict|builtins\.dict", _one_dict),
        (r"collections\.defaultdict|builtins\.complex|datetime\.\w+|pathlib\.\w+", _anything),
        (r"argparse\.Namespace|types\.SimpleNamespace|builtins\.list", _nothing),
        (r"_codecs\.encode", _latin_text),
        (r"builtins\.bytearray", _bytes),
        (r"numpy\.dtype", _dtype),
        (r"numpy\.(core|_core)\.multiarray\.scalar", _scalar),
        (r"numpy\.(core|_core)\.multiarray\._reconstruct", _empty_array),
    )
)
