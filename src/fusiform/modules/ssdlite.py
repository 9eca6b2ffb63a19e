"""SSDLite: SSD with depthwise-separable predictions (Sandler et al., arXiv 1801.04381, Section 6.2).

The maps and layers are those of the paper's implementation, TensorFlow's ``ssdlite_mobilenet_v2_coco``; here they are
at width 1.0 on 320x320 pixels:

    map   made by                        of                    320^2   channels   priors a cell   here
    0     expansion of bottleneck 14     MobileNetV2           20^2    576        3               backbone
          or stage 3                     ShuffleNetV2 1.0      20^2    232        3               backbone
    1     the last 1x1 convolution       either                10^2    1280/1024  6               backbone
    2     1x1, 256; 3x3 dw, s2; 1x1      map 1                 5^2     512        6               extras.0
    3     1x1, 128; 3x3 dw, s2; 1x1      map 2                 3^2     256        6               extras.1
    4     1x1, 128; 3x3 dw, s2; 1x1      map 3                 2^2     256        6               extras.2
    5     1x1, 64;  3x3 dw, s2; 1x1      map 4                 1^2     128        6               extras.3

2,034 priors in all. Each map k has two prediction layers, ``classes.k`` and ``boxes.k``: a depthwise 3x3 convolution
with BatchNorm and ReLU6, then a 1x1 convolution with a bias. With 81 classes on MobileNetV2 1.0 that is 4,337,013
parameters and 0.789 billion multiply-adds at 320x320, the 4.3M and 0.8B of Table 6.
"""

# No postponed annotations here: see Backbone.
import math

import torch
from torch import Tensor, nn

from fusiform.errors import UsageError
from fusiform.modules.backbones import Backbone, check_maps, take_off_classifier
from fusiform.modules.layers import LoneBatchNorm2d, conv1x1, conv3x3
from fusiform.spec import Padding
from fusiform.tables import SSD_PRIORS_PER_CELL, ssd_extra_channels


class SSDLite(nn.Module):
    """A detector over MobileNetV2 of any width or ShuffleNetV2, for (N, in_channels, H, W) pictures of any size.

    ``backbone`` becomes part of the detector, with the weights it has and without its classifier, which is taken off;
    it must have output stride 32. ``num_classes`` counts the background, which is class 0: 81 for COCO. ``width``
    multiplies the channels of the extra layers, rounded to multiples of 8, and should be that of a MobileNetV2
    backbone; ``padding`` is that of the backbone's weights. Wrong arguments raise UsageError.

    The first map is the widest tensor at stride 16. In MobileNetV2 that is ``expansion_13``, the expansion of layer 15
    in the paper's count, before it loses its stride. ShuffleNetV2 does not expand: there it is ``stride_16``, the
    output of stage 3, past its ReLU, of which both branches of the next downsampling unit read every channel.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 81,
        *,
        width: float = 1.0,
        padding: Padding = "symmetric",
    ) -> None:
        super().__init__()
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 2:
            raise UsageError(
                "SSDLite: num_classes must be a whole number, 2 or more because the background is one, "
                f"got {num_classes!r}"
            )
        if not isinstance(width, (int, float)) or not (math.isfinite(width) and width > 0):
            raise UsageError(f"SSDLite: width must be a positive number such as 1.0 or 0.35, got {width!r}")
        if backbone.output_stride != 32:
            raise UsageError(
                f"SSDLite: the backbone has output stride {backbone.output_stride}; build it with output_stride=32"
            )
        check_maps("SSDLite", backbone, backbone.traits.detection_map)
        take_off_classifier(backbone)
        self.backbone = backbone
        self.first_map = backbone.traits.detection_map
        self.num_classes = num_classes

        last = backbone.feature_channels["last"]
        halves, extras = zip(*ssd_extra_channels(width), strict=True)
        self.extras = nn.ModuleList(
            extra_layer(inputs, half, outputs, padding=padding)
            for inputs, half, outputs in zip((last, *extras[:-1]), halves, extras, strict=True)
        )
        channels = [backbone.feature_channels[self.first_map], last, *extras]
        # The backbone's own norms need more than one cell on the first two maps; later ones may have a single cell.
        norms = [nn.BatchNorm2d] * 2 + [LoneBatchNorm2d] * 4
        maps = list(zip(channels, SSD_PRIORS_PER_CELL, norms, strict=True))
        self.classes = nn.ModuleList(prediction_layer(c, priors * num_classes, norm) for c, priors, norm in maps)
        self.boxes = nn.ModuleList(prediction_layer(c, priors * 4, norm) for c, priors, norm in maps)
        for layers in (self.extras, self.classes, self.boxes):
            _initialise(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (N, priors, num_classes) and box offsets (N, priors, 4) of normalised pictures.

        The priors are in the order of the maps; within a map row by row, within a row from the left, and within a cell
        in the order of its priors. The offsets are what training made of them: the network gives them no meaning.
        """
        features = self.backbone.forward_stages(x)
        maps = [features[self.first_map], features["last"]]
        for layer in self.extras:
            maps.append(layer(maps[-1]))
        logits: list[Tensor] = []
        offsets: list[Tensor] = []
        for i, layer in enumerate(self.classes):
            logits.append(_by_prior(layer(maps[i]), self.num_classes))
        for i, layer in enumerate(self.boxes):
            offsets.append(_by_prior(layer(maps[i]), 4))
        return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)


def extra_layer(inputs: int, half: int, outputs: int, *, padding: Padding) -> nn.Sequential:
    """A further map of half the size: 1x1 to ``half``, depthwise 3x3 at stride 2, 1x1 to ``outputs``, each ReLU6."""
    return nn.Sequential(
        _conv_norm_relu6(conv1x1(inputs, half), LoneBatchNorm2d),
        _conv_norm_relu6(conv3x3(half, half, 2, padding=padding, groups=half), LoneBatchNorm2d),
        _conv_norm_relu6(conv1x1(half, outputs), LoneBatchNorm2d),
    )


def prediction_layer(inputs: int, outputs: int, norm: type[nn.BatchNorm2d]) -> nn.Sequential:
    """A depthwise-separable prediction: ``outputs`` linear numbers for each cell."""
    # At stride 1 both padding rules are one.
    depthwise = conv3x3(inputs, inputs, 1, padding="symmetric", groups=inputs)
    return nn.Sequential(
        _conv_norm_relu6(depthwise, norm),
        nn.Conv2d(inputs, outputs, 1),
    )


def _conv_norm_relu6(convolution: nn.Conv2d, norm: type[nn.BatchNorm2d]) -> nn.Sequential:
    return nn.Sequential(convolution, norm(convolution.out_channels), nn.ReLU6(inplace=True))


def _by_prior(x: Tensor, values: int) -> Tensor:
    """(N, priors a cell * values, rows, columns) to (N, rows * columns * priors a cell, values)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


def _initialise(layers: nn.Module) -> None:
    """The implementation's values: a normal distribution of 0.03, cut off at two standard deviations; biases of 0."""
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.03, a=-0.06, b=0.06)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
