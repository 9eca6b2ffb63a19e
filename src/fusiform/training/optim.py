"""The optimisers, and which of a network's parameters learn at what rate and with what decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from fusiform.training.recipe import Recipe

_ADAM_BETA_2 = 0.999


def make_optimizer(network: nn.Module, recipe: Recipe, *, head: Iterable[nn.Parameter]) -> Optimizer:
    """The recipe's optimiser over all parameters of ``network``, those that are frozen for now included.

    ``head`` are the parameters of the classifier; all others are the backbone's. There are up to four groups, backbone
    and head, each with and without weight decay: what has one dimension (biases, and the weights of batch
    normalisation) does not decay unless the recipe says so, since that does not make a function simpler
    (arXiv 1812.01187, Section 3.1). Each group has ``lr_scale``: whoever sets the rate sets
    ``group["lr"] = recipe.lr * factor * group["lr_scale"]``. A parameter without a gradient is left alone, decay
    included.
    """
    in_head = {id(parameter) for parameter in head}
    groups: list[dict[str, Any]] = []
    for is_head in (False, True):
        scale = 1.0 if is_head else recipe.backbone_lr
        for decays in (True, False):
            parameters = [
                parameter
                for parameter in network.parameters()
                if (id(parameter) in in_head) == is_head
                and (parameter.ndim > 1 or recipe.decay_norms_and_biases) == decays
            ]
            if parameters:
                decay = recipe.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr_scale": scale, "lr": recipe.lr * scale, "weight_decay": decay})
    if recipe.optimizer == "sgd":
        # PyTorch refuses Nesterov's momentum without a momentum; the recipe has said so before.
        return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    if recipe.optimizer == "adamw":
        adamw = CentredAdamW if recipe.centre_steps else AdamW
        return adamw(groups, lr=recipe.lr, betas=(recipe.momentum, _ADAM_BETA_2), eps=recipe.eps)
    return RMSpropTF(groups, lr=recipe.lr, momentum=recipe.momentum, decay=recipe.rmsprop_decay, eps=recipe.eps)


class CentredAdamW(AdamW):
    """AdamW whose step of a kernel has no part that is the same for all of the channel's inputs.

    AdamW's first steps change every weight by the whole learning rate. A 1x1 convolution over hundreds of inputs that
    ReLU6 has made positive then moves its output by hundreds of rates at once, wherever the gradient has one sign,
    and batch normalisation with frozen statistics does not take it back: the next layers see what they never saw, and
    what the head has learnt is lost. The part of a step that does this is its mean over the inputs, which is taken
    off: Gradient Centralization (arXiv 2004.01461), of the step in place of the gradient, since AdamW would make equal
    steps again of a centred gradient. Depthwise kernels, matrices and vectors are not touched.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change each parameter that has a gradient; ``closure`` computes the loss again, which is the answer."""
        kernels = [
            parameter
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.ndim == 4 and parameter.shape[1] > 1 and parameter.grad is not None
        ]
        before = [kernel.clone() for kernel in kernels]
        loss: float | None = super().step(closure)
        for kernel, old in zip(kernels, before, strict=True):
            kernel.sub_((kernel - old).mean((1, 2, 3), keepdim=True))
        return loss


class RMSpropTF(Optimizer):
    """RMSProp as TensorFlow computes it (``tf.compat.v1.train.RMSPropOptimizer``), which the MobileNet papers use.

    With g the gradient, and the L2 penalty's in it:

        mean_square = decay * mean_square + (1 - decay) * g^2        starts at 1
        velocity    = momentum * velocity + lr * g / sqrt(mean_square + eps)
        weight      = weight - velocity

    PyTorch's starts the mean square at 0, adds eps outside the root and multiplies the momentum by the rate: where
    the rate falls, or eps is large, the two differ.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        decay: float = 0.9,
        eps: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "decay": decay, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change each parameter that has a gradient; ``closure`` computes the loss again, which is the answer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["mean_square"] = torch.ones_like(parameter)
                    state["velocity"] = torch.zeros_like(parameter)
                gradient = parameter.grad
                if group["weight_decay"]:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                state["mean_square"].lerp_(gradient.square(), 1 - group["decay"])
                root = (state["mean_square"] + group["eps"]).sqrt_()
                state["velocity"].mul_(group["momentum"]).addcdiv_(gradient, root, value=group["lr"])
                parameter.sub_(state["velocity"])
        return loss
