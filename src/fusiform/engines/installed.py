"""What this machine has to run models with, and what is taken for them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from fusiform.engines import CHOICE, ENGINES, EngineName, named_engine
from fusiform.engines.native.compiled import LIBRARY, UNMEASURED, fast_kernels, usable_kernels
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
    by_default = "litert" if fast_kernels() is None else "native"
    if named in ("native", "executorch"):  # which only their own files run in, wherever they are named
        by_default, named = "native" if named == "native" and kernels else by_default, None
    figures: Row = {
        "machine": platform.machine(),
        "instructions": _instructions(),
        "cores": usable_cores(),
        "kernels": kernels,
        "int8_engine": named or by_default,
        "float_engine": named or "litert",
        "why": _why(named, kernels, by_default),
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


def _why(named: EngineName | None, kernels: tuple[str, ...], by_default: str) -> str:
    if named is not None or (by_default == "native" and fast_kernels() is None):
        return f"{CHOICE}={named or by_default} in the environment asks for it"
    if not kernels:
        built = "does not fit this machine or this version" if LIBRARY.exists() else "was not compiled"
        return f"the native engine {built}: LiteRT runs int8 classifiers too"
    if kernels[0] in UNMEASURED:
        return f"how fast the native engine is with {kernels[0]} was never measured; {CHOICE}=native takes it"
    if fast_kernels() is None:
        return "the processor has no instructions with which the native engine is faster than LiteRT"
    return f"the native engine answers what LiteRT does, faster, with {kernels[0]}; LiteRT runs all else"


def _instructions() -> tuple[str, ...]:
    """Those of ``_INSTRUCTIONS`` that the processor has; none where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    listed = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(name for name in listed.partition(":")[2].split() if name in _INSTRUCTIONS)
