"""DeepLabv3 on small backbones (Sandler et al., arXiv 1801.04381, Section 6.3; Chen et al., arXiv 1706.05587).

The head of TensorFlow's ``deeplab`` with the settings of its ``mobilenet_v2``, here at 513x513 and output stride 16:

    input               operator                                        output        here
    33^2 x 320          mean of the map, 1x1, spread over the map       33^2 x 256    pooling
    33^2 x 320          1x1                                             33^2 x 256    branches.0
    33^2 x 320          with aspp: 3x3 at rates 6, 12 and 18            33^2 x 256    branches.1 to 3
    33^2 x 512 or 1280  all of them side by side, 1x1, dropout          33^2 x 256    projection
    33^2 x 256          1x1 with bias                                   33^2 x 21     classifier
    33^2 x 21           bilinear                                        513^2 x 21

Each convolution but the last has BatchNorm and ReLU. On MobileNetV2 1.0 with 21 classes, against Table 7:

                            parameters                  multiply-adds
    OS 16                   2,113,557   (2.11M)         2.741 billion   (2.75B)
    OS 16, ASPP             4,523,541   (4.52M)         5.364 billion   (5.8B)
    OS 8, ASPP, MS, flip    4,523,541   (4.52M)         328 billion     (387B)

The paper's two larger counts are of TensorFlow's way to compute a convolution at rate r: the map, 33x33, is cut into
r^2 interleaved ones, all padded to the same size, so that 36x36 places are computed at each of the rates 6, 12 and 18.
Each branch of 320 * 256 * 9 weights then costs 0.956 billion instead of 0.803, together 0.458 billion more: 5.82
billion. At output stride 8 the six scales' maps of 33 to 113 cells are padded to multiples of 12, 24 and 36: 387
billion. A network that computes only the places it keeps has the smaller numbers.
"""

