"""Does the default training suit sets of 60 to 4,200 images, of unlike kinds and sizes?

Six sets are made out of the folder ``--data``, which ``../shared/data/README.md`` describes:

    scenes_60    10 images each of the six Intel scenes, 150 pixels
    objects      12 images each of eight kinds of objects, cut out of COCO's photographs: 32 to 640 pixels
    dogs         12 photographs each of eleven breeds, 224 to 500 pixels; the weights know these breeds from ImageNet
    clothes      120 images each of five of Fashion-MNIST's classes that look alike, 28 pixels, grey
    digits       1,197 of scikit-learn's digits in colours on coloured ground, 64 pixels
    scenes       all 4,200 photographs of the Intel scenes, 150 pixels

``clothes`` needs Fashion-MNIST's four files (``--clothes``; Debian's package dataset-fashion-mnist has them) and
``digits`` scikit-learn. Which images are for training hangs on ``--draw``. Every set has a test split that no training
sees; the figures are measured on it.

Each set is trained by ``fusiform train`` with the default recipe and ``--set``'s changes, in a process of its own, once
for each of ``--seeds``, and with ``--before SRC`` by the sources of an earlier checkout too; the head alone, from which
the training starts, is measured on the same test images, in time that is not counted. A row is the mean over the seeds.
"image passes" are the images that went forward and backward through the network, as many of 224 pixels as would be as
much work; "CPU seconds" are those of the whole process, on all cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
import numpy as np
from PIL import Image

CLOTHES = Path("/usr/share/datasets/fashion-mnist")
OBJECTS = {
    "accessory": "backpack,umbrella,handbag,tie,suitcase",
    "animal": "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe",
    "electronic": "tv,laptop,mouse,remote,keyboard,cell phone",
    "food": "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake",
    "furniture": "chair,couch,potted plant,bed,dining table,toilet",
    "kitchen": "bottle,wine glass,cup,fork,knife,spoon,bowl",
    "person": "person",
    "vehicle": "bicycle,car,motorcycle,airplane,bus,train,truck,boat",
}
"""COCO's categories by supercategory."""
Made = dict[str, dict[str, list[Image.Image | Path]]]
"""Images or files by split and class."""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA, help="the shared data")
    parser.add_argument("--clothes", type=Path, default=CLOTHES, help="folder with Fashion-MNIST's four files")
    parser.add_argument("--sets", type=Path, help="where the sets are made, or lie already (default: a passing folder)")
    parser.add_argument("--only", choices=SETS, action="append", help="not all sets")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each set (default: %(default)s)")
    parser.add_argument("--draw", type=int, default=0, help="seed of what is for training (default: %(default)s)")
    parser.add_argument("--model", default="mobilenet_v2", help="what to start from (default: %(default)s)")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a change of the recipe")
    parser.add_argument("--before", type=Path, metavar="SRC", help="the src folder of an earlier checkout")
    parser.add_argument("--threads", type=int, default=2, help="of a training (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--make", action="store_true", help="only make the sets")
    parser.add_argument("--run", nargs=2, metavar=("SET", "SEED"), help="train once and print a line of JSON")
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(train(arguments.sets / arguments.run[0], int(arguments.run[1]), arguments)))
        return
    about = common.machine("torch", "torchvision", "ai-edge-litert")
    with tempfile.TemporaryDirectory() as passing:
        folder = arguments.sets or Path(passing)
        names = arguments.only or list(SETS)
        for name in names:
            if not (folder / name).exists():
                make(folder / name, SETS[name](arguments.data, arguments.clothes, random.Random(arguments.draw)))
        if arguments.make:
            return
        jobs = [
            (name, recipe, seed)
            for name in names
            for recipe in (("before", "now") if arguments.before else ("now",))
            for seed in range(arguments.seeds)
        ]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            runs = list(pool.map(lambda job: start(job, folder, arguments), jobs))
    rows = []
    for name, recipe in dict.fromkeys(job[:2] for job in jobs):
        rows.append(row(name, recipe, [run for job, run in zip(jobs, runs, strict=True) if job[:2] == (name, recipe)]))
    figures: dict[str, common.Cell] = {
        "model": arguments.model,
        "threads": arguments.threads,
        "trainings at a time": arguments.jobs,
        "seeds": arguments.seeds,
        "changes of the recipe": " ".join(arguments.settings) or None,
        "date": time.strftime("%Y-%m-%d"),
    }
    common.finish("small_sets", about, figures, rows, arguments.json)


