"""The layers of the package, and what may be imported where."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fusiform"

# Where PyTorch and the ONNX libraries may be imported when the file itself is; all others import them on demand.
HEAVY = {
    "torch": ("modules/", "nets/", "training/", "exporting/"),
    "torchvision": (),
    "onnx": ("graph/onnx.py", "graph/onnx_decoded.py", "graph/onnx_limits.py"),
    "onnxruntime": (),
    "openvino": ("exporting/targets/openvino.py",),
    "executorch": ("exporting/targets/executorch.py",),
    "coremltools": ("exporting/targets/coreml.py",),
    "faster_coco_eval": (),
    "av": (),
    "watchfiles": (),
    "matplotlib": ("training/curves.py", "training/lr_finder.py"),
}

BLOCK_HEAVY = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(HEAVY)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_module_imports_only_from_lower_layers() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def imported_at_once(source: str) -> set[str]:
    """The top-level packages that a module imports when it is imported itself, not within a function."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
        waiting += ast.iter_child_nodes(node)
    return found


def test_heavy_packages_are_imported_where_they_are_the_job() -> None:
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    assert "torch" in imported_at_once(modules["modules/mobilenet_v2.py"].read_text(encoding="utf-8"))
    wrong = [
        f"{name} imports {package}"
        for name, path in modules.items()
        for package in imported_at_once(path.read_text(encoding="utf-8")) & set(HEAVY)
        if not name.startswith(HEAVY[package])
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch", {"torch"}),
        ("try:\n    from torch.nn import functional\nexcept ImportError:\n    import onnx.helper", {"torch", "onnx"}),
        ("class A:\n    import torch\n    def f(self):\n        import onnx", {"torch"}),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import onnx", {"onnx"}),
        ("def f():\n    import torch", set()),
    ],
)
def test_the_search_for_imports_finds_them(code: str, expected: set[str]) -> None:
    assert imported_at_once(code) == expected


def test_importing_fusiform_loads_neither_numpy_nor_a_runtime() -> None:
    loaded = run_python("import sys, fusiform; print(*sys.modules)").split()
    assert "fusiform" in loaded
    assert not {"numpy", "PIL", "click", "ai_edge_litert", "torch", "torchvision", "onnx", "onnxruntime"} & set(loaded)


@pytest.mark.parametrize("model", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_a_photograph_is_named_without_pytorch_and_onnx(model: str) -> None:
    code = BLOCK_HEAVY + (
        "import fusiform\n"
        "for guess in fusiform.predict('examples/cat.jpg', model=sys.argv[1], threads=1)[0].top: print(guess.name)"
    )
    names = run_python(code, model).splitlines()
    assert len(names) == 5
    assert names[0] in ("tabby", "tiger cat", "Egyptian cat")


@pytest.mark.parametrize(
    "call",
    ["train('examples', 'run')", "export('mobilenet_v2', 'litert', 'ship')", "choose('examples', 'best')"],
)
def test_without_pytorch_a_function_says_which_extra_brings_it(call: str) -> None:
    code = BLOCK_HEAVY + (
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name in {set(HEAVY)!r} else find(name)\n"
        "import fusiform\nfrom fusiform.errors import MissingExtraError\n"
        "assert all(getattr(fusiform, name) for name in fusiform.__all__)\n"
        f"try:\n    fusiform.{call}\nexcept MissingExtraError as error:\n    print(error)"
    )
    assert "pip install 'fusiform[train]'" in run_python(code)


def test_without_pytorch_load_says_which_extra_brings_it() -> None:
    code = BLOCK_HEAVY + (
        "import fusiform\nfrom fusiform.errors import MissingExtraError\n"
        "try:\n    fusiform.load()\nexcept MissingExtraError as error:\n    print(error)"
    )
    assert "pip install 'fusiform[torch]'" in run_python(code)


LONGEST_FILE = 600
LONGEST_FUNCTION = 100
"""Lines, a function's without its docstring."""


def test_files_and_functions_are_short_enough_to_read() -> None:
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(PACKAGE).as_posix()
        if (lines := len(text.splitlines())) > LONGEST_FILE:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                told = ast.get_docstring(node, clean=False) or ""
                lines = node.end_lineno - node.lineno - len(told.splitlines()) if node.end_lineno else 0
                if lines > LONGEST_FUNCTION:
                    long.append(f"{name}: {node.name} has {lines} lines")
    assert long == []


def test_there_are_few_packages() -> None:
    packages = [path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]
    modules = [path for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]
    assert 20 < len(packages) + len(modules) <= 35
