"""What a model can be exported to: an explicit list, each target's writer in its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fusiform.exporting.targets.base import Precision, TargetName, Writer
from fusiform.exporting.targets.web_samples import PageSample
from fusiform.spec import Task


@dataclass(frozen=True)
class Target:
    """A kind of file to export to.

    ``tolerance`` is the largest difference of a logit allowed by precision, as a share of the largest logit of the
    same picture; int8 has a budget of answers instead.
    """

    name: TargetName
    precisions: tuple[Precision, ...]
    tolerance: Mapping[Precision, float]
    writer: Callable[[], Writer]
    """Imports the target's file, and its library with it, only when it is asked for."""

    def allowed(self, precision: Precision, task: Task) -> float:
        """The tolerance for a task's answers, float32's for int8 too.

        A detector's may be twice as far off in float16: it answers with ten thousand numbers a picture, most of them
        about backgrounds of which it is very sure, and the largest difference is that of the rarest. 0.034 was seen
        where the root mean square was 0.002, and all boxes were the same.
        """
        tolerance = self.tolerance.get(precision, self.tolerance["float32"])
        return 2 * tolerance if task == "detection" and precision == "float16" else tolerance


def _litert() -> Writer:
    from fusiform.exporting.targets.litert import write

    return write


def _onnx() -> Writer:
    from fusiform.exporting.targets.onnx import write

    return write


def _torchscript() -> Writer:
    from fusiform.exporting.targets.torchscript import write

    return write


def _openvino() -> Writer:
    from fusiform.exporting.targets.openvino import write

    return write


def _executorch() -> Writer:
    from fusiform.exporting.targets.executorch import write

    return write


def _coreml() -> Writer:
    from fusiform.exporting.targets.coreml import write

    return write


def _web() -> Writer:
    from fusiform.exporting.targets.web import write

    return write


def page_writer(samples: Sequence[PageSample] | None) -> Writer:
    """The writer of a page that shows the ``samples``, None being the package's own."""
    from fusiform.exporting.targets.web import write

    return partial(write, samples=samples)


_ALL: tuple[Precision, ...] = ("float32", "float16", "int8")
# float32 runtimes sum in other orders. float16 keeps 11 bits of every weight, fewer of the smallest, of which networks
# with folded normalisation have many: 0.008 to 0.019 were seen.
_TOLERANCE: Mapping[Precision, float] = {"float32": 1e-3, "float16": 3e-2}

TARGETS: Mapping[TargetName, Target] = {
    "litert": Target("litert", _ALL, _TOLERANCE, _litert),
    "onnx": Target("onnx", _ALL, _TOLERANCE, _onnx),
    "torchscript": Target("torchscript", ("float32",), _TOLERANCE, _torchscript),
    "openvino": Target("openvino", _ALL, _TOLERANCE, _openvino),
    "executorch": Target("executorch", ("float32", "int8"), _TOLERANCE, _executorch),
    "coreml": Target("coreml", ("float32", "float16"), _TOLERANCE, _coreml),
    "web": Target("web", _ALL, _TOLERANCE, _web),
}

DECODING: tuple[TargetName, ...] = ("litert", "onnx", "openvino")
"""Targets whose files can decode boxes and masks themselves."""
