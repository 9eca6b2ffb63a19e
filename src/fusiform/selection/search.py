"""Successive halving: which networks are trained, for how long, and which file is the best at last.

It decides from measurements alone; the ``Steps`` that take time are handed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from fusiform.errors import FusiformError, MissingExtraError
from fusiform.exporting.targets.base import Precision
from fusiform.selection.advice import impossible, nothing_held
from fusiform.selection.budget import Budget, Candidate, Plan, Shipped, Training, epochs_in_words, fitting
from fusiform.selection.journal import Journal

TRIALS = 4
"""Networks that are trained at all."""
SIZES_A_NETWORK = 2
"""Input sizes of one network among them, the largest that fit: a smaller one is hardly ever more accurate."""
QUARTER = 4
"""A rung of the halving trains for this many times the epochs of the one before."""
FINALISTS = 2
EQUAL = 0.005
"""Files whose shares of right answers differ by less count as equally good: the faster one is chosen."""

Say = Callable[[str], None]


class Steps(Protocol):
    """What takes time in a search; see ``work.Work`` for the real ones."""

    def train(self, plan: Plan, epochs: int, teacher: Training | None) -> Training:
        """Train a plan for so many epochs, with a teacher by distillation."""
        ...

    def ship(self, training: Training, precision: Precision) -> Shipped:
        """Export, verify and measure; FusiformError where the file does not pass."""
        ...


def promising(candidates: Iterable[Candidate], trials: int) -> list[Plan]:
    """The plans to train, best first: with pretrained weights before without, large inputs first, then multiply-adds.

    At most ``SIZES_A_NETWORK`` sizes of a network.
    """
    multiply_adds = {candidate.plan: candidate.multiply_adds for candidate in candidates}
    place: dict[Plan, int] = {}
    for plan in sorted(multiply_adds, key=lambda plan: -plan.size):
        place[plan] = sum(other.network == plan.network for other in place)
    kept = [plan for plan in place if place[plan] < SIZES_A_NETWORK]
    order = ("bundled", "cut", "random")
    return sorted(kept, key=lambda plan: (order.index(plan.start), place[plan], -multiply_adds[plan]))[:trials]


def rungs(count: int, epochs: int) -> list[int]:
    """The epochs of each rung before the last, for ``count`` plans and at last ``epochs``: none for a few plans."""
    before = 0
    while count > FINALISTS:
        count, before = -(-count // 2), before + 1
    return [max(min(1, epochs), round(epochs / QUARTER**k)) for k in range(before, 0, -1)]


def search(
    candidates: Sequence[Candidate],
    budget: Budget,
    steps: Steps,
    *,
    margin: float,
    epochs: tuple[int, int],
    trials: int = TRIALS,
    until: float = math.inf,
    journal: Journal | None = None,
    say: Say = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Shipped:
    """Train, export and compare what fits the budget, and give the best file that holds it.

    ``epochs`` are those of a whole training, and of one by distillation; ``until`` is the ``clock``'s time by which
    trainings have to end. The journal's trainings are not done again. Raises FusiformError for a budget that nothing
    fits and where no file holds it at last.
    """
    journal = journal or Journal()
    fits = fitting(candidates, budget, margin)
    if not fits:
        raise FusiformError(impossible(candidates, budget, margin))
    whole, by_distillation = epochs
    cost = {candidate.plan: candidate.multiply_adds for candidate in candidates}
    racing = {candidate.plan for candidate in fits}

    def known() -> list[Training]:
        return [done for done in journal.trainings if done.plan in cost]

    def learn(plan: Plan, count: int, teacher: Training | None = None) -> Training | None:
        """The training, or None where it would end too late; a first one within the budget is always done."""
        for done in known():
            if (done.plan, done.epochs, done.distilled) == (plan, count, teacher is not None):
                return done
        # Besides its own three passes (one forward, two backward) a step of distillation has one of the teacher.
        work = count * (cost[plan] + (cost[teacher.plan] / 3 if teacher else 0))
        plain = [done for done in known() if not done.distilled]
        needed = teacher is None and not any(done.plan in racing for done in known())
        if not needed and (seen := sum(done.epochs * cost[done.plan] for done in plain)):
            seconds = work * sum(done.seconds for done in plain) / seen
            if clock() + seconds > until:
                say(f"{plan.name}: {epochs_in_words(count)} would take about {seconds / 60:.1f} minutes, too long")
                return None
        say(f"{plan.name}: {epochs_in_words(count)}" + (f" with {teacher.plan.name} as teacher" if teacher else ""))
        training = steps.train(plan, count, teacher)
        journal.trainings.append(training)
        journal.keep()
        say(f"{plan.name}: {100 * training.val_top1:.1f} % of the validation pictures")
        return training

    def teaches(plan: Plan) -> tuple[bool, int]:
        return plan.start == "bundled", cost[plan]

    def in_full(plan: Plan) -> Training | None:
        if plan.start == "bundled":
            return learn(plan, whole)
        # A network cut from a wider one hardly sees more than a random one: it learns for long, from a wide one.
        wide = [done for done in known() if done.plan.start == "bundled"]
        teacher = min(wide, key=_rank) if wide else learn(max(cost, key=teaches), whole)
        return (learn(plan, by_distillation, teacher) if teacher else None) or learn(plan, whole)

    racers = promising(fits, trials)
    say(f"{len(racing)} of {len(cost)} networks and sizes fit; trying {_listed(racers)}")
    for count in rungs(len(racers), whole):
        results = sorted((done for plan in racers if (done := learn(plan, count))), key=_rank)
        if not results:
            break
        racers = [done.plan for done in results[: -(-len(racers) // 2)]]
    # One that is not pretrained needs a long training: it is given only to the best, and where no pretrained one won.
    pretrained = [plan for plan in racers if plan.start == "bundled"]
    racers = pretrained if pretrained and racers[0].start == "bundled" else racers[:1]
    finalists = [done for plan in racers[:FINALISTS] if (done := in_full(plan))]

    tried: set[Plan] = set()
    while True:
        if not finalists:  # no time for a whole training, or nothing has held: the next best, as far as it was trained
            waiting = sorted((done for done in known() if done.plan in racing - tried), key=_rank)
            if not waiting:
                raise FusiformError(nothing_held(journal, budget))
            finalists = [in_full(waiting[0].plan) or waiting[0]]
        for training in finalists:
            tried.add(training.plan)
            for candidate in fits:
                if candidate.plan == training.plan:
                    _ship(training, candidate.precision, steps, journal, budget, say)
        finalists = []
        holding = [file for file in journal.shipped if file.holds(budget)]
        if holding:
            top = max(file.val_top1 for file in holding)
            return min((file for file in holding if file.val_top1 > top - EQUAL), key=lambda file: file.ms)


def _ship(training: Training, precision: Precision, steps: Steps, journal: Journal, budget: Budget, say: Say) -> None:
    try:
        file = steps.ship(training, precision)
    except MissingExtraError:
        raise
    except FusiformError as error:
        say(f"{training.plan.name} in {precision}: {error}")
        return
    journal.shipped.append(file)
    journal.keep()
    verdict = "" if file.holds(budget) else f", not within {budget.limits()}"
    say(
        f"{training.plan.name} in {precision}: {100 * file.val_top1:.1f} % of the validation pictures, "
        f"{file.ms:.3g} ms, {file.megabytes:.3g} MB{verdict}"
    )


def _rank(training: Training) -> tuple[float, float, float]:
    """Smaller is better: trained for longer, then more right answers, then more confident in them."""
    return -training.epochs, -training.val_top1, training.val_loss


def _listed(of: Iterable[Plan]) -> str:
    return ", ".join(plan.name for plan in of)
