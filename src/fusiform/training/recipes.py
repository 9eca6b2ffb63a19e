"""The recipes that come along, and where their numbers are from.

``fusiform train FOLDER --recipe NAME`` takes one; ``--set FIELD=VALUE`` changes a number of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from fusiform.data.open import recognise
from fusiform.errors import UsageError
from fusiform.spec import Task
from fusiform.training.recipe import Recipe, override

finetune_small = Recipe(
    name="finetune_small",
    epochs=4,
    min_steps=200,
    max_steps=2000,
    head_epochs=20,
    head_lr=3e-3,
    batch=32,
    size=144,
    eval_size=224,
    fit_size=True,
    optimizer="adamw",
    lr=3e-4,
    centre_steps=True,
    weight_decay=0.02,
    schedule="cosine",
    warmup_epochs=0.3,
    batch_norm="frozen",
    label_smoothing=0.1,
    augment="crop",
    crop_scale=(0.4, 1.0),
    ema=0.98,
    precision="bfloat16",
    channels_last=True,
    give_up=0.5,
    metric="loss",
    val_fraction=0.1,
)
"""A few hundred to a few thousand photographs on a laptop: ``fusiform train FOLDER --out RUN``.

The head learns on stored features first, so that its first large gradients do not spoil the backbone
(arXiv 2202.10054); then all learns together for four epochs, or the 200 to 2,000 steps that few or many photographs
take. Batch normalisation keeps the statistics of the millions of photographs that the backbone has seen, and steps
that sum to 0 over a kernel's inputs keep what the head has learnt, see ``optim.CentredAdamW``. Crops of 144 pixels show
things as large as whole pictures of 224 do (arXiv 1906.06423), in less than half the time; pictures up to 96 pixels
are not blown up as far. The head is kept until an epoch's loss on the validation pictures is smaller beyond chance: of
a few pictures, the loss tells more than how many are right. Half of the epochs without one are enough to know.

Six scenes, 4,200 photographs, two cores without a GPU (AMD EPYC): MobileNetV2 1.0 in 1.6 minutes, 92.8 % of 1,200
test photographs right; ShuffleNetV2 x1.0 in 1.1 minutes, 92.8 %.
"""

finetune_full = Recipe(
    name="finetune_full",
    epochs=40,
    head_epochs=10,
    head_lr=1e-3,
    batch=128,
    size=224,
    eval_size=224,
    optimizer="sgd",
    lr=0.05,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-5,
    schedule="cosine",
    warmup_epochs=1.0,
    backbone_lr=0.5,
    label_smoothing=0.1,
    mixup=0.2,
    augment="crop_trivial",
    crop_scale=(0.25, 1.0),
    random_erasing=0.1,
    ema=0.999,
    precision="bfloat16",
    channels_last=True,
    metric="loss",
    val_fraction=0.1,
)
"""More pictures, or a GPU: ``fusiform train FOLDER --recipe finetune_full``.

Longer, with stronger augmentation, which fewer epochs would not repay.

Not measured here.
"""

prototypes = Recipe(
    name="prototypes",
    epochs=0,
    head="prototypes",
    size=224,
    eval_size=224,
    cache="none",
    metric="loss",
    val_fraction=0.1,
)
"""A classifier in seconds, from one pass over the photographs: ``fusiform train FOLDER --recipe prototypes``.

The backbone stays as it is; the last layer is a linear discriminant of its features, or the mean of each class,
whichever names more images right in cross-validation. For a first look, and where there are few photographs of a class:
``finetune_small`` is better with more.
"""

distill_small = Recipe(
    name="distill_small",
    epochs=50,
    batch=64,
    size=128,
    eval_size=224,
    sizes=(96, 128, 160),
    optimizer="adamw",
    lr=3e-3,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=2.0,
    augment="crop",
    crop_scale=(0.3, 1.0),
    ema=0.99,
    precision="bfloat16",
    channels_last=True,
    distill=0.9,
    temperature=2.0,
    distill_features=1.0,
    metric="loss",
    val_fraction=0.1,
)
"""A narrow network that learns from a wide one: ``fusiform train FOLDER --out RUN --model mobilenet_v2_x0_35
--teacher WIDE/best.safetensors --recipe distill_small``.

