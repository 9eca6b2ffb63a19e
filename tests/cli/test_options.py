"""One word for one thing: the options of every command in one table, what is meant by wrong words, and old words."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections import Counter
from pathlib import Path
from typing import NamedTuple, get_args

import click
import pytest
from click.testing import CliRunner, Result

import fusiform
from fusiform.cli import COMMANDS, SECTIONS, commands, options
from fusiform.engines import EngineName
from fusiform.spec import Task
from fusiform.training import glossary
from fusiform.training.recipe import Recipe
from fusiform.training.recipes import DEFAULTS, RECIPES

ROOT = Path(__file__).parents[2]


class Word(NamedTuple):
    """An option: what it means, what it takes (empty for a flag), and the commands that have it."""

    word: str
    meaning: str
    takes: str
    commands: str


FORMATS = "[table|json|jsonl|csv]"
TASKS = "[classification|detection|segmentation]"
FITS = "[crop|stretch|pad]"
RUNTIMES = "litert|onnxruntime|torch|openvino|executorch|native"
WORDS = (
    # What the commands have in common.
    Word(
        "--model",
        "the model, where the command is about images",
        "NAME|FILE",
        "predict watch doctor plan train embed search suggest",
    ),
    Word("--data", "the images, where the command is about models", "DATA", "export verify benchmark add-class card"),
    Word(
        "--format",
        "how the result is written",
        FORMATS,
        "doctor plan train choose evaluate export verify benchmark models info analyze engines embed search add-class "
        "suggest drift",
    ),
    Word("--format", "how the result is written", "[table|json|jsonl|csv|coco|parquet]", "predict"),
    Word(
        "--out",
        "where the result goes",
        "FILE",
        "predict doctor plan evaluate verify benchmark port watch embed add-class suggest drift",
    ),
    Word("--out", "where the result goes", "DIR", "train choose export demo"),
    Word("--out", "where the result goes", "FILE.md|FILE.html|DIR", "card"),
    Word("--html", "a page beside the result", "FILE.html", "doctor evaluate"),
    Word("--task", "what the data are for", TASKS, "doctor train"),
    Word(
        "--root",
        "where the paths of a list begin",
        "DIR",
        "predict doctor plan train choose evaluate export verify benchmark embed add-class suggest drift card",
    ),
    Word("--root", "where the paths of a list begin", "DIR", "verify benchmark"),
    Word("--ignore", "what 255 is in masks", "[255|none]", "doctor train evaluate export verify benchmark"),
    Word("--labels", "names of the classes", "FILE", "predict evaluate export port watch"),
    Word("--score", "the lowest confidence of a box", "SCORE", "predict evaluate watch"),
    Word("--engine", "the runtime", f"[{RUNTIMES}]", "predict watch evaluate serve embed search"),
    Word("--engine", "the runtime", "ENGINE,...", "benchmark"),
    Word("--engine", "the runtime", "[litert|onnxruntime|native]", "choose"),
    Word("--device", "where PyTorch computes", "DEVICE", "predict train evaluate serve watch embed"),
    Word("--batch", "images per forward pass", "N", "predict evaluate watch embed"),
    Word(
        "--threads",
        "cores to use",
        "N",
        "predict doctor plan train evaluate export serve watch embed search add-class suggest drift",
    ),
    Word("--threads", "threads of the runtime that is measured", "N", "choose verify"),
    Word("--threads", "threads of the runtime that is measured", "N,...", "benchmark"),
    Word("--strict", "exit with 3 where something is wrong", "", "predict doctor evaluate drift"),
    Word("--recipe", "a preset of hyperparameters", "NAME", "train choose"),
    Word("--set", "a hyperparameter", "NAME=VALUE", "train choose"),
    Word("--scratch", "random weights to start from", "", "train choose"),
    Word("--resume", "continue in the folder", "", "train choose"),
    Word("--max-drop", "what int8 may lose", "POINTS", "export verify"),
    Word("--slices", "the slices of an expansion", "N", "export analyze"),
    Word("--size", "the side of the input", "PIXELS", "analyze"),
    Word("--size", "the side of the input", "PIXELS,...", "choose"),
    Word("--mean", "preprocessing: the mean", "R,G,B", "predict watch evaluate export port embed"),
    Word("--std", "preprocessing: the standard deviation", "R,G,B", "predict watch evaluate export port embed"),
    Word("--resize", "preprocessing: the shorter side", "PIXELS", "predict watch evaluate export port embed"),
    Word("--crop", "preprocessing: the side of the crop", "PIXELS", "predict watch evaluate export port embed"),
    Word(
        "--fit",
        "preprocessing: how the square is filled",
        FITS,
        "predict watch evaluate export port embed",
    ),
    # What one command has.
    Word("--save", "a drawing of the images with their answers", "FILE", "predict search suggest"),
    Word("--masks", "a folder of masks", "DIR", "predict"),
    Word("--iou", "the overlap of two boxes of one object", "IOU", "predict watch"),
    Word("--limit", "the number of boxes", "N", "predict watch"),
    Word("--fast", "decode at a reduced size", "", "predict serve watch embed"),
    Word("--part", "the images of a file", "N", "predict evaluate embed"),
    Word("--shard", "which of the parts", "I/N", "predict evaluate embed"),
    Word("--on", "the cluster that answers", "ray[://HOST]", "predict evaluate embed"),
    Word("--column", "the column of images", "NAME", "predict embed"),
    Word("--tiles", "the side of a tile", "PIXELS", "predict watch"),
    Word("--overlap", "what tiles have in common", "SHARE", "predict watch"),
    Word("--video", "the video, in place of images", "VIDEO", "predict"),
    Word("--every", "which frames of a video", "N", "predict"),
    Word("--fps", "the frames of a video's second", "FPS", "predict"),
    Word("--reconnect", "the time to look for a lost source", "SECONDS", "predict"),
    Word("--recursive", "folders within", "", "watch"),
    Word("--poll", "look for changes by itself", "", "watch"),
    Word("--fix", "a clean copy of the list", "FILE.csv|DIR", "doctor"),
    Word("--more", "the images that are to come", "N", "plan"),
    Word("--seed", "the seed of what is random", "N", "plan suggest drift"),
    Word("--recipes", "explain the recipes", "", "train"),
    Word("--show", "print the hyperparameters", "", "train"),
    Word("--find-lr", "look for a learning rate", "", "train"),
    Word("--teacher", "the model to distill", "NAME|FILE", "train"),
    Word("--save-every", "the time between checkpoints", "MINUTES", "train"),
    Word("--max-ms", "the highest latency", "MS", "choose"),
    Word("--max-mb", "the largest file", "MB", "choose"),
    Word("--min-accuracy", "the lowest accuracy", "PERCENT", "choose"),
    Word("--minutes", "the time for all of it", "N", "choose"),
    Word("--trials", "the number of trainings", "N", "choose"),
    Word("--split", "which images of the data", "[train|val|test|all]", "evaluate"),
    Word("--compare", "a rival for the same images", "NAME|FILE", "evaluate"),
    Word("--explain", "the images to explain", "N|IMAGE", "evaluate"),
    Word("--stress", "show corrupted images too", "", "evaluate"),
    Word("--answers", "the parts with the answers", "DIR", "evaluate"),
    Word("--multi-scale", "average over scales", "", "evaluate"),
    Word("--to", "the targets", "TARGET,...", "export"),
    Word("--precision", "what the weights are stored as", "[float32|float16|int8]", "export"),
    Word("--calibrate", "the images to calibrate int8 with", "DATA", "export"),
    Word("--keep-float", "the number of layers in float", "N", "export"),
    Word("--train-epochs", "epochs with quantisation", "N", "export"),
    Word("--pixels", "what float files take", "", "export"),
    Word("--output", "what a classifier's file answers with", "[probabilities|logits]", "export"),
    Word("--decoded", "decoding within the file", "", "export"),
    Word("--single-file", "the web page as one file", "", "export"),
    Word("--golden", "the number of inputs with expected answers", "N", "export"),
    Word("--samples", "images that a page's visitors can try", "IMAGES", "export demo"),
    Word("--against", "the model that a file was made from", "NAME|FILE", "verify"),
    Word("--tolerance", "the largest error", "SHARE", "verify"),
    Word("--seconds", "how long to measure", "S", "benchmark"),
    Word("--plot", "a drawing of the measurements", "FILE.png", "benchmark"),
    Word("--host", "the address to listen at", "ADDRESS", "demo serve"),
    Word("--port", "the port to listen at", "PORT", "demo serve"),
    Word("--page", "the web page of a model, at /", "", "serve"),
    Word("--workers", "processes of a server", "N", "serve"),
    Word("--queue-seconds", "how long an image may wait", "S", "serve"),
    Word("--max-bytes", "the largest request", "SIZE", "serve"),
    Word("--max-pixels", "the largest image", "N", "serve"),
    Word("--timeout", "how long a request may take to arrive", "S", "serve"),
    Word("--drain", "how long requests are taken at the end", "S", "serve"),
    Word("--token-file", "what clients have to show", "FILE", "serve"),
    Word("--cors", "pages that may ask", "ORIGIN", "serve"),
    Word("--log", "what is written to standard error", "[requests|events|nothing]", "serve"),
    Word("--browser", "whether to open a browser", "", "demo"),
    Word("--snippet", "code in a language", "[python|js|kotlin|swift|cpp]", "info"),
    Word("--classes", "the number of classes of a network", "N", "analyze"),
    Word("--output-stride", "a segmenter's output stride", "[8|16]", "analyze"),
    Word("--aspp", "atrous spatial pyramid pooling", "", "analyze"),
    Word("--bits", "bits of an activation value", "[8|16|32]", "analyze"),
    Word("--top", "the number of best answers", "N", "predict watch search"),
    Word("--name", "what the class is called", "NAME", "add-class"),
    Word("--features", "features as a second answer", "", "export"),
    Word("--count", "the images to pick", "N", "suggest"),
    Word("--labelled", "the labelled images so far", "DATA", "suggest"),
    Word("--diverse", "typical images of all kinds", "", "suggest"),
    Word("--into", "what to label in", "FILE.csv|FILE.json|DIR", "suggest"),
    Word("--reference", "what the model was judged on", "DATA|FILE.json", "drift"),
    Word("--false-alarms", "the chance of a false alarm", "SHARE", "drift"),
    Word("--sketch", "a sketch of images", "FILE.json", "predict drift"),
    Word("--sketch", "a sketch of images", "DIR", "serve"),
    Word("--calibrate", "a copy of the model that states its error", "FILE", "evaluate"),
    Word("--certain", "the share of images that a promise is for", "PERCENT", "predict evaluate watch"),
    Word("--per-class", "a promise to each class", "", "evaluate"),
    Word("--precision", "what a threshold of a class is chosen for", "CLASS=PERCENT", "evaluate"),
    Word("--threshold", "the probability from which on a class is named", "CLASS=PERCENT", "evaluate"),
    Word("--costs", "what each answer costs", "FILE.csv", "evaluate"),
    Word("--unknown", "images of none of the classes", "DIR", "evaluate"),
)
"""Every option there is. Who adds one says here what it means, and finds the word that means it already."""

SHORT = {"--out": "-o", "--model": "-m", "--format": "-f"}

ARGUMENTS = {
    "predict": "SOURCE...",
    "watch": "DIR",
    "embed": "SOURCE...",
    "search": "QUERY INDEX",
    "add-class": "MODEL DIR...",
    "doctor": "DATA",
    "plan": "DATA",
    "drift": "MODEL [SOURCE]...",
    "suggest": "SOURCE...",
    "train": "[DATA]",
    "choose": "DATA",
    "evaluate": "MODEL DATA",
    "card": "MODEL",
    "export": "MODEL",
    "verify": "FILE",
    "benchmark": "MODEL...",
    "serve": "[NAME=]MODEL...",
    "demo": "[MODEL]",
    "models": "",
    "info": "MODEL",
    "analyze": "MODEL",
    "engines": "",
    "port": "FOREIGN",
    "completion": "{bash|zsh|fish}",
}
"""A command takes what it is about as arguments; everything else is an option."""

OLD = {("evaluate", "--fit-temperature"): "--calibrate"}
"""Words that are taken until 0.3, with a note."""


def command_of(name: str) -> options.Command:
    found = commands.get_command(click.Context(commands, info_name="fusiform"), name)
    assert isinstance(found, options.Command)
    return found


def context_of(name: str) -> click.Context:
    return click.Context(command_of(name), info_name=name, parent=click.Context(commands, info_name="fusiform"))


def options_of(name: str) -> dict[str, click.Option]:
    found = [each for each in command_of(name).params if isinstance(each, click.Option)]
    return {max(each.opts, key=len): each for each in found}


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(commands, [str(word) for word in words], prog_name="fusiform")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_every_option_of_every_command_is_in_the_table() -> None:
    there = {
        (name, word, "" if option.is_flag else option.make_metavar(context_of(name)))
        for name in COMMANDS
        for word, option in options_of(name).items()
    }
    table = {(name, word.word, word.takes) for word in WORDS for name in word.commands.split()}
    assert there == table


def test_one_thing_has_one_word_and_one_word_means_one_thing() -> None:
    meanings = {(word.word, word.meaning) for word in WORDS}
    assert [meaning for meaning, count in Counter(each[1] for each in meanings).items() if count > 1] == []
    # int8 is calibrated on images, and a classifier into a file; a class has a precision, and weights have one: the
    # field has one word for both.
    # The other exception: what is measured runs in one thread unless told otherwise, and its help says why.
    twice = {word for word, count in Counter(each[0] for each in meanings).items() if count > 1}
    assert twice == {"--threads", "--calibrate", "--precision"}
    for word in WORDS:
        for name in word.commands.split() if word.word == "--threads" else ():
            text = options_of(name)["--threads"].help
            assert text is not None
            assert ("[default: all]" in text) is (word.meaning == "cores to use")
            assert ("[default: 1, " in text) is (word.meaning != "cores to use")


@pytest.mark.parametrize("name", COMMANDS)
def test_short_forms_arguments_and_help(name: str) -> None:
    for word, option in options_of(name).items():
        assert [short for short in option.opts if short != word] == ([SHORT[word]] if word in SHORT else [])
        assert option.help
    pieces = command_of(name).collect_usage_pieces(context_of(name))
    assert " ".join(piece for piece in pieces if piece != "[OPTIONS]") == ARGUMENTS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_commands_that_can_be_read(name: str) -> None:
    examples = command_of(name).examples
    assert 2 <= len(examples) <= 5
    for line in examples:
        program, command, *words = line.partition(" > ")[0].split()
        assert (program, command) == ("fusiform", name)
        command_of(name).make_context(name, words, parent=click.Context(commands, info_name="fusiform"))
        assert len(line) < 80
    shown = run(name, "--help").stdout
    assert shown.rstrip().endswith("\n".join(f"  {line}" for line in examples))


def test_help_lists_every_command_once_in_the_order_of_the_work() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert listed == list(COMMANDS)
    shown = run("--help").stdout
    places = [shown.index(f"\n  {name} ") for name in listed]
    assert places == sorted(places)


def test_what_is_named_again_is_what_there_is() -> None:
    assert get_args(EngineName) == options.ENGINES
    by_task = {task: tuple(name for name, each in RECIPES.items() if each.task == task) for task in get_args(Task)}
    assert by_task == options.RECIPES
    assert {task: names[0] for task, names in by_task.items()} == DEFAULTS  # as --recipe says


@pytest.mark.parametrize(("name", "old"), OLD)
def test_old_words_are_taken_with_a_note(name: str, old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command_of(name).old == {old: OLD[name, old]}
    assert old not in run(name, "--help").stdout.replace(OLD[name, old], "")
    asked: list[object] = []
    parameter = OLD[name, old].removeprefix("--").replace("-", "_")

    def evaluate(*_: object, **given: object) -> None:
        asked.append(given[parameter])
        raise fusiform.errors.FusiformError("enough")

    stub = types.SimpleNamespace(evaluate=evaluate)
    monkeypatch.setitem(sys.modules, "fusiform.evaluation.job", stub)
    for words in ([old, "copy.tflite"], [f"{old}=copy.tflite"]):
        result = run(name, "model.tflite", "data", *words)
        assert (
            result.stderr.splitlines()[0] == f"fusiform: {old} is now {OLD[name, old]}; the old word is taken until 0.3"
        )
    assert asked == [Path("copy.tflite")] * 2


@pytest.mark.parametrize("name", COMMANDS)
def test_only_what_is_listed_is_an_old_word(name: str) -> None:
    assert {(name, old): new for old, new in command_of(name).old.items()} == {
        key: new for key, new in OLD.items() if key[0] == name
    }
    assert set(command_of(name).old.values()) <= set(options_of(name))
    assert command_of(name).extra in {"", *options_of(name)}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["traim"], "Did you mean fusiform train?"),
        (["predit", "x.jpg"], "Did you mean fusiform predict x.jpg?"),
        (["photo.jpg"], "Did you mean fusiform predict photo.jpg?"),
        (["https://example.org/a.jpg"], "Did you mean fusiform predict https://example.org/a.jpg?"),
        (["my photo.jpg", "--top", "1"], "Did you mean fusiform predict 'my photo.jpg' --top 1?"),
        (["src"], "Did you mean fusiform predict src, or doctor or train?"),
        (["model.tflite"], "Did you mean fusiform info model.tflite?"),
        (["mobilenet_v2"], "Did you mean fusiform info mobilenet_v2?"),
        (["quantize", "m.onnx"], "Did you mean fusiform export m.onnx?"),
        (["help", "train"], "Did you mean fusiform train --help?"),
        (["help"], "Did you mean fusiform --help?"),
        (["xyzzy"], "fusiform --help lists the commands."),
    ],
)
def test_an_unknown_command_is_answered_with_what_was_meant(
    words: list[str], meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    result = run(*words)
    assert result.exit_code == 2
    assert said(result).endswith(f"Error: No such command '{words[0]}'. {meant}")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train photos --epochs 4", "No such option: --epochs. It is a hyperparameter: --set epochs=VALUE"),
        ("train photos --weight-decay=1", "It is a hyperparameter: --set weight_decay=VALUE"),
        ("train --data photos", "It is an argument: fusiform train [OPTIONS] [DATA]"),
        ("evaluate --model a photos", "It is an argument: fusiform evaluate [OPTIONS] MODEL DATA"),
        ("benchmark --model a", "It is an argument: fusiform benchmark [OPTIONS] MODEL..."),
        ("export --weights a", "It is an argument: fusiform export [OPTIONS] MODEL"),
        ("predict a.jpg --weights b", "Did you mean --model?"),
        ("predict a.jpg --conf 0.5", "Did you mean --score?"),
        ("predict a.jpg --json", "Did you mean --format json?"),
        ("train photos --batch-size 8", "Did you mean --set batch=N?"),
        ("predict a.jpg --bach 8", "Did you mean '--batch'?"),
        ("predict a.jpg --calibrate b", "No such option '--calibrate'."),
        ("verify a.tflite b --against c", "Unexpected argument 'b'."),
        ("export a.tflite photos --to onnx --out b", "Unexpected argument 'photos'. Did you mean --data photos?"),
        ("evaluate a b c d", "Unexpected argument 'c' (and 1 more). Did you mean --compare c?"),
        ("info a b", "Unexpected argument 'b'."),
    ],
)
def test_an_unknown_option_is_answered_with_what_was_meant(words: str, meant: str) -> None:
    result = run(*words.split())
    assert result.exit_code == 2
    assert said(result).replace("No such option: --calibrate", "No such option '--calibrate'").endswith(meant)


def test_recipes_explains_every_hyperparameter_that_show_prints() -> None:
    told = run("train", "--recipes").stdout
    fields = [each for group in glossary.fields().values() for each in group]
    names = [field.name for field in dataclasses.fields(Recipe) if field.name not in ("name", "task")]
    assert sorted(field.name for field in fields) == sorted(names)
    for field in fields:
        assert len(field.text) > 20, field.name
        assert field.text.endswith("."), field.name
        assert f"\n  {field.name}" in told
    assert set(names) >= {name for group in glossary.GROUPS.values() for name in group}
    assert [preset.name for preset in glossary.presets()] == list(RECIPES)
    for preset in glossary.presets():
        assert f"\n  {preset.name} ({preset.task})\n" in told
        assert len(preset.text) > 40, preset.name
    assert "``" not in told
    assert max(map(len, told.splitlines())) <= 120


def test_a_smoke_test_of_one_epoch_needs_no_other_setting() -> None:
    for name in RECIPES:
        assert run("train", "--show", "--recipe", name, "--set", "epochs=1").exit_code == 0
