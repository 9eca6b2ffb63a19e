"""The recipes of a search's trainings; the trainings themselves are in test_job.py."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from fusiform.selection.budget import Plan
from fusiform.selection.work import recipe_for
from fusiform.training.recipe import override
from fusiform.training.recipes import distill_small, finetune_small


def test_a_recipe_for_another_size_and_number_of_epochs() -> None:
    changed = recipe_for(finetune_small, Plan("shufflenet_v2", 1.0, 192), 2)
    assert (changed.size, changed.eval_size, changed.epochs) == (128, 192, 2)  # 144 * 192 / 224 = 123.4
    assert changed.warmup_epochs == pytest.approx(0.15)
    assert changed.batch_norm == "frozen"
    # Sizes and epochs are the search's: nothing is left to fit.
    same = override(finetune_small, ["epochs=4", "fit_size=false"])
    assert recipe_for(finetune_small, Plan("mobilenet_v2", 1.0, 224), 4) == same
    cut = recipe_for(distill_small, Plan("mobilenet_v2", 0.35, 96), 2)
    assert cut.sizes == (48, 64)  # of 41, 54.9 and 68.6, the last two for two epochs
    assert cut.batch_norm == "train"
    assert recipe_for(finetune_small, Plan("shufflenet_v2", 1.0, 32), 1).size == 32
