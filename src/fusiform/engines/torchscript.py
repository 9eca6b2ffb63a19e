"""TorchScript on the CPU, an NVIDIA GPU or Apple's."""

from __future__ import annotations

import ast
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, check_batch
from fusiform.engines.device import find_device
from fusiform.errors import MissingExtraError, WeightsError
from fusiform.report import printable
from fusiform.spec import ModelSpec

# All that a frozen network of fusiform's calls; `_convolution` is how tracing writes conv2d.
_OPERATORS = {
    "_convolution",
    "add",
    "cat",
    "conv2d",
    "linear",
    "max_pool2d",
    "mean",
    "narrow",
    "pad",
    "permute",
    "relu",
    "relu6",
    "reshape",
    "tile",
}
_SYNTAX = (
    ast.Module,
    ast.ClassDef,
    ast.FunctionDef,
    ast.arguments,
    ast.arg,
    ast.Assign,
    ast.Return,
    ast.Call,
    ast.Attribute,
    ast.Name,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.UnaryOp,
    ast.unaryop,
    ast.expr_context,
)


class TorchScriptEngine:
    """Runs a TorchScript archive, scripted or traced, a whole batch at once.

    ``device`` is as in ``find_device``, which says what it raises. ``threads`` holds for all of PyTorch in this
    process. Raises MissingExtraError without PyTorch, and WeightsError for a file that is damaged, does other things
    than fusiform's networks do, or does not answer as ``spec`` says.
    """

    def __init__(self, data: bytes, spec: ModelSpec, *, threads: int = 1, device: str = "cpu") -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtraError("PyTorch", "torch", "running TorchScript files") from None
        self.spec = spec
        self._torch = torch
        torch.set_num_threads(threads)
        self._device = find_device(device)
        _check_program(data)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"`torch\.jit\.load` is (deprecated|not supported in Python)")
                self._network = torch.jit.load(  # type: ignore[no-untyped-call]
                    io.BytesIO(data), map_location=self._device
                )
            size = spec.input_size
            with torch.inference_mode():
                picture = torch.zeros(1, spec.input_channels, size, size, device=self._device)
                answers = _in_order(self._network(picture))
        except Exception as error:  # what a wrong file raises is not written down
            reason = (str(error) or repr(error)).splitlines()[0]
            raise WeightsError(f"PyTorch cannot run {spec.name}: {printable(reason)}; export it again") from None
        found = [tuple(a.shape) if isinstance(a, torch.Tensor) else type(a).__name__ for a in answers]
        wanted = [(1, *shape) for shape in spec.answers.values()]
        if found != wanted:
            raise WeightsError(
                f"the file answers a picture with {', '.join(map(str, found))}, but its description names "
                f"{spec.num_classes} classes, {', '.join(map(str, wanted))}: export it again"
            )

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        pictures = as_normalized(batch, self.spec.preprocess)
        with self._torch.inference_mode():
            answers = _in_order(self._network(self._torch.from_numpy(pictures).to(self._device)))
            return {
                name: answer.float().cpu().contiguous().numpy()
                for name, answer in zip(self.spec.answers, answers, strict=True)
            }


def _in_order(answers: Any) -> tuple[Any, ...]:
    """A network's answers, of which one alone is no tuple."""
    return answers if isinstance(answers, tuple) else (answers,)


def _check_program(data: bytes) -> None:
    """Raise WeightsError for an archive that is damaged, or that is more than a network and its weights.

    torch.jit.load reads its pickles in C++ and runs no Python, but PyTorch warns against files from strangers all the
    same: the archive's own ``__setstate__`` runs while it is loaded, operators can open files (torch.from_file), and
    neither checksums nor the sizes of tensors are compared with the bytes that are there. So all that is looked at
    first, through the reader that torch.jit.load itself uses.
    """
    import torch

    try:
        if data[:4] != b"PK\x03\x04":  # torch.jit.load knows another format by its first bytes
            raise ValueError("no archive")
        if damaged := zipfile.ZipFile(io.BytesIO(data)).testzip():
            raise ValueError(damaged)
        archive = torch._C.PyTorchFileReader(io.BytesIO(data))
        records = {name: archive.get_record(name) for name in archive.get_all_records()}
        if any(name.startswith("data/") for name in records):
            raise ValueError("tensors that are not constants")
        _Constants(records).load()
        trees = [
            ast.parse(record) for name, record in records.items() if name.startswith("code/") and name.endswith(".py")
        ]
    except Exception:  # zipfile, zlib, pickle and PyTorch's reader each raise their own
        raise WeightsError("not a TorchScript archive, or a damaged one; export it again") from None
    for tree in trees:
        for node in ast.walk(tree):
            if not _is_of_a_network(node):
                raise WeightsError(
                    f"its code does what none of fusiform's networks does ({ast.unparse(node)[:60]!r}), so nothing of "
                    "it was run; export it again from its model: fusiform export MODEL --to torchscript"
                )


class _Constants(pickle.Unpickler):
    """Reads the description of the weights, making none of them; ValueError where one is larger than its bytes."""

    def __init__(self, records: Mapping[str, bytes]) -> None:
        super().__init__(io.BytesIO(records["constants.pkl"]))
        self.records = records

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "torch._utils._rebuild_tensor_v2": _check_size,
            "torch.FloatStorage": 4,
            "collections.OrderedDict": dict,
        }
        return allowed[f"{module}.{name}"]

    def persistent_load(self, saved: Any) -> int:
        _, bytes_each, key, _, count = saved
        if len(self.records[f"constants/{key}"]) != count * bytes_each:
            raise ValueError(key)
        return int(count)


def _check_size(count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> None:
    numbers = [offset, *shape, *strides, *(size - 1 for size in shape)]
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min(numbers) < 0 or last >= count:
        raise ValueError(shape)


def _is_of_a_network(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=operator), keywords=[]):
            return operator in _OPERATORS
        case ast.Call():
            return False
        case ast.Subscript():  # the type of a detector's answers
            return ast.unparse(node) == "Tuple[Tensor, Tensor]"
        case ast.FunctionDef(name=name, decorator_list=decorators):
            return name == "forward" and not decorators
    return isinstance(node, _SYNTAX)
