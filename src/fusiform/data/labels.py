"""Which output of a model stands for which class of a data set."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

from fusiform.errors import UsageError
from fusiform.report import printable
from fusiform.spec import ModelSpec

_SHOWN = 5


def bind_classes(classes: Sequence[str], spec: ModelSpec) -> tuple[int, ...]:
    """The index of the model's output for each class of a data set, in the order of ``classes``.

    A class is looked up, in this order, as one of the model's class names, exactly; as one of them in other letters'
    case or with other spaces, underscores and hyphens; as one of ``spec.label_ids``, WordNet ids for ImageNet; as the
    index of an output ("0", "1", ...). Indices count only if all the classes that nothing else fits are indices, and
    no class of the model is itself called by a number: there a number is a name.

    Raises UsageError for classes that fit nothing, with the names that come close; for a name that several outputs
    bear ("crane" in ImageNet); and for two classes that come to the same output.
    """
    names = _indices([_nfc(label) for label in spec.labels])
    loose = _indices([_loosely(label) for label in spec.labels])
    ids = _indices([label_id.casefold() for label_id in spec.label_ids])
    found: list[int | None] = []
    for name in classes:
        fits = names.get(_nfc(name)) or loose.get(_loosely(name)) or ids.get(name.casefold(), [])
        if len(fits) > 1:
            how = "id or index" if spec.label_ids else "index"
            raise UsageError(
                f"class {printable(name)!r}: {len(fits)} outputs of {spec.name} bear that name "
                f"({', '.join(map(str, fits))}): call the class by its {how}"
            )
        found.append(fits[0] if fits else None)

    unknown = [name for name, index in zip(classes, found, strict=True) if index is None]
    if unknown:
        numbers = [_number(name) for name in unknown]
        if any(_number(label) is not None for label in spec.labels) or not all(
            number is not None and number < spec.num_classes for number in numbers
        ):
            raise UsageError(_no_fit(unknown, len(classes), spec))
        indices = iter(numbers)
        found = [next(indices) if index is None else index for index in found]

    outputs = tuple(index for index in found if index is not None)
    bound: dict[int, str] = {}
    for name, output in zip(classes, outputs, strict=True):
        if output in bound:
            raise UsageError(
                f"classes {printable(bound[output])!r} and {printable(name)!r} both come to output {output} of "
                f"{spec.name} ({printable(spec.labels[output])!r}): put their pictures into one class"
            )
        bound[output] = name
    return outputs


def _indices(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(name, []).append(index)
    return found


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _loosely(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", _nfc(name)).strip().casefold()


def _number(name: str) -> int | None:
    # No more digits than an index can have: int() refuses thousands of them.
    return int(name) if re.fullmatch(r"[0-9]{1,9}", name) else None


def _no_fit(unknown: Sequence[str], count: int, spec: ModelSpec) -> str:
    spellings = {_loosely(label): label for label in spec.labels}
    shown = []
    for name in unknown[:_SHOWN]:
        close = difflib.get_close_matches(_loosely(name), spellings, n=3)
        hint = f" (close: {', '.join(printable(spellings[spelling]) for spelling in close)})" if close else ""
        shown.append(f"{printable(name)!r}{hint}")
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    ways = "the model's class names, their ids or indices" if spec.label_ids else "the model's class names or indices"
    return (
        f"{len(unknown)} of {count} classes fit no output of {spec.name}: {', '.join(shown)}{more}: "
        f"call them by {ways}, or train the model on them first"
    )