# No postponed annotations here: see Backbone.
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusiform.errors import UsageError
from fusiform.modules.backbones import Backbone, check_maps, take_off_classifier, take_off_last
from fusiform.modules.layers import LoneBatchNorm2d, check_arguments, check_whole, conv1x1, conv3x3
from fusiform.tables import DEEPLAB_ASPP_RATES, DEEPLAB_CHANNELS

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Of multi-scale inference (arXiv 1706.05587, Section 4.1)."""


class DeepLabV3(nn.Module):
    """A segmenter over MobileNetV2 of any width or ShuffleNetV2, for (N, in_channels, H, W) pictures of any size.

    It reads the second-last map: ``bottleneck_17`` of MobileNetV2 (320 channels), the output of stage 4 of
    ShuffleNetV2; both are called ``stride_32`` too. ``backbone`` becomes part of the segmenter, with the weights it
    has and without its last 1x1 convolution and its classifier, which are taken off. ``output_stride``, 8 or 16, must
    be the one that the backbone was built with. ``aspp`` adds three atrous branches; the paper recommends to leave
    them out (Section 6.3). ``dropout``, in [0, 1), acts before the classifier while training. ``align_corners`` says
    how logits are resized: True is TensorFlow's way, exact on pictures of 16 k + 1 pixels such as 513 with its
    weights. Wrong arguments raise UsageError.

    In training a batch may be a single picture: the pooled branch then uses its running statistics.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 21,
        *,
        output_stride: int = 16,
        aspp: bool = False,
        dropout: float = 0.1,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if output_stride not in DEEPLAB_ASPP_RATES:
            raise UsageError(f"DeepLabV3: output_stride must be 8 or 16, got {output_stride!r}")
        if backbone.output_stride != output_stride:
            raise UsageError(
                f"DeepLabV3: the backbone has output stride {backbone.output_stride}; build it with "
                f"output_stride={output_stride}"
            )
        check_whole("DeepLabV3", "num_classes", num_classes, least=1)
        check_arguments(
            "DeepLabV3",
            num_classes,
            padding="symmetric",
            in_channels=3,
            dropout=dropout,
            output_stride=output_stride,
        )
        check_maps("DeepLabV3", backbone, "stride_32")
        take_off_classifier(backbone)
        take_off_last(backbone)
        self.backbone = backbone
        self.align_corners = align_corners

        inputs, channels = backbone.feature_channels["stride_32"], DEEPLAB_CHANNELS
        rates = DEEPLAB_ASPP_RATES[output_stride] if aspp else ()
        branches = [
            _conv_norm_relu(conv1x1(inputs, channels)),
            *(
                # At stride 1 both padding rules are one.
                _conv_norm_relu(conv3x3(inputs, channels, 1, padding="symmetric", dilation=rate))
                for rate in rates
            ),
        ]
        self.pooling = nn.Sequential(conv1x1(inputs, channels), LoneBatchNorm2d(channels), nn.ReLU(inplace=True))
        self.branches = nn.ModuleList(branches)
        self.projection = _conv_norm_relu(conv1x1(channels * (1 + len(branches)), channels))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) of pictures (N, in_channels, H, W), normalised as the weights' spec says."""
        coarse = self.forward_coarse(x)
        return F.interpolate(coarse, size=(x.shape[2], x.shape[3]), mode="bilinear", align_corners=self.align_corners)

    @torch.jit.export
    def forward_coarse(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes, ceil(H / output_stride), ceil(W / output_stride)), before they are resized.

        For whoever resizes them once, straight to the size of the photograph.
        """
        features = self.backbone.forward_stages(x)["stride_32"]
        pooled = self.pooling(features.mean([2, 3], keepdim=True))
        outputs = [pooled.expand(-1, -1, features.shape[2], features.shape[3])]
        for branch in self.branches:
            outputs.append(branch(features))  # noqa: PERF401  # TorchScript unrolls no comprehension
        logits: Tensor = self.classifier(self.dropout(self.projection(torch.cat(outputs, dim=1))))
        return logits

    def _initialise(self) -> None:
        """TensorFlow's values for the head: Xavier's uniform ones, and 0.01 before the classes."""
        for layers in (self.pooling, self.branches, self.projection):
            for module in layers.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01, a=-0.02, b=0.02)
        assert self.classifier.bias is not None
        nn.init.zeros_(self.classifier.bias)


@torch.no_grad()
def multi_scale_probabilities(
    network: DeepLabV3, pictures: Tensor, scales: Sequence[float] = SCALES, *, flip: bool = True
) -> Tensor:
    """Class probabilities (N, num_classes, H, W), the mean over the pictures at several scales, and mirrored ones.

    ``pictures`` are (N, in_channels, H, W), normalised; the network is in eval mode, and at its best at output stride
    8 (Section 6.3). At scale s a side of n pixels has int((n - 1) s) + 1, which keeps pictures of 16 k + 1 pixels so.
    Raises UsageError for a network in training mode and for scales that are none or not positive.
    """
    if network.training:
        raise UsageError("multi-scale inference: the network is in training mode: call eval() first")
    if not scales or min(scales) <= 0:
        raise UsageError(f"multi-scale inference: scales must be positive numbers, got {list(scales)}")
    height, width = pictures.shape[2:]
    total: Tensor | None = None
    for scale in scales:
        size = (int((height - 1) * scale) + 1, int((width - 1) * scale) + 1)
        scaled = F.interpolate(pictures, size=size, mode="bilinear", align_corners=True)
        for mirrored in (False, True) if flip else (False,):
            logits = network.forward_coarse(scaled.flip(3) if mirrored else scaled)
            logits = F.interpolate(
                logits.flip(3) if mirrored else logits,
                size=(height, width),
                mode="bilinear",
                align_corners=network.align_corners,
            )
            probabilities = logits.softmax(1)
            total = probabilities if total is None else total + probabilities
    assert total is not None
    return total / (len(scales) * (2 if flip else 1))


def _conv_norm_relu(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))