A network cut from a wider one hardly sees more than a random one, so it learns for long: the teacher's answers to the
same crops (arXiv 1503.02531, 2106.05237) and its features, with sides that grow from 96 to 160 pixels.

Six scenes as above: MobileNetV2 0.35 in 28 minutes, 90.2 %.
"""

quantize_small = Recipe(
    name="quantize_small",
    epochs=3,
    batch=32,
    size=192,
    optimizer="adamw",
    lr=3e-5,
    weight_decay=0.0,
    schedule="cosine",
    warmup_epochs=0.15,
    augment="crop",
    crop_scale=(0.3, 1.0),
    precision="float32",
    channels_last=True,
    fused=False,
    distill=1.0,
    temperature=2.0,
    metric="loss",
)
"""An int8 network taught by the float32 network it was made from; what ``exporting.quantization.train_quantized`` runs.

A few thousand photographs are 300 to 500 steps, which is what the bundled int8 networks were trained for, with the
same rate, batch, crops and temperature (``scripts/train_bundled.py``; 3e-5 was chosen among 2e-5, 3e-5 and 2e-4). The
rate is that of weights that only have to move within the steps of their grid. Everything is computed in float32, so
that there is no other error than the one of int8. Networks that see less than 192 pixels get crops of their own size.
"""

imagenet_paper = Recipe(
    name="imagenet_paper",
    epochs=420,
    batch=96,
    size=224,
    eval_size=224,
    eval_resize=256,
    optimizer="rmsprop",
    lr=0.045,
    momentum=0.9,
    rmsprop_decay=0.9,
    eps=1.0,
    weight_decay=4e-5,
    schedule="step",
    step_epochs=1.0,
    decay_rate=0.98,
    label_smoothing=0.1,
    augment="crop",
    crop_scale=(0.05, 1.0),
    color_jitter=0.125,
    ema=0.9999,
)
"""MobileNetV2 as its paper trains it: ``fusiform train IMAGENET --scratch --recipe imagenet_paper``.

Section 6.1 of arXiv 1801.04381: RMSProp with decay and momentum 0.9, weight decay 0.00004, learning rate 0.045 x 0.98
an epoch, 16 asynchronous workers with a batch of 96 each. Such a worker steps on its own 96 pictures, so 96 is the
batch that 0.045 belongs to. Steps over N times as many pictures want N times the rate, as in the authors' own command:
for 16 x 96 add ``--set batch=1536 --set lr=0.72 --set warmup_epochs=5``.

The paper does not print the rest; it is from the authors' code (tensorflow/models, research/slim): label smoothing 0.1,
a moving average of 0.9999, epsilon 1, Inception's crops and colours (brightness by 32 levels in 256), and 5.5 million
steps of 96 pictures, which are 412 epochs.

Top-1 72.0 % in the paper (Table 4); not measured here, for want of ImageNet.
"""

imagenet_modern = Recipe(
    name="imagenet_modern",
    epochs=300,
    batch=1024,
    size=224,
    eval_size=224,
    eval_resize=256,
    optimizer="sgd",
    lr=0.4,
    momentum=0.9,
    nesterov=True,
    weight_decay=4e-5,
    schedule="cosine",
    warmup_epochs=5.0,
    label_smoothing=0.1,
    augment="crop",
    crop_scale=(0.08, 1.0),
    ema=0.9999,
    precision="bfloat16",
    channels_last=True,
)
"""Either network from nothing: ``fusiform train IMAGENET --scratch --recipe imagenet_modern``.

What "Bag of Tricks" (arXiv 1812.01187) found good for MobileNet too: 0.1 for each 256 pictures, a warm-up of 5 epochs,
cosine, label smoothing, no decay on biases and batch normalisation. The decay is that of both papers, small because
the networks are.

Not measured here, for want of ImageNet.
"""

shufflenet_paper = Recipe(
    name="shufflenet_paper",
    epochs=240,
    batch=1024,
    size=224,
    eval_size=224,
    eval_resize=256,
    optimizer="sgd",
    lr=0.5,
    momentum=0.9,
    weight_decay=4e-5,
    decay_norms_and_biases=False,
    schedule="linear",
    label_smoothing=0.1,
    augment="crop",
    crop_scale=(0.08, 1.0),
    color_jitter=0.4,
)
"""ShuffleNetV2 as its paper trains it: ``fusiform train IMAGENET --scratch --recipe shufflenet_paper``.

