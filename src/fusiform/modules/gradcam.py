"""Where a network looks: Grad-CAM (Selvaraju et al., arXiv 1610.02391)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusiform.errors import UsageError
from fusiform.modules.backbones import Backbone, classifier_of


def grad_cam(network: Backbone, pictures: Tensor, classes: Sequence[int]) -> Tensor:
    """Heat maps (N, h, w) in [0, 1] of what in each picture speaks for a class, on the network's last feature map.

    ``pictures`` are (N, channels, H, W), normalised as for the network, which is in eval mode; ``classes`` is one
    output a picture. The hottest place of a map is 1; a map where nothing speaks for the class is all 0. Raises
    UsageError for another number of classes, a network in training mode or one that ends in no single linear layer.

    Equations 1 and 2 of the paper without its gradients: behind an average and one linear layer the gradient of a
    class's score is that layer's row of weights, the same at every place (Section 3.1).
    """
    if len(classes) != len(pictures):
        raise UsageError(f"Grad-CAM: {len(classes)} classes for {len(pictures)} pictures: give one for each")
    if network.training:
        raise UsageError("Grad-CAM: the network is in training mode: call eval() first")
    with torch.no_grad():
        maps = network.forward_features(pictures)
        weight = classifier_of(network).weight
        weights = weight[torch.as_tensor(list(classes), device=weight.device)]
        heat = torch.einsum("nk,nkhw->nhw", weights, maps).clamp(min=0)
        hottest = heat.amax(dim=(1, 2), keepdim=True)
        return heat / torch.where(hottest > 0, hottest, torch.ones_like(hottest))
