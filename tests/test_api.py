"""The Python API: every name is documented and typed, and a command's options are its function's parameters."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from pathlib import Path
from typing import Any

import click
import pytest

import fusiform
from fusiform.cli import COMMANDS, commands

ROOT = Path(__file__).parents[1]

FUNCTIONS = {
    "predict": "predict",
    "watch": "watch",
    "embed": "embed",
    "search": "search",
    "add-class": "add_class",
    "train": "train",
    "evaluate": "evaluate",
    "card": "card",
    "doctor": "diagnose",
    "plan": "plan",
    "drift": "drift",
    "suggest": "suggest",
    "export": "export",
    "verify": "verify",
    "benchmark": "benchmark",
    "serve": "serve",
    "demo": "demo",
    "choose": "choose",
    "analyze": "analyze",
    "port": "port",
}
"""What each command runs; those that are not here only print: models, info, engines, completion."""

ONLY_OPTIONS = {
    "format": "how a result is printed: results have to_json, to_table, to_pandas, ...",
    "strict": "an exit code: results have their errors and findings",
    ("predict", "out"): "where the printed text goes",
    ("evaluate", "out"): "where the printed text goes",
    ("suggest", "out"): "where the printed text goes",
    ("drift", "out"): "where the printed text goes",
    ("plan", "out"): "where the printed text goes",
    ("doctor", "out"): "where the printed text goes",
    ("verify", "out"): "where the printed text goes",
    ("benchmark", "out"): "where the printed text goes",
    ("card", "out"): "ModelCard.write",
    ("search", "save"): "Matches.save",
    ("predict", "save"): "Prediction.save and Predictions.save",
    ("predict", "masks"): "the masks are in Prediction.segmentation",
    ("predict", "part"): "predict_parts",
    ("predict", "shard"): "predict_parts",
    ("predict", "on"): "predict_parts",
    ("predict", "root"): "predict_parts",
    ("predict", "column"): "predict_parts",
    ("evaluate", "part"): "evaluate_parts",
    ("evaluate", "shard"): "evaluate_parts",
    ("evaluate", "on"): "evaluate_parts",
    ("embed", "part"): "embed_parts",
    ("embed", "shard"): "embed_parts",
    ("embed", "on"): "embed_parts",
    ("embed", "root"): "embed_parts",
    ("embed", "column"): "embed_parts",
    ("train", "recipes"): "prints what training.glossary says",
    ("train", "show"): "prints the recipe: training.recipes.choose_recipe",
    ("train", "find_lr"): "looks for a learning rate in place of training: training.job.find_rate",
}
"""Options without a parameter, and why."""

OF_VIDEOS = {"video": "source", "every": "every", "fps": "fps", "reconnect": "reconnect"}
"""The options of ``predict`` that are parameters of ``predict_video``, and which; it has no others but ``save``."""

ONLY_PARAMETERS = {
    "progress": "the command shows it on a terminal",
    "say": "the command prints on standard error",
    ("choose", "distillation"): "a Recipe object, which no option can name",
    ("evaluate", "fit_temperature"): "the old name of calibrate, until 0.3",
}
"""Parameters without an option, and why."""

EXAMPLES_WITH_DATA = (
    "diagnose",
    "plan",
    "drift",
    "train",
    "Run",
    "evaluate",
    "evaluate_parts",
    "export",
    "verify",
    "port",
    "benchmark",
    "choose",
    "add_class",
)

RENAMED = {"set": "settings"}
"""Options whose parameter has another name, because Python's own names are taken: set is a type."""


def options(command: str) -> dict[str, click.Parameter]:
    """A command's options and arguments by their names on the command line, as Python would spell them."""
    found = {}
    context = click.Context(commands)
    group = commands.get_command(context, command)
    assert group is not None
    for parameter in group.params:
        if isinstance(parameter, click.Option):
            long = max(parameter.opts, key=len)
            name = long.removeprefix("--").replace("-", "_")
            if name == "help":
                continue
        else:
            assert parameter.name is not None
            name = parameter.name
        found[RENAMED.get(name, name)] = parameter
    return found


def left_out(names: dict[Any, str], command: str) -> set[str]:
    return (
        {name for name in names if isinstance(name, str)}
        | {name[1] for name in names if isinstance(name, tuple) and name[0] == command}
        | (set(OF_VIDEOS) if command == "predict" and names is ONLY_OPTIONS else set())
    )


def test_every_command_that_does_something_has_a_function() -> None:
    assert set(COMMANDS) - set(FUNCTIONS) == {"models", "info", "engines", "completion"}
    assert set(FUNCTIONS.values()) <= set(fusiform.__all__)


@pytest.mark.parametrize("command", FUNCTIONS)
def test_a_commands_options_are_its_functions_parameters(command: str) -> None:
    function = getattr(fusiform, FUNCTIONS[command])
    parameters = inspect.signature(function).parameters
    given = options(command)
    assert set(given) - left_out(ONLY_OPTIONS, command) == set(parameters) - left_out(ONLY_PARAMETERS, command)