def make(folder: Path, made: Made) -> None:
    """Write a set in folders, whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for split, classes in made.items():
        for name, images in classes.items():
            (part / split / name).mkdir(parents=True)
            for number, image in enumerate(images):
                if isinstance(image, Path):
                    shutil.copy(image, part / split / name / f"{number:04}{image.suffix.lower()}")
                else:
                    image.save(part / split / name / f"{number:04}.png")
    part.rename(folder)


def scenes(data: Path, each: int | None, chance: random.Random) -> Made:
    made: Made = {"train": {}, "test": {}}
    for split, classes in made.items():
        for folder in sorted((data / "intel_scenes" / split).iterdir()):
            files: list[Image.Image | Path] = sorted(folder.glob("*.jpg"))
            classes[folder.name] = chance.sample(files, each) if each and split == "train" else files
    return made


def objects(data: Path, chance: random.Random) -> Made:
    """Eight of COCO's supercategories; half of the photographs are for training, the others for the test."""
    kinds = {category: kind for kind, categories in OBJECTS.items() for category in categories.split(",")}
    entries = []
    for split in ("train2017", "val2017"):
        listed = json.loads((data / "coco" / "annotations" / f"instances_{split}.json").read_text())
        files = {image["id"]: data / "coco" / split / image["file_name"] for image in listed["images"]}
        names = {category["id"]: kinds.get(category["name"], "") for category in listed["categories"]}
        entries += [
            (files[entry["image_id"]], names[entry["category_id"]], tuple(entry["bbox"]))
            for entry in listed["annotations"]
            if min(entry["bbox"][2:]) >= 32 and not entry.get("iscrowd")
        ]
    photographs = sorted({file for file, _, _ in entries})
    training = set(chance.sample(photographs, len(photographs) // 2))
    made: Made = {split: {name: [] for name in OBJECTS} for split in ("train", "test")}
    for file, name, box in chance.sample(entries, len(entries)):
        split, most = ("train", 12) if file in training else ("test", 25)
        if name in OBJECTS and len(made[split][name]) < most:
            made[split][name].append(cut(file, box))
    return made


def cut(file: Path, box: tuple[float, ...]) -> Image.Image:
    x, y, width, height = box
    with Image.open(file) as image:
        return image.convert("RGB").crop((round(x), round(y), round(x + width), round(y + height)))


def dogs(data: Path, chance: random.Random) -> Made:
    made: Made = {"train": {}, "test": {}}
    for folder in sorted((data / "imagenet_val").iterdir()):
        if 2085620 <= int(folder.name[1:]) <= 2115913:  # ImageNet's dogs
            files: list[Image.Image | Path] = sorted(folder.iterdir())
            chance.shuffle(files)
            made["train"][folder.name], made["test"][folder.name] = files[:12], files[12:]
    return made


def clothes(source: Path, chance: random.Random) -> Made:
    """T-shirts, pullovers, dresses, coats and shirts: 120 each, and 200 for the test."""
    made: Made = {"train": {}, "test": {}}
    for split, prefix, count in (("train", "train", 120), ("test", "t10k", 200)):
        with gzip.open(source / f"{prefix}-images-idx3-ubyte.gz") as stream:
            pixels = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(source / f"{prefix}-labels-idx1-ubyte.gz") as stream:
            labels = np.frombuffer(stream.read(), np.uint8, offset=8)
        for label, name in {0: "t-shirt", 2: "pullover", 3: "dress", 4: "coat", 6: "shirt"}.items():
            chosen = chance.sample(np.flatnonzero(labels == label).tolist(), count)
            made[split][name] = [Image.fromarray(pixels[i]) for i in chosen]
    return made


def digits(chance: random.Random) -> Made:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = chance.sample(range(len(found.target)), len(found.target))
    made: Made = {"train": defaultdict(list), "test": defaultdict(list)}
    for place, i in enumerate(order):
        ink = Image.fromarray((found.images[i] * 255 / 16).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        colours = [tuple(chance.randrange(256) for _ in range(3)) for _ in range(3)]
        ground = Image.linear_gradient("L").rotate(90 * chance.randrange(4)).resize((64, 64))
        image = Image.composite(Image.new("RGB", (64, 64), colours[0]), Image.new("RGB", (64, 64), colours[1]), ground)
        image.paste(colours[2], mask=ink)
        made["train" if place < 1197 else "test"][str(found.target[i])].append(image)
    return made


SETS: dict[str, Callable[[Path, Path, random.Random], Made]] = {
    "scenes_60": lambda data, _, chance: scenes(data, 10, chance),
    "objects": lambda data, _, chance: objects(data, chance),
    "dogs": lambda data, _, chance: dogs(data, chance),
    "clothes": lambda _, source, chance: clothes(source, chance),
    "digits": lambda _, __, chance: digits(chance),
    "scenes": lambda data, _, chance: scenes(data, None, chance),
}


def start(job: tuple[str, str, int], folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """One training in a process of its own; what it printed."""
    name, recipe, seed = job
    command = [sys.executable, __file__, "--run", name, str(seed), "--sets", str(folder)]
    command += ["--model", arguments.model, "--threads", str(arguments.threads)]
    for setting in arguments.settings:
        command += ["--set", setting]
    sources = {"PYTHONPATH": str(arguments.before.resolve())} if recipe == "before" else {}
    done = subprocess.run(command, env=os.environ | sources, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}, {recipe}, seed {seed}: {done.stdout.splitlines()[-1]}", flush=True)
    return found


def train(folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """What ``fusiform train`` does, and what the head that it starts from reaches on the test images."""
    import torch

    from fusiform.training.allocator import keep_freed_memory

    keep_freed_memory()
    from fusiform.data.open import open_dataset
    from fusiform.training import job, loop
    from fusiform.training.curves import read_metrics
    from fusiform.training.recipe import Recipe
    from fusiform.training.recipes import choose_recipe

    threads: int = arguments.threads
    torch.set_num_threads(threads)
    test = open_dataset(folder, task="classification").splits["test"]
    head: dict[str, float] = {}
    looked = {"cpu": 0.0, "seconds": 0.0}
    begin = loop._Fit._start

    def start_and_look(self: loop._Fit) -> None:
        begin(self)
        cpu, began = cpu_seconds(), time.monotonic()
        self.task.validation, kept = test, self.task.validation
        head.update(self.task.measure(self.world))
        self.task.validation = kept
        looked.update(cpu=cpu_seconds() - cpu, seconds=time.monotonic() - began)

    loop._Fit._start = start_and_look
    settings = [*arguments.settings, f"seed={seed}"]
    with tempfile.TemporaryDirectory() as passing:
        run = Path(passing) / "run"
        recipe = choose_recipe(folder, settings=settings)
        report = job.train(folder, run, model=arguments.model, recipe=recipe, threads=threads)
        recipe = Recipe.from_json((run / "recipe.json").read_bytes())
        records = [record for record in read_metrics(run / "metrics.jsonl") if record["phase"] == "network"]
    steps = records[-1]["step"] if records else 0
    trained = sum(record["seconds"] for record in records)
    figures = {**report.figures}
    if "train_images" not in figures:  # fusiform 0.1
        figures |= {"train_images": figures["training pictures"], "best_epoch": figures["best epoch"]}
    batch = min(recipe.batch, int(figures["train_images"]))
    return {
        "images": figures["train_images"],
        "size": recipe.size,
        "input": recipe.eval_size,
        "head": head["val_top1"],
        "top1": figures["top1"],
        "best epoch": figures["best_epoch"],
        "epochs": figures["epochs"],
        "steps": steps,
        "passes": steps * batch * (recipe.size / 224) ** 2,
        "images/s": steps * batch / trained if trained else 0.0,
        "seconds": figures["seconds"] - looked["seconds"],
        "cpu": cpu_seconds() - looked["cpu"],
    }  # what the figures hold are numbers here


def cpu_seconds() -> float:
    """Seconds of this process on all cores."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def row(name: str, recipe: str, runs: list[dict[str, float]]) -> dict[str, common.Cell]:
    """The mean over the seeds, with the lowest and the highest top-1."""

    def mean(key: str, digits: int = 0) -> float:
        value = round(statistics.mean(run[key] for run in runs), digits)
        return value if digits else int(value)

    tops = [100 * run["top1"] for run in runs]
    return {
        "set": name,
        "recipe": recipe,
        "images": mean("images"),
        "head top-1 %": round(100 * statistics.mean(run["head"] for run in runs), 1),
        "top-1 %": round(statistics.mean(tops), 1),
        "lowest": round(min(tops), 1),
        "highest": round(max(tops), 1),
        "size": mean("size"),
        "input": mean("input"),
        "epochs": mean("epochs", 1),
        "steps": mean("steps"),
        "image passes": mean("passes"),
        "images/s": mean("images/s"),
        "CPU seconds": mean("cpu"),
        "minutes": round(statistics.mean(run["seconds"] for run in runs) / 60, 2),
    }


if __name__ == "__main__":
    main()