Section 4 of arXiv 1807.11164 takes over ShuffleNetV1's protocol (arXiv 1707.01083, Section 4): batches of 1024 over 4
GPUs, weight decay 0.00004, a rate that falls linearly from 0.5 to 0 over 300,000 steps, which are 240 epochs. From the
authors' code (megvii-model/ShuffleNet-Series): label smoothing 0.1, no decay on what has one dimension (biases and
batch normalisation), colour changes of 0.4, crops of 8 % and more. The paper's own pictures are scaled less
aggressively for the narrow networks.

Top-1 69.4 % at width 1.0 in the paper (Table 8); not measured here, for want of ImageNet.
"""

ssdlite_small = Recipe(
    name="ssdlite_small",
    task="detection",
    epochs=15,
    batch=32,
    size=224,
    eval_size=224,
    optimizer="adamw",
    lr=4e-3,
    weight_decay=0.02,
    schedule="cosine",
    warmup_epochs=1.0,
    backbone_lr=0.25,
    augment="crop",
    color_jitter=0.3,
    ema=0.99,
    clip=10.0,
    precision="bfloat16",
    channels_last=True,
    metric="map50",
    val_fraction=0.1,
)
"""A few hundred to a few thousand photographs with boxes on a laptop: ``fusiform train FOLDER --out RUN``.

The heads are fresh and need batch statistics, and a high rate for their few steps; the backbone learns at a quarter of
it. Nothing is placed on larger canvases (``expand``), which takes more epochs than these to repay. With a few hundred
photographs these are few steps: ``--set epochs=60``.

1,600 synthetic images (``scripts/make_shapes.py``), two cores and no GPU: 17 minutes, mAP@0.5 0.960 and mAP 0.710 on
400 others.
"""

coco_ssdlite_paper = Recipe(
    name="coco_ssdlite_paper",
    task="detection",
    epochs=41,
    batch=24,
    size=320,
    eval_size=320,
    optimizer="rmsprop",
    lr=0.004,
    momentum=0.9,
    rmsprop_decay=0.9,
    eps=1.0,
    weight_decay=4e-5,
    schedule="constant",
    augment="crop",
    ema=0.9999,
    metric="map",
)
"""MobileNetV2 with SSDLite on COCO: ``fusiform train coco --recipe coco_ssdlite_paper --out RUN``, with
``annotations/instances_train2017.json``, ``instances_val2017.json`` and their pictures in the folder ``coco``.

The numbers of TensorFlow's ``ssdlite_mobilenet_v2_coco.config``: 200,000 steps of 24 pictures are 41 epochs, in which
its rate, which falls every 800,720 steps, stays what it is. Three things differ: 320 pixels as in the paper (arXiv
1801.04381, Section 6.2) for its 300, a softmax over the classes for its sigmoids, and a decay of 0.9 for the running
statistics of batch normalisation instead of 0.9997.

Not measured here. The paper has 22.1 mAP on test-dev.
"""

voc_ssdlite = Recipe(
    name="voc_ssdlite",
    task="detection",
    epochs=200,
    batch=32,
    size=320,
    eval_size=320,
    optimizer="sgd",
    lr=0.01,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup_epochs=2.0,
    augment="crop",
    expand=0.5,
    color_jitter=0.4,
    ema=0.999,
    clip=10.0,
    precision="bfloat16",
    channels_last=True,
    metric="map50",
)
"""SSDLite on Pascal VOC 2007 and 2012: ``fusiform train VOC --task detection --recipe voc_ssdlite --out RUN``.

SSD's own settings (arXiv 1512.02325, Sections 2.2, 3.1 and 3.6): SGD, decay 5e-4, pictures on larger canvases, as many
epochs as 120,000 steps of 32 are of 16,551 pictures. The cosine and its rate are not the paper's.