@pytest.mark.parametrize("command", FUNCTIONS)
def test_options_and_parameters_have_the_same_defaults(command: str) -> None:
    parameters = inspect.signature(getattr(fusiform, FUNCTIONS[command])).parameters
    wrong = []
    for name, option in options(command).items():
        if name not in parameters or isinstance(option, click.Argument) or option.required:
            continue
        default = parameters[name].default
        if default is inspect.Parameter.empty:
            continue
        shown: Any = option.to_info_dict()["default"]
        # Without a default, a flag is off and what may be repeated is empty; a preset goes by its name.
        here = getattr(default, "name", default)
        if option.multiple or isinstance(here, (tuple, list)):
            alike = tuple(shown or ()) in (tuple(here) if isinstance(here, (tuple, list)) else (here,), ())
        else:
            alike = shown == here or (shown in (None, False) and here in (None, False)) or str(shown) == str(here)
        if not alike:
            wrong.append((name, shown, here))
    assert wrong == []


def test_the_options_of_parts_are_the_parameters_of_predict_parts() -> None:
    parameters = inspect.signature(fusiform.predict_parts).parameters
    assert set(options("predict")) - {"strict", "save", "masks", "sketch", *OF_VIDEOS} == set(parameters) - {"progress"}


def test_embed_s_options_of_parts_are_parameters_of_embed_parts() -> None:
    assert set(options("embed")) == set(inspect.signature(fusiform.embed_parts).parameters) - {"progress"}


def test_evaluate_s_options_of_parts_are_parameters_of_evaluate_parts() -> None:
    parts = inspect.signature(fusiform.evaluate_parts).parameters
    whole = inspect.signature(fusiform.evaluate).parameters
    assert {"part", "shard", "on", "out"} == set(parts) - set(whole)
    assert all(parts[name].default == whole[name].default for name in set(parts) & set(whole))


def test_predict_s_options_of_videos_are_parameters_of_predict_video() -> None:
    ours = inspect.signature(fusiform.predict_video).parameters
    images = inspect.signature(fusiform.predict).parameters
    given = options("predict")
    for option, name in OF_VIDEOS.items():
        default = given[option].to_info_dict()["default"]
        assert option == "video" or default == ours[name].default
    assert set(ours) - set(OF_VIDEOS.values()) - {"save"} == set(images) - {"sources", "fast", "sketch", "progress"}
    assert all(ours[name].default == images[name].default for name in set(ours) & set(images))


def public() -> list[str]:
    return [name for name in fusiform.__all__ if name != "__version__"]


def test_the_table_has_every_name_and_nothing_else() -> None:
    for name in public():
        value = getattr(fusiform, name)
        assert value.__name__ == name
        assert name in dir(fusiform)
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = fusiform.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in public() if name[0].islower()])
def test_a_function_is_documented_whole(name: str) -> None:
    function = getattr(fusiform, name)
    text = inspect.getdoc(function) or ""
    for section in ("Returns:", "Raises:", "Example:"):
        assert f"\n{section}\n" in text, f"{name} lacks {section}"
    parameters = inspect.signature(function).parameters
    if parameters:
        assert "\nArgs:\n" in text
    for parameter in parameters:
        assert re.search(rf"^    {parameter}: \S", text, re.MULTILINE), f"{name}: {parameter} is not described"
    assert ">>> " in text


@pytest.mark.parametrize("name", [name for name in public() if name[0].islower()])
def test_a_function_has_few_arguments_by_position_and_no_open_ones(name: str) -> None:
    parameters = inspect.signature(getattr(fusiform, name)).parameters.values()
    assert sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) <= 3
    assert not [p for p in parameters if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters)


def test_methods_have_no_open_arguments_either() -> None:
    for name in (name for name in public() if name[0].isupper()):
        for method in vars(getattr(fusiform, name)).values():
            if inspect.isfunction(method) and not method.__name__.startswith("_") and method.__name__ != "replace":
                kinds = {parameter.kind for parameter in inspect.signature(method).parameters.values()}
                assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, f"{name}.{method}"


# The others need data: tests/test_snippets.py runs them.
@pytest.mark.parametrize("name", [name for name in public() if name not in EXAMPLES_WITH_DATA])
def test_examples_answer_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    value = getattr(fusiform, name)
    finder = doctest.DocTestFinder(recurse=False)
    tests = [test for test in finder.find(value, name, globs={}) if test.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.failures == 0
    assert len(tests) == 1


def test_no_modules_import_each_other_in_a_circle() -> None:
    source = ROOT / "src"
    modules = {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (source / "fusiform").rglob("*.py")
    }
    imports = {name: imported(name, path, set(modules)) for name, path in modules.items()}
    assert len(imports) > 150
    assert imports["fusiform.prediction.predict"] >= {"fusiform.prediction.predictor"}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join((*way[way.index(name) :], name))}"
        if name in done:
            return
        for other in sorted(imports[name]):
            visit(other, (*way, name))
        done.add(name)

    for name in imports:
        visit(name, ())


def imported(name: str, path: Path, modules: set[str]) -> set[str]:
    """The modules that one imports, also for its types and within its functions."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if name == "fusiform":
            continue  # the lazy table
        if isinstance(node, ast.ImportFrom) and node.module:
            wholes = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {whole if whole in modules else node.module for whole in wholes}
        waiting += ast.iter_child_nodes(node)
    return (found & modules) - {name, "fusiform"}
