from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fusiform.training.losses import balanced_class_weights, classification_loss, distillation_loss

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 3, 2, 2, 1, 0])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_one_hot_target_has_the_loss_of_its_index(smoothing: float, weights: torch.Tensor | None) -> None:
    one_hot = F.one_hot(LABELS, 4).double()
    expected = F.cross_entropy(LOGITS, LABELS, weights, label_smoothing=smoothing)
    by_index = classification_loss(LOGITS, LABELS, smoothing=smoothing, weights=weights)
    by_share = classification_loss(LOGITS, one_hot, smoothing=smoothing, weights=weights)
    torch.testing.assert_close(by_index, expected)
    torch.testing.assert_close(by_share, expected)


def test_classification_by_hand() -> None:
    # Probabilities 3/4 and 1/4, and 1/2 and 1/2.
    logits = torch.tensor([[math.log(3), 0.0], [1.0, 1.0]])
    assert classification_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(
        (-math.log(3 / 4) - math.log(1 / 2)) / 2
    )
    # A tenth spread over two classes: 0.95 and 0.05.
    smooth = -(0.95 * math.log(3 / 4) + 0.05 * math.log(1 / 4))
    assert classification_loss(logits[:1], torch.tensor([0]), smoothing=0.1).item() == pytest.approx(smooth)
    # Weights 3 and 1: the target 3/4 and 1/4 weighs 2.5.
    soft = -(3 * 0.75 * math.log(3 / 4) + 1 * 0.25 * math.log(1 / 4)) / 2.5
    weighted = classification_loss(logits[:1], torch.tensor([[0.75, 0.25]]), weights=torch.tensor([3.0, 1.0]))
    assert weighted.item() == pytest.approx(soft)


def test_distillation_by_hand() -> None:
    # At temperature 2: the teacher 3/4 and 1/4, the student 1/2 and 1/2.
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.tensor([[5.0, 5.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(4 * divergence)
    assert distillation_loss(teacher + 7, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_distillation_is_the_papers() -> None:
    # Section 2, (2): T^2 times (softmax(z / T) - softmax(v / T)) / T, and the mean over the batch.
    student = LOGITS.clone().requires_grad_()
    teacher = LOGITS.flip(0).clone().requires_grad_()
    distillation_loss(student, teacher, 3.0).backward()
    expected = 3 * (torch.softmax(LOGITS / 3, 1) - torch.softmax(LOGITS.flip(0) / 3, 1)) / 6
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


def test_balanced_weights_by_hand() -> None:
    # 12 pictures of 3 classes; an absent class counts for nothing.
    assert balanced_class_weights([8, 0, 3, 1]).tolist() == pytest.approx([0.5, 0, 4 / 3, 4])
    assert balanced_class_weights([5, 5]).tolist() == [1, 1]


def test_with_balanced_weights_each_class_counts_alike() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    each = F.cross_entropy(logits, labels, reduction="none")
    loss = classification_loss(logits, labels, weights=balanced_class_weights([3, 1]))
    torch.testing.assert_close(loss, (each[:3].mean() + each[3]) / 2)
