"""What this machine has to run models with, and what is taken for them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from fusiform.engines import CHOICE, ENGINES, EngineName, named_engine
from fusiform.engines.native.compiled import LIBRARY, fast_kernels, usable_kernels
from fusiform.machine import installed_version, usable_cores
from fusiform.report import Report, Row

DISTRIBUTIONS: Mapping[EngineName, str] = {
    "litert": "ai-edge-litert",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "openvino": "openvino",
    "executorch": "executorch",
    "native": "fusiform",
}
"""The package that each engine's runtime comes in."""

_FILES: Mapping[EngineName, str] = {
    "litert": ".tflite, and weights",
    "onnxruntime": ".onnx",
    "torch": "TorchScript",
    "openvino": "OpenVINO's .xml",
    "executorch": ".pte",
    "native": "int8 classifiers in .tflite",
}
_EXTRAS: Mapping[EngineName, str] = {
    "onnxruntime": "onnx",
    "torch": "torch",
    "openvino": "openvino",
    "executorch": "executorch",
}
_INSTRUCTIONS = frozenset(
    [
        "avx2",
        "fma",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "avx_vnni",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
    ]
)
"""Of the instructions that Linux lists, those that make networks fast."""


def describe() -> Report:
    """Each engine with the version of its runtime or how to install it, and what int8 and float files run in, and why.

    No runtime is imported for it. Raises UsageError for an engine in the environment that there is none of.
    """
    named, kernels = named_engine(), tuple(usable_kernels())
    if named in ("native", "executorch"):  # which only their own files run in, wherever they are named
        named = None
    figures: Row = {
        "machine": platform.machine(),
        "instructions": _instructions(),
        "cores": usable_cores(),
        "kernels": kernels,
        "int8_engine": named or ("litert" if fast_kernels() is None else "native"),
        "float_engine": named or "litert",
        "why": _why(named, kernels),
    }
    return Report("Engines", tuple(_row(engine) for engine in ENGINES), figures, schema="fusiform.engines/1")


def _row(engine: EngineName) -> Row:
    if engine == "native":
        version = installed_version() or "unknown" if usable_kernels() else None
    else:
        version = installed_version(DISTRIBUTIONS[engine])
    install = _how(engine) if version is None else None
    return {"engine": engine, "files": _FILES[engine], "version": version, "install": install}


def _how(engine: EngineName) -> str:
    if engine == "native":
        return "install a C compiler (gcc or clang), then fusiform again"
    if engine not in _EXTRAS:
        return f"pip install {DISTRIBUTIONS[engine]}"
    return f'pip install "fusiform[{_EXTRAS[engine]}]"'


def _why(named: EngineName | None, kernels: tuple[str, ...]) -> str:
    if named is not None:
        return f"{CHOICE}={named} in the environment asks for it"
    if not kernels:
        built = "does not fit this machine or this version" if LIBRARY.exists() else "was not compiled"
        return f"the native engine {built}: LiteRT runs int8 classifiers too"
    if fast_kernels() is None:
        return "the processor has neither AVX-512 VNNI nor AVX-VNNI, without which the native engine is slower"
    return f"the native engine answers what LiteRT does, faster, with {kernels[0]}; LiteRT runs all else"


def _instructions() -> tuple[str, ...]:
    """Those of ``_INSTRUCTIONS`` that the processor has; none where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    listed = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(name for name in listed.partition(":")[2].split() if name in _INSTRUCTIONS)