Not measured here.
"""

deeplab_small = Recipe(
    name="deeplab_small",
    task="segmentation",
    epochs=12,
    batch=16,
    size=225,
    eval_size=449,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.02,
    schedule="poly",
    warmup_epochs=0.3,
    backbone_lr=0.5,
    augment="crop",
    scale_range=(0.75, 2.0),
    ema=0.98,
    precision="bfloat16",
    channels_last=True,
    metric="miou",
    val_fraction=0.1,
)
"""A few hundred to a few thousand photographs with masks on a laptop: ``fusiform train FOLDER --out RUN``, or with
``--task segmentation`` where there are boxes too.

Crops of 225 pixels cost a quarter of what whole pictures of 449 do, and factors up to 2 show things as large as those
do (arXiv 1906.06423). One logit for 16 x 16 pixels cannot follow fine borders: for made shapes even the best logits
reach a mean IoU of 0.90 at 225 pixels, 0.94 at 321 and 0.95 at 385, and a larger side costs only evaluation.

1,600 synthetic images (``scripts/make_shapes.py``), two cores and no GPU: 18 minutes, mean IoU 0.902 on 400 others. The
side was chosen on these.
"""

voc_deeplab_paper = Recipe(
    name="voc_deeplab_paper",
    task="segmentation",
    epochs=46,
    batch=16,
    size=513,
    eval_size=513,
    optimizer="sgd",
    lr=0.007,
    momentum=0.9,
    weight_decay=4e-5,
    schedule="poly",
    power=0.9,
    sync_batch_norm=True,
    augment="crop",
    scale_range=(0.5, 2.0),
    dropout=0.1,
    metric="miou",
)
"""DeepLabv3 on Pascal VOC: ``fusiform train VOC --task segmentation --recipe voc_deeplab_paper --out RUN``, with the
10,582 pictures of train_aug named in ``ImageSets/Segmentation/train.txt``.

Batch 16, crops of 513, poly 0.9 from 0.007, scales of 0.5 to 2, mirroring, batch statistics (arXiv 1706.05587, Section
4.1), no ASPP (arXiv 1801.04381, Section 6.3), weight decay 4e-5 and 30,000 steps (TensorFlow's ``deeplab/train.py``),
which are 46 epochs. On trainval after that: ``--set lr=1e-4``.

Not measured here. The 75.3 % of the paper's table begin with COCO; from ImageNet alone less is to be expected.
"""

RECIPES: dict[str, Recipe] = {
    "finetune_small": finetune_small,
    "finetune_full": finetune_full,
    "prototypes": prototypes,
    "distill_small": distill_small,
    "quantize_small": quantize_small,
    "imagenet_paper": imagenet_paper,
    "imagenet_modern": imagenet_modern,
    "shufflenet_paper": shufflenet_paper,
    "ssdlite_small": ssdlite_small,
    "coco_ssdlite_paper": coco_ssdlite_paper,
    "voc_ssdlite": voc_ssdlite,
    "deeplab_small": deeplab_small,
    "voc_deeplab_paper": voc_deeplab_paper,
}
"""All recipes by name."""

DEFAULTS: dict[Task, str] = {
    "classification": "finetune_small",
    "detection": "ssdlite_small",
    "segmentation": "deeplab_small",
}
"""The recipe of each task where none is named."""


def find_recipe(recipe: str | Recipe) -> Recipe:
    """The preset of that name; UsageError where there is none. A recipe is returned as it is."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise UsageError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    return RECIPES[recipe]


def choose_recipe(
    data: str | os.PathLike[str] | None,
    *,
    task: Task | None = None,
    recipe: str | Recipe | None = None,
    settings: Mapping[str, object] | Sequence[str] = (),
    teacher: object = None,
) -> Recipe:
    """The recipe that was named, or the default one of the task: the one named, or what ``data`` is laid out for.

    A ``teacher`` sets ``distill`` to 0.5 where the recipe has no share for one; ``settings`` change it as ``override``
    does. Raises UsageError for an unknown name, a recipe of another task than the one asked for, and wrong settings.
    """
    if recipe is not None:
        chosen = find_recipe(recipe)
    else:
        found = None if data is None else recognise(data)
        chosen = RECIPES[DEFAULTS[task or found or "classification"]]
    if task is not None and chosen.task != task:
        raise UsageError(f"--recipe {chosen.name} is for {chosen.task}, not for --task {task}: leave out one of them")
    if teacher and not (chosen.distill or chosen.distill_features):
        chosen = override(chosen, ["distill=0.5"])
    return override(chosen, settings)
