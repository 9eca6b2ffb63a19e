"""Every weight file that fusiform knows: where it is, what it must hash to, and what it is worth."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusiform.errors import InputError, UsageError, WeightsError
from fusiform.spec import Accuracy, Architecture, ModelSpec, Preprocess, network_name

TORCHVISION_BASE = "https://download.pytorch.org/models/"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"
IMAGENET_FILE = Path(__file__).parent / "imagenet_1k.tsv"

Kind = Literal["float32", "int8"]

UNLOADABLE_INT8 = (
    "it is a quantised PyTorch pickle that only torchvision.models.quantization can read; take the float weights of "
    "the same network, or a bundled int8 model (fusiform models lists both)"
)
TRAINING_V1 = "torchvision, references/classification, ImageNet-1k"
TRAINING_V2 = "torchvision, new training recipe (issue 3995), ImageNet-1k"
TRAINING_SHUFFLENET = "ericsun99/Shufflenet-v2-Pytorch, ported by torchvision, ImageNet-1k"
TRAINING_PR_5906 = "torchvision, new training recipe (pull request 5906), ImageNet-1k"
QUANTISED_QAT = "torchvision, quantisation-aware training from its V1 float weights, qnnpack"
QUANTISED_PTQ = "torchvision, post-training quantisation of its V1 float weights, fbgemm"


@dataclass(frozen=True)
class Weights:
    """A weight file: a network trained once, by someone, on something.

    ``variant`` tells apart several trainings of one network. ``file`` is the name in the package (``bundled``) or in
    the cache; ``url`` is empty for bundled files. ``sha256`` is the file's full hash, or empty where only its first
    digits (``sha256_prefix``) are published. ``size_mb`` is in units of 2**20 bytes, as torchvision prints it.
    ``enum`` is torchvision's name for it. ``unloadable`` says why no network here can take it, and what to do instead;
    it is empty for all others. A bundled file carries its own spec, with the accuracy measured for it.
    """

    architecture: Architecture
    width: float
    variant: str
    file: str
    size_mb: float
    license: str
    source: str
    url: str = ""
    sha256: str = ""
    sha256_prefix: str = ""
    preprocess: Preprocess = Preprocess()  # noqa: RUF009  # frozen, as safe as a number
    accuracy: tuple[Accuracy, ...] = ()
    kind: Kind = "float32"
    enum: str = ""
    unloadable: str = ""

    @property
    def network(self) -> str:
        """The network with its width, as in the paper: ``mobilenet_v2_x1_0``."""
        return network_name(self.architecture, self.width)

    @property
    def name(self) -> str:
        """The name in the catalogue: ``mobilenet_v2_x1_0.torchvision_v2``."""
        return f"{self.network}.{self.variant}"

    @property
    def bundled(self) -> bool:
        """Whether the file comes with the package and needs no download."""
        return not self.url

    @property
    def bytes(self) -> int:
        """The size of the file: exact where it is bundled, else as it is published, to a thousandth of 2**20 bytes."""
        if self.bundled:
            return (BUNDLED_FOLDER / self.file).stat().st_size
        return round(self.size_mb * 2**20)

    def spec(self) -> ModelSpec:
        """The description of a network with these weights: 1000 ImageNet classes, as trained by ``source``."""
        names, wnids = imagenet_labels()
        return ModelSpec(
            self.architecture,
            self.width,
            names,
            label_ids=wnids,
            input_size=self.preprocess.crop,
            preprocess=self.preprocess,
            provenance=f"{self.name}: {self.source}",
            license=self.license,
            accuracy=self.accuracy,
        )

    def check_loadable(self) -> None:
        """Raise WeightsError, with the reason and the way round it, where no network here can take the file."""
        if self.unloadable:
            raise WeightsError(f"{self.name} cannot be loaded: {self.unloadable}")


@functools.cache
def imagenet_labels() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 1000 names of ImageNet-1k and their WordNet ids, in the order of the outputs.

    Names are torchvision's (BSD-3-Clause), which are all different; ids are timm's list (Apache-2.0).
    """
    lines = IMAGENET_FILE.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")][1:]
    return tuple(name for _, _, name in rows), tuple(wnid for _, wnid, _ in rows)


