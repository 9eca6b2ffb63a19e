"""Compiles the engine ``native`` when a wheel is built, or an editable installation, where there is a C compiler.

Without one, or on another processor than x86-64 or 64-bit ARM, the wheel is a pure one, and one line says so: LiteRT
runs everything that the engine would. ``FUSIFORM_NATIVE=0`` in the environment asks for that.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.macos import process_macos_plat_tag
from packaging.tags import sys_tags

FOLDER = Path("src/fusiform/engines/native")
SOURCES = ("program.c", "packing.c", "portable.c", "avx512.c", "avxvnni.c", "i8mm.c", "dotprod.c")
# Floating point is LiteRT's only if nothing is fused; without the other two GCC makes no vectors of some loops.
FLAGS = ["-O3", "-std=gnu11", "-shared", "-fvisibility=hidden"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
LIBRARY = "fusiform_native" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
SECONDS = 300


def compile_library(folder: Path, target: Path) -> str | None:
    """Write the library to ``target``; what is in the way, None if nothing is."""
    if os.environ.get("FUSIFORM_NATIVE") == "0":
        return "FUSIFORM_NATIVE=0 asks for none"
    if platform.machine().lower() not in ("x86_64", "amd64") and not is_arm():
        return f"it is for x86-64, and for 64-bit ARM with Linux or macOS, and this is {platform.machine()}"
    names = [os.environ.get("CC", "").split(), ["cc"], ["gcc"], ["clang"]]
    compiler = next((name for name in names if name and shutil.which(name[0])), None)
    if compiler is None:
        return "there is no C compiler (cc, gcc, clang or what CC names)"
    independent = () if sys.platform == "win32" else ("-fPIC",)
    sources = [str(folder / name) for name in SOURCES]
    command = [*compiler, *FLAGS, *independent, "-o", str(target), *sources, "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{compiler[0]} did not run ({error})"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return f"{compiler[0]} failed ({next((line for line in lines if 'error' in line), lines[0])})"
    return None


def is_arm() -> bool:
    """Whether the processor is one whose instructions the library knows how to ask for."""
    return sys.platform in ("linux", "darwin") and platform.machine() in ("aarch64", "arm64")


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the library to wheels, and to the sources where they are installed as they lie."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root) / FOLDER
        self._temporary = tempfile.TemporaryDirectory()  # gone with the hook, when the wheel is written
        built = Path(self._temporary.name) / LIBRARY
        if (problem := compile_library(folder, built)) is not None:
            self.app.display_warning(f"fusiform goes without its engine native: {problem}; LiteRT runs all models")
            return
        if version == "editable":
            try:  # under another name first: a process may have the old one loaded
                shutil.copy(built, folder / f"{LIBRARY}.new")
                (folder / f"{LIBRARY}.new").replace(folder / LIBRARY)
            except OSError as error:
                self.app.display_warning(f"fusiform goes without its engine native: {error}; LiteRT runs all models")
            return
        build_data["force_include"][str(built)] = f"fusiform/engines/native/{LIBRARY}"
        build_data["pure_python"] = False
        system = next(
            tag.platform for tag in sys_tags() if "manylinux" not in tag.platform and "musl" not in tag.platform
        )
        if sys.platform == "darwin":  # the oldest system that the compiler was told to care for
            system = process_macos_plat_tag(system, compat=False)
        build_data["tag"] = f"py3-none-{system}"
