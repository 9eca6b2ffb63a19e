"""Other people's names for the weights of these networks, found by what fits: prefixes, heads and whole schemes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from fusiform.errors import WeightsError
from fusiform.graph.builder import Shape
from fusiform.graph.shapes import expected_shapes
from fusiform.report import printable
from fusiform.tables import TRAITS

Fits = Callable[[Mapping[str, Shape]], bool]
Names = dict[str, str]
"""From torchvision's names to those of a file."""

_MAX_ENTRIES = 4096
"""A state of more entries is of no network here; files made to harm have millions."""
_MAX_PREFIXES = 16
_COUNTER = "num_batches_tracked"

# The networks whose layers may be told by their order: nothing but the layers makes MobileNetV2, while ShuffleNetV2s
# of the same shapes differ in which half of the channels goes where.
_ORDERED = ("mobilenet_v2",)
# timm's name of the first convolution, beside torchvision's; the prefix stands before it.
_STEMS = (*(f"{traits.stem}.weight" for traits in TRAITS.values()), "conv_stem.weight")
# What comes first: pytorch-mobilenet-v2 calls the last convolution conv, timm conv_head.
_FIRST = {"conv_stem": 0, "bn1": 1, "features": 2, "blocks": 2, "conv": 3, "conv_head": 3, "bn2": 4, "classifier": 5}
_TIMM_BLOCK = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
_TIMM_FIRST_BLOCK = ("conv_dw", "bn1", "conv_pw", "bn2")


def torchvision_names(shapes: Mapping[str, Shape], fits: Fits, *, source: str) -> Names:
    """The names in a file for each of torchvision's; empty where no way is known to read them as a network.

    ``fits`` tells whether entries with torchvision's names are exactly those of a network. Read are any prefix, with
    whatever else stands beside it; a linear layer in place of the classifier's list; and MobileNetV2 in the names of
    pytorch-mobilenet-v2, of timm, or any others that list its layers in their order. Raises WeightsError where
    several networks are in one state, and none is a moving average.
    """
    if len(shapes) > _MAX_ENTRIES:
        return {}
    found: dict[str, Names] = {}
    for prefix in _prefixes(shapes):
        inner = {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}
        if names := _match(inner, fits):
            found[prefix] = {theirs: prefix + own for theirs, own in names.items()}
            if not prefix:
                break
    return choose(found, source=source)


def choose(found: Mapping[str, Names], *, source: str) -> Names:
    """The only one of some networks, by where they were found, or the moving average among them."""
    averages = [where for where in found if "ema" in re.split(r"[._ ]", where.lower())]
    chosen = averages if len(averages) == 1 else list(found)
    if len(chosen) > 1 and "" not in chosen:
        names = ", ".join(sorted(chosen))
        raise WeightsError(f"{source} holds several networks ({names}): save the state dict of the one that is meant")
    return found["" if "" in chosen else chosen[0]] if chosen else {}


def shown(name: str) -> str:
    """A tensor's name, or a class's, in a message, whatever the file calls it."""
    return printable(name if len(name) <= 100 else f"{name[:97]}...")


def common_prefix(names: Mapping[str, object]) -> str:
    """The prefix before a first convolution that all names have."""
    return next((prefix for prefix in _prefixes(names) if all(name.startswith(prefix) for name in names)), "")


def _prefixes(names: Mapping[str, object]) -> list[str]:
    """What stands before the names of first convolutions, the empty prefix first."""
    found = {""}
    for name in names:
        for stem in _STEMS:
            if name.endswith(f".{stem}"):
                found.add(name[: -len(stem)])
    return sorted(found, key=len)[:_MAX_PREFIXES]


def _match(shapes: Mapping[str, Shape], fits: Fits) -> Names:
    """The names within a prefix for torchvision's."""
    entries = sum(not name.endswith(f".{_COUNTER}") for name in shapes)
    for architecture, traits in TRAITS.items():
        modules = _modules(architecture)
        if entries != sum(len(leaves) for leaves in modules.values()):
            continue
        for names in (*_with_other_head(shapes, traits.classifier), *_in_order(shapes, architecture)):
            if fits({theirs: shapes[own] for theirs, own in names.items()}):
                return names
    return {}


def _with_other_head(shapes: Mapping[str, Shape], classifier: str) -> Iterator[Names]:
    """As they are, and with the only linear layer below the head's name as the classifier."""
    yield {name: name for name in shapes}
    head = classifier.split(".")[0]
    linear = {name.rpartition(".")[0] for name in shapes if name.split(".")[0] == head}
    if len(linear) == 1:
        (own,) = linear
        yield {
            f"{classifier}.{name.rpartition('.')[2]}" if name.rpartition(".")[0] == own else name: name
            for name in shapes
        }


def _in_order(shapes: Mapping[str, Shape], architecture: str) -> Iterator[Names]:
    """The layers by their order: that of the schemes that are known, then the file's own."""
    theirs = _modules(architecture)
    own: dict[str, list[str]] = {}
    for name in shapes:
        parent, _, leaf = name.rpartition(".")
        own.setdefault(parent, []).append(leaf)
    if architecture not in _ORDERED or len(own) != len(theirs):
        return
    orders = []
    if all(name.split(".")[0] in _FIRST for name in own):
        orders.append(sorted(own, key=lambda name: _place(name, own)))
    if _counts_up(list(own), shapes, own):
        orders.append(list(own))
    for order in orders:
        yield {
            f"{their}.{leaf}": f"{mine}.{leaf}" for their, mine in zip(theirs, order, strict=True) for leaf in own[mine]
        }


def _place(name: str, own: Mapping[str, object]) -> tuple[int, list[tuple[int, int, str]]]:
    """A sorting key: the scheme's order of the first names, numbers by value, and timm's layers of a block."""
    parts = name.split(".")
    last = parts[-1]
    if parts[0] == "blocks":
        above = name.rpartition(".")[0]
        layers = _TIMM_BLOCK if f"{above}.conv_pwl" in own else _TIMM_FIRST_BLOCK
        if last in layers:
            parts[-1] = str(layers.index(last))
    key = [(0, int(part), "") if part.isdecimal() and len(part) < 10 else (1, 0, part) for part in parts[1:]]
    return _FIRST[parts[0]], key


def _counts_up(order: list[str], shapes: Mapping[str, Shape], own: Mapping[str, list[str]]) -> bool:
    """Whether layers of the same shapes, which no check could tell apart, come in the order of their numbers."""
    last: dict[tuple[object, ...], list[tuple[int, int, str]]] = {}
    for name in order:
        kind = tuple((leaf, shapes[f"{name}.{leaf}"]) for leaf in sorted(own[name]) if leaf != _COUNTER)
        parts = re.split(r"(\d{1,9})", name)
        key = [(0, int(part), "") if k % 2 else (1, 0, part) for k, part in enumerate(parts)]
        if kind in last and last[kind] >= key:
            return False
        last[kind] = key
    return True


@lru_cache(maxsize=len(TRAITS))
def _modules(architecture: str) -> dict[str, list[str]]:
    """Torchvision's layers in their order, and what each has; those are the same at every width."""
    modules: dict[str, list[str]] = {}
    for name in expected_shapes(architecture, TRAITS[architecture].widths[0]):
        parent, _, leaf = name.rpartition(".")
        modules.setdefault(parent, [])
        if leaf != _COUNTER:
            modules[parent].append(leaf)
    return modules