def _torchvision(
    architecture: Architecture,
    width: float,
    variant: str,
    *,
    enum: str,
    path: str,
    sha256_prefix: str,
    size_mb: float,
    top1: float,
    top5: float,
    source: str,
    resize: int = 256,
    kind: Kind = "float32",
) -> Weights:
    """One of torchvision's files; the figures are those of its documentation and its source (``_file_size``).

    ``top1`` and ``top5`` are in percent, as they are printed there.

    Its int8 files are state dicts of modules packed for one CPU backend of eager-mode quantisation: other names,
    quantised tensors, activation scales. They are listed for their accuracy.
    """
    return Weights(
        architecture,
        width,
        variant,
        file=path.rpartition("/")[2],
        size_mb=size_mb,
        license="BSD-3-Clause",
        source=source,
        url=TORCHVISION_BASE + path,
        sha256_prefix=sha256_prefix,
        preprocess=Preprocess(resize=resize),
        accuracy=(
            Accuracy(
                "ImageNet-1k validation",
                round(top1 / 100, 6),
                round(top5 / 100, 6),
                50_000,
                "torchvision's documentation",
            ),
        ),
        kind=kind,
        enum=enum,
        unloadable="" if kind == "float32" else UNLOADABLE_INT8,
    )


CATALOG: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            "mobilenet_v2",
            1.0,
            "bundled",
            file="mobilenet_v2_x1_0.tflite",
            size_mb=3.614,
            license="Apache-2.0 AND BSD-3-Clause",
            source="fusiform, distilled with quantisation in the loop; the model card beside the file has the lineage",
            kind="int8",
        ),
        _torchvision(
            "mobilenet_v2",
            1.0,
            "torchvision_v1",
            enum="MobileNet_V2_Weights.IMAGENET1K_V1",
            path="mobilenet_v2-b0353104.pth",
            sha256_prefix="b0353104",
            size_mb=13.555,
            top1=71.878,
            top5=90.286,
            source=TRAINING_V1,
        ),
        _torchvision(
            "mobilenet_v2",
            1.0,
            "torchvision_v2",
            enum="MobileNet_V2_Weights.IMAGENET1K_V2",
            path="mobilenet_v2-7ebf99e0.pth",
            sha256_prefix="7ebf99e0",
            size_mb=13.598,
            top1=72.154,
            top5=90.822,
            resize=232,
            source=TRAINING_V2,
        ),
        _torchvision(
            "mobilenet_v2",
            1.0,
            "torchvision_qnnpack_v1",
            enum="MobileNet_V2_QuantizedWeights.IMAGENET1K_QNNPACK_V1",
            path="quantized/mobilenet_v2_qnnpack_37f702c5.pth",
            sha256_prefix="37f702c5",
            size_mb=3.423,
            top1=71.658,
            top5=90.150,
            source=QUANTISED_QAT,
            kind="int8",
        ),
        _torchvision(
            "shufflenet_v2",
            0.5,
            "torchvision_v1",
            enum="ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1",
            path="shufflenetv2_x0.5-f707e7126e.pth",
            sha256_prefix="f707e7126e",
            size_mb=5.282,
            top1=60.552,
            top5=81.746,
            source=TRAINING_SHUFFLENET,
        ),
        _torchvision(
            "shufflenet_v2",
            0.5,
            "torchvision_fbgemm_v1",
            enum="ShuffleNet_V2_X0_5_QuantizedWeights.IMAGENET1K_FBGEMM_V1",
            path="quantized/shufflenetv2_x0.5_fbgemm-00845098.pth",
            sha256_prefix="00845098",
            size_mb=1.501,
            top1=57.972,
            top5=79.780,
            source=QUANTISED_PTQ,
            kind="int8",
        ),
        Weights(
            "shufflenet_v2",
            1.0,
            "bundled",
            file="shufflenet_v2_x1_0.tflite",
            size_mb=2.366,
            license="Apache-2.0 AND BSD-3-Clause",
            source="fusiform, distilled with quantisation in the loop; the model card beside the file has the lineage",
            kind="int8",
        ),
        _torchvision(
            "shufflenet_v2",
            1.0,
            "torchvision_v1",
            enum="ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1",
            path="shufflenetv2_x1-5666bf0f80.pth",
            sha256_prefix="5666bf0f80",
            size_mb=8.791,
            top1=69.362,
            top5=88.316,
            source=TRAINING_SHUFFLENET,
        ),
        _torchvision(
            "shufflenet_v2",
            1.0,
            "torchvision_fbgemm_v1",
            enum="ShuffleNet_V2_X1_0_QuantizedWeights.IMAGENET1K_FBGEMM_V1",
            path="quantized/shufflenetv2_x1_fbgemm-1e62bb32.pth",
            sha256_prefix="1e62bb32",
            size_mb=2.334,
            top1=68.360,
            top5=87.582,
            source=QUANTISED_PTQ,
            kind="int8",
        ),
        _torchvision(
            "shufflenet_v2",
            1.5,
            "torchvision_v1",
            enum="ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1",
            path="shufflenetv2_x1_5-3c479a10.pth",
            sha256_prefix="3c479a10",
            size_mb=13.557,
            top1=72.996,
            top5=91.086,
            resize=232,
            source=TRAINING_PR_5906,
        ),
        _torchvision(
            "shufflenet_v2",
            1.5,
            "torchvision_fbgemm_v1",
            enum="ShuffleNet_V2_X1_5_QuantizedWeights.IMAGENET1K_FBGEMM_V1",
            path="quantized/shufflenetv2_x1_5_fbgemm-d7401f05.pth",
            sha256_prefix="d7401f05",
            size_mb=3.672,
            top1=72.052,
            top5=90.700,
            resize=232,
            source=QUANTISED_PTQ,
            kind="int8",
        ),
        _torchvision(
            "shufflenet_v2",
            2.0,
            "torchvision_v1",
            enum="ShuffleNet_V2_X2_0_Weights.IMAGENET1K_V1",
            path="shufflenetv2_x2_0-8be3c8ee.pth",
            sha256_prefix="8be3c8ee",
            size_mb=28.433,
            top1=76.230,
            top5=93.006,
            resize=232,
            source=TRAINING_PR_5906,
        ),
        _torchvision(
            "shufflenet_v2",
            2.0,
            "torchvision_fbgemm_v1",
            enum="ShuffleNet_V2_X2_0_QuantizedWeights.IMAGENET1K_FBGEMM_V1",
            path="quantized/shufflenetv2_x2_0_fbgemm-5cac526c.pth",
            sha256_prefix="5cac526c",
            size_mb=7.467,
            top1=75.354,
            top5=92.488,
            resize=232,
            source=QUANTISED_PTQ,
            kind="int8",
        ),
    )
}

