"""What training makes small."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy, the mean over a batch of logits (N, K), as a scalar.

    ``targets`` are int64 indices (N,) or probabilities (N, K). ``smoothing`` in [0, 1) spreads that share of each
    target over all classes (arXiv 1512.00567, Section 7). ``weights`` (K,) makes it a weighted mean, with the weights
    of the targets: a one-hot target gives the loss of its index.
    """
    if targets.ndim == 1 or weights is None:
        return F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
    # PyTorch divides by the number of pictures here, and by their weights only where targets are indices.
    total = F.cross_entropy(logits, targets, weights, label_smoothing=smoothing, reduction="sum")
    return total / (targets @ weights).sum()


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far a student's logits (N, K) are from a teacher's, as a scalar: 0 where the probabilities are the same.

    The Kullback-Leibler divergence of the probabilities at ``temperature``, a mean over the batch, times the square of
    the temperature, so that its gradient does not shrink with it (Hinton et al., arXiv 1503.02531, Section 2). No
    gradient reaches the teacher.
    """
    target = F.log_softmax(teacher.detach() / temperature, dim=1)
    answer = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(answer, target, reduction="batchmean", log_target=True) * temperature**2


def balanced_class_weights(counts: Sequence[int]) -> Tensor:
    """Weights (K,) in inverse proportion to the pictures of each class, for ``classification_loss``.

    All pictures / (classes with pictures x pictures of the class), so that the mean over the pictures is 1. A class
    without pictures has weight 0.
    """
    pictures = torch.tensor(counts, dtype=torch.float64)
    present = pictures > 0
    weights = pictures.sum() / (present.sum() * pictures.clamp(min=1))
    return torch.where(present, weights, 0.0).float()
