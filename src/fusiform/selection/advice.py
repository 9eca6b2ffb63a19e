"""What is said where the limits are too tight: what is possible, and which limits would do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusiform.selection.budget import SIZE_MARGIN, Budget, Candidate, Plan, fitting
from fusiform.selection.journal import Journal


def impossible(candidates: Sequence[Candidate], budget: Budget, margin: float) -> str:
    """What is possible on this machine where the budget is not, and the nearest budget that is."""
    fastest = min(candidates, key=lambda candidate: candidate.ms)
    smallest = min(candidates, key=lambda candidate: candidate.megabytes)
    nearest = min(candidates, key=lambda candidate: budget.excess(candidate.ms, candidate.megabytes))
    return (
        f"nothing is below {budget.limits()} here (with a margin of {100 * margin:.0f} % for what measuring again may "
        f"give); the fastest is {fastest.text}, the smallest is {smallest.text}. The nearest is {nearest.text}: "
        f"{_allowing(nearest, budget, margin)} would do"
    )


def advice(candidates: Sequence[Candidate], budget: Budget, margin: float, chosen: Plan) -> str:
    """What would help where the best network within the budget is not accurate enough."""
    enough = next(candidate.multiply_adds for candidate in candidates if candidate.plan == chosen)
    fits = fitting(candidates, budget, margin)
    larger = [
        candidate
        for candidate in candidates
        if candidate.multiply_adds > enough and candidate.plan.start == "bundled" and candidate not in fits
    ]
    if not larger:
        return "the budget leaves out nothing larger; more pictures or a longer training (--recipe) may help"
    nearest = min(larger, key=lambda candidate: budget.excess(candidate.ms, candidate.megabytes))
    return f"the next larger network is {nearest.text}; {_allowing(nearest, budget, margin)} would let it in"


def nothing_held(journal: Journal, budget: Budget) -> str:
    """What to do where no file held the budget at last, and which one was the nearest."""
    if not journal.shipped:
        return "no file passed its verification; the lines above say why"
    nearest = min(journal.shipped, key=lambda file: budget.excess(file.ms, file.megabytes))
    return (
        f"nothing holds {budget.limits()} when measured again; the nearest is {nearest.file} ({nearest.ms:.3g} ms, "
        f"{nearest.megabytes:.3g} MB): raise the limit, or add --resume when the machine has nothing else to do"
    )


def _allowing(candidate: Candidate, budget: Budget, margin: float) -> str:
    """The options that would let a candidate in; a limit that it holds stays."""
    ms, megabytes = candidate.ms * (1 + margin), candidate.megabytes * SIZE_MARGIN
    parts = []
    if budget.max_ms is not None:
        parts.append(f"--max-ms {_plain(budget.max_ms)}" if ms <= budget.max_ms else f"--max-ms {_up(ms)}")
    if budget.max_mb is not None:
        parts.append(
            f"--max-mb {_plain(budget.max_mb)}" if megabytes <= budget.max_mb else f"--max-mb {_up(megabytes)}"
        )
    return " ".join(parts)


def _plain(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _up(value: float) -> str:
    """Two digits, rounded up."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:g}"