ALIASES: dict[str, str] = {
    "mobilenet_v2": "mobilenet_v2_x1_0.bundled",
    "mobilenet_v2_x1_0": "mobilenet_v2_x1_0.bundled",
    "shufflenet_v2_x0_5": "shufflenet_v2_x0_5.torchvision_v1",
    "shufflenet_v2_x1_0": "shufflenet_v2_x1_0.bundled",
    "shufflenet_v2_x1_5": "shufflenet_v2_x1_5.torchvision_v1",
    "shufflenet_v2_x2_0": "shufflenet_v2_x2_0.torchvision_v1",
}
"""Network names, and the weights they stand for when none are named: a bundled file before a download."""


def find_weights(name: str, weights: str | None = None) -> Weights:
    """The record for a name of the catalogue, or for a network and one of its trainings.

    ``name`` alone is a catalogue name (``mobilenet_v2_x1_0.torchvision_v2``), a network (``mobilenet_v2``) or
    torchvision's whole name (``MobileNet_V2_Weights.IMAGENET1K_V2``). With a network, ``weights`` is the variant
    (``torchvision_v2``, ``bundled``) or torchvision's name, with or without its class; ``DEFAULT`` is the one that
    torchvision takes by default, its best float weights. Raises UsageError, with the nearest names, for anything else.
    """
    if weights is None:
        found = CATALOG.get(ALIASES.get(name, name))
        if found is None and "." in name:  # torchvision's member alone would fit every network
            found = _by_enum(name, tuple(CATALOG.values()))
        if found is None:
            raise _unknown(f"no weights are called {name!r}", name, (*ALIASES, *CATALOG))
        return found
    if name not in ALIASES:
        raise _unknown(f"no weights are known for a network {name!r}", name, tuple(ALIASES))
    network = CATALOG[ALIASES[name]].network
    of_network = tuple(record for record in CATALOG.values() if record.network == network)
    found = CATALOG.get(f"{network}.{weights}") or _by_enum(weights, of_network)
    if found is None:
        enums = (record.enum.partition(".")[2] for record in of_network if record.enum)
        names = (*(record.variant for record in of_network), *enums)
        raise InputError(
            f"{network} has no weights {weights!r}; it has {', '.join(names)}. fusiform models lists all weights"
        )
    return found


def _by_enum(name: str, records: tuple[Weights, ...]) -> Weights | None:
    owner, _, member = name.rpartition(".")
    for record in reversed(records):  # the last float training of a network is torchvision's default
        record_owner, _, record_member = record.enum.partition(".")
        is_default = member == "DEFAULT" and record.enum != "" and record.kind == "float32"
        if (owner in ("", record_owner)) and (is_default or member == record_member != ""):
            return record
    return None


def _unknown(what: str, name: str, known: tuple[str, ...]) -> UsageError:
    longer = [other for other in known if name and other.startswith(name.lower())]
    here = {record.name for record in CATALOG.values() if record.bundled}
    longer.sort(key=lambda other: ALIASES.get(other, other) not in here)  # what needs no download comes first
    import difflib  # here, because a known name is not to wait for it

    near = longer[:3] or difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "."
    return InputError(f"{what}{hint} fusiform models lists all weights")
