"""Classification as a task of the training loop: its model, head, loss, teacher and measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform.data.dataset import Sample
from fusiform.engines.litert import LiteRTEngine
from fusiform.evaluation.classification import answers
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.modules import build_network
from fusiform.modules.backbones import Backbone, classifier_of
from fusiform.progress import Tracker, silent
from fusiform.spec import ModelSpec
from fusiform.tables import TRAITS
from fusiform.tasks.classification_metrics import in_top, log_likelihoods
from fusiform.training.augment import mix_batch
from fusiform.training.distributed import World
from fusiform.training.loader import Batch, Normalization, Pictures
from fusiform.training.losses import balanced_class_weights, classification_loss, distillation_loss
from fusiform.training.recipe import Recipe
from fusiform.zoo.load import load_state
from fusiform.zoo.model import Model

State = dict[str, NDArray[Any]]

HEAD_BATCH = 256
"""Features of a step of the head's training; they are so small that more steps cost nothing."""
GPU_BATCH = 128
"""Pictures that go through the network together where a GPU measures."""


def head_name(spec: ModelSpec) -> str:
    """Where the classifier stands in the state dict."""
    return TRAITS[spec.architecture].classifier


def compute_features(
    spec: ModelSpec,
    state: Mapping[str, NDArray[Any]],
    samples: Sequence[Sample],
    world: World,
    *,
    threads: int,
    progress: Tracker = silent,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What the frozen backbone makes of each picture, (pictures, features), and the labels; unreadable ones left out.

    On a CPU the network runs in LiteRT, two to three times as fast as in PyTorch.
    """
    model = in_memory(*without_head(state, spec))
    mine = samples[world.rank :: world.size]
    found = _answer(model, mine, world, threads, progress)
    parts = world.gather((found, np.array([sample.label for sample in mine], np.int64)))
    features, truth = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    read = ~np.isnan(features).any(axis=1)
    return features[read], truth[read]


def without_head(state: Mapping[str, NDArray[Any]], spec: ModelSpec) -> tuple[State, ModelSpec]:
    """The network with the identity for a classifier, so that its answers are the classifier's inputs."""
    name = head_name(spec)
    size = state[f"{name}.weight"].shape[1]
    identity = {f"{name}.weight": np.eye(size, dtype=np.float32), f"{name}.bias": np.zeros(size, np.float32)}
    labels = tuple(f"feature {k}" for k in range(size))
    return {**state, **identity}, spec.replace(
        labels=labels, label_ids=(), output="logits", accuracy=(), certainty=None
    )


def train_head(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, recipe: Recipe, progress: Tracker = silent
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (classes, features) and biases of a linear classifier on stored features: ``head_epochs`` of AdamW."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps of microseconds, for which threads would only wait for each other
    generator = torch.Generator().manual_seed(recipe.seed)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    head = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    weights = None
    if recipe.class_weights == "balanced":
        weights = balanced_class_weights(np.bincount(labels, minlength=classes).tolist())
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.head_lr, weight_decay=0.01)
    total = recipe.head_epochs * -(-len(x) // HEAD_BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    with progress(total=recipe.head_epochs, label="head", unit="epochs") as bar:
        for _ in range(recipe.head_epochs):
            for chosen in torch.randperm(len(x), generator=generator).split(HEAD_BATCH):  # type: ignore[no-untyped-call]
                scores = head(x[chosen])
                loss = classification_loss(scores, y[chosen], smoothing=recipe.label_smoothing, weights=weights)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            bar.advance()
    torch.set_num_threads(threads)
    return head.weight.detach().numpy(), head.bias.detach().numpy()


class ClassificationTask:
    """A classifier of photographs, as ``loop.Task`` describes it."""

    score = "top1"

    def __init__(
        self,
        spec: ModelSpec,
        state: Mapping[str, NDArray[Any]],
        pictures: Pictures,
        validation: Sequence[Sample],
        recipe: Recipe,
        world: World,
        *,
        teacher: Teacher | None = None,
        threads: int = 1,
    ) -> None:
        self.spec, self.recipe, self.pictures, self.validation = spec, recipe, pictures, validation
        network = build_network(spec, dropout=recipe.dropout)
        assert isinstance(network, Backbone)
        self.network: nn.Module = network
        load_state(network, state, source=spec.name)
        network.to(world.device)
        self.head = list(classifier_of(network).parameters())
        self.stages = network.stages()
        self.steps, self.batch = pictures.steps, pictures.batch
        self.teacher, self.threads = teacher, threads
        self.extra = nn.ModuleDict()
        if teacher:
            width = classifier_of(network).in_features
            if recipe.distill and teacher.columns is None:
                self.extra["answers"] = nn.Linear(width, teacher.weight.shape[0])
            if recipe.distill_features:
                self.extra["features"] = nn.Linear(width, teacher.weight.shape[1])
            self.extra.to(world.device)
        if self.extra:
            # The head's input before dropout, which is the one of either network.
            dropout = next(module for module in self.network.modules() if isinstance(module, nn.Dropout))
            dropout.register_forward_pre_hook(self._keep)
        self._features = torch.empty(0)
        self.losses = torch.empty(0, dtype=torch.float64)
        self.normalize = Normalization(spec.preprocess, recipe, world)
        self.weights: Tensor | None = None
        if recipe.class_weights == "balanced":
            counts = torch.bincount(pictures.labels, minlength=spec.num_classes)
            self.weights = balanced_class_weights(counts.tolist()).to(world.device)

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """See ``Pictures.batches``."""
        return self.pictures.batches(epoch, step)

    def _keep(self, _: nn.Module, arguments: tuple[Tensor]) -> None:
        (self._features,) = arguments

    def loss(self, network: nn.Module, batch: Batch, seed: int) -> tuple[Tensor, float]:
        """Cross-entropy, the teacher's part in it, and how many of the batch were right."""
        recipe = self.recipe
        pictures, targets = self.normalize(batch.pictures), batch.labels
        if recipe.mixup or recipe.cutmix:
            generator = torch.Generator().manual_seed(seed)
            pictures, targets = mix_batch(pictures, targets, self.spec.num_classes, recipe=recipe, generator=generator)
        logits = network(pictures).float()
        loss = classification_loss(logits, targets, smoothing=recipe.label_smoothing, weights=self.weights)
        if self.teacher:
            wanted, seen = self.teacher(pictures * self.normalize.std + self.normalize.mean)
            if recipe.distill:
                mine = self.extra["answers"](self._features).float() if "answers" in self.extra else logits
                taught = distillation_loss(mine, wanted, recipe.temperature)
                loss = (1 - recipe.distill) * loss + recipe.distill * taught
            if recipe.distill_features:
                distance = 1 - F.cosine_similarity(self.extra["features"](self._features).float(), seen)
                loss = loss + recipe.distill_features * distance.mean()
        return loss, float((logits.argmax(1) == batch.labels).sum())

    def measure(self, world: World, progress: Tracker = silent) -> dict[str, float]:
        """Loss and top-1 on the validation pictures; on a CPU in LiteRT, as users will run the model."""
        smoothing, threads = self.recipe.label_smoothing, self.threads
        losses, right = look(
            self.network, self.spec, self.validation, world, smoothing=smoothing, threads=threads, progress=progress
        )
        self.losses = torch.from_numpy(losses)
        return sum_up(losses, right)


def look(
    network: nn.Module,
    spec: ModelSpec,
    samples: Sequence[Sample],
    world: World,
    *,
    smoothing: float = 0.0,
    threads: int,
    progress: Tracker = silent,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The loss of each picture over all processes, and whether it is named right; NaN for those that cannot be read.

    The loss has the label smoothing of training. Without it, what has learnt to be less sure has the larger loss though
    it is more often right, and the head would be kept.
    """
    losses, right = np.empty(len(samples)), np.empty(len(samples), bool)
    if not len(samples):
        return losses, right
    state = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    mine = samples[world.rank :: world.size]
    logits = _answer(in_memory(state, spec), mine, world, threads, progress)
    truth = np.array([sample.label for sample in mine], np.int64)
    own = smoothing * (logits[np.arange(len(truth)), truth] - logits.mean(1)) - log_likelihoods(logits, truth)
    for rank, part in enumerate(world.gather((own, in_top(logits, truth, 1)))):
        losses[rank :: world.size], right[rank :: world.size] = part
    return losses, right


def sum_up(losses: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, float]:
    """``val_loss``, ``val_top1`` (0 to 1) and ``val_images`` of what ``look`` answers, without the unreadable.

    {} where there are none.
    """
    read = ~np.isnan(losses)
    if not read.any():
        return {}
    return {
        "val_loss": float(losses[read].mean()),
        "val_top1": float(right[read].mean()),
        "val_images": int(read.sum()),
    }


def in_memory(state: Mapping[str, NDArray[Any]], spec: ModelSpec) -> Model:
    """A float32 model that is in no file."""
    return Model(Path(f"{spec.name} in training"), "tflite", spec, to_tflite(build_graph(spec, dict(state))))


def _answer(
    model: Model, samples: Sequence[Sample], world: World, threads: int, progress: Tracker
) -> NDArray[np.float32]:
    if world.device.type == "cpu":
        return answers(model, samples, threads=threads, progress=progress).values
    device = str(world.device)
    return answers(
        model, samples, engine="torch", device=device, threads=threads, batch=GPU_BATCH, progress=progress
    ).values


class Teacher:
    """A trained model that tells what it sees on the training pictures: its logits and the features before them.

    Where it knows all classes of the student by name, its answers for them are the student's target (``columns``).
    Otherwise the student learns to give the teacher's own classes by a second head that is thrown away. Each process
    runs it on its own pictures: on a CPU in LiteRT, in one thread a core; on a GPU in PyTorch.
    """

    def __init__(self, model: Model, classes: Sequence[str], world: World, *, threads: int) -> None:
        self.spec, state = model.spec.with_logits(), model.state()
        known = {name: index for index, name in enumerate(self.spec.labels)}
        self.columns = [known[name] for name in classes] if all(name in known for name in classes) else None
        name = head_name(self.spec)
        self.weight = torch.tensor(state[f"{name}.weight"], device=world.device)
        self.bias = torch.tensor(state[f"{name}.bias"], device=world.device)
        self.state, self.spec = without_head(state, self.spec)
        self.temperature = model.spec.temperature
        self.world, self.threads = world, threads
        self._engines: dict[int, list[LiteRTEngine]] = {}
        self._network: nn.Module | None = None

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, classes of the target) and features for RGB pixels (N, 3, H, H) in [0, 255], H from 32 up."""
        with torch.no_grad(), torch.autocast(pictures.device.type, enabled=False):
            normalized = self._normalize(pictures.float())
            features = self._in_litert(normalized) if self.world.device.type == "cpu" else self._in_torch(normalized)
            logits = F.linear(features, self.weight, self.bias) / self.temperature
        return (logits if self.columns is None else logits[:, self.columns]), features

    def _in_litert(self, pictures: Tensor) -> Tensor:
        size = pictures.shape[-1]
        if size not in self._engines:
            preprocess = dataclasses.replace(self.spec.preprocess, resize=size, crop=size)
            spec = self.spec.replace(input_size=size, preprocess=preprocess)
            file = to_tflite(build_graph(spec, self.state))
            self._engines[size] = [LiteRTEngine(file, spec, threads=1) for _ in range(self.threads)]
        engines = self._engines[size]
        shares = np.array_split(pictures.contiguous().numpy(), len(engines))

        def run(job: tuple[LiteRTEngine, NDArray[np.float32]]) -> NDArray[np.float32]:
            return job[0].run(job[1])["logits"]

        with ThreadPoolExecutor(len(engines)) as pool:
            return torch.from_numpy(np.concatenate(list(pool.map(run, zip(engines, shares, strict=True)))))

    def _in_torch(self, pictures: Tensor) -> Tensor:
        if self._network is None:
            self._network = build_network(self.spec)
            load_state(self._network, self.state, source=self.spec.name)
            self._network.eval().to(self.world.device)
        answer: Tensor = self._network(pictures)
        return answer

    def _normalize(self, pictures: Tensor) -> Tensor:
        preprocess = self.spec.preprocess
        mean, std = (
            torch.tensor(v, device=pictures.device).view(1, 3, 1, 1) * 255 for v in (preprocess.mean, preprocess.std)
        )
        return ((pictures.flip(1) if preprocess.color_order == "bgr" else pictures) - mean) / std
