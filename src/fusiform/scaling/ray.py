"""The parts on the workers of a Ray cluster.

Ray only hands them out: each worker has one model, answers a part whole and sends its file back, and this process
alone writes. A worker that dies loses the part that it was at, which another answers again; that each picture is
answered once comes from the parts' names and not from Ray.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fusiform.errors import FusiformError, MissingExtraError
from fusiform.scaling.folder import Done, PartsFolder
from fusiform.scaling.plan import Planned
from fusiform.scaling.work import Job

TRIES = 5
"""Workers that may die at one part before it is taken for the part's fault."""


class PartWorker:
    """What answers parts in a worker's process, with the cores that Ray gave it."""

    def __init__(self, job: Job, cores: int) -> None:
        self.answer_part = job.open(cores)

    def answer(self, number: int, items: Sequence[Any]) -> tuple[bytes, Done]:
        """The part's file, and what it holds."""
        file = io.BytesIO()
        done = self.answer_part(number, items, file)
        return file.getvalue(), done


def on_ray(
    address: str,
    job: Job,
    plan: Planned,
    waiting: Sequence[int],
    target: PartsFolder,
    advance: Callable[[int], None],
) -> Iterator[tuple[int, Done]]:
    """Answer parts on a cluster's workers, one a worker's cores, and give each once it is in its place.

    ``ray`` is the cluster that this machine belongs to, or one of its own. Raises MissingExtraError without Ray,
    FusiformError where there is no such cluster or a part ends worker after worker.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("ray", "ray", f"--on {address}") from None
    started = not ray.is_initialized()
    try:
        if started:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it repeats what it raises
                ray.init(
                    address=None if address == "ray" else address,
                    log_to_driver=False,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FusiformError(
            f"{address}: no Ray cluster answers there ({reason}): check the address, and that RAY_AUTH_MODE and the "
            "token are the cluster's"
        ) from None
    try:
        yield from _work(ray, job, plan, waiting, target, advance)
    finally:
        if started:
            ray.shutdown()


def _work(
    ray: Any, job: Job, plan: Planned, waiting: Sequence[int], target: PartsFolder, advance: Callable[[int], None]
) -> Iterator[tuple[int, Done]]:
    cores = job.threads or 1
    resources = ray.cluster_resources()
    gpus = 1 if job.device.startswith("cuda") else 0
    places = int(resources.get("CPU", 1) // cores)
    if gpus:
        places = min(places, int(resources.get("GPU", 0)))
    # A GPU's worker needs few cores, and the threads of the others are theirs.
    actor = ray.remote(num_cpus=cores, num_gpus=gpus)(PartWorker)
    shared = ray.put(job)
    workers = [actor.remote(shared, cores) for _ in range(max(1, min(places, len(waiting))))]
    todo = list(reversed(waiting))
    died = dict.fromkeys(waiting, 0)
    at: dict[Any, tuple[int, Any]] = {}

    def give(worker: Any) -> None:
        if todo:
            number = todo.pop()
            # Items go as plain tuples, in a message of their own: a part has some 10,000.
            at[worker.answer.remote(number, plan.items(number))] = (number, worker)

    for worker in workers:
        give(worker)
    while at:
        (ready,), _ = ray.wait(list(at), num_returns=1)
        number, worker = at.pop(ready)
        try:
            data, done = ray.get(ready)
        except ray.exceptions.RayActorError as error:
            if "creation task" in str(error):
                reason = str(error).strip().splitlines()[-1].strip()
                raise FusiformError(
                    f"a worker of Ray cannot start ({reason}): it needs this version of fusiform, as this machine has"
                ) from None
            died[number] += 1
            if died[number] == TRIES:
                raise FusiformError(
                    f"part {number}: {TRIES} workers died at it, perhaps for want of memory: run it with --shard on a "
                    "machine with more"
                ) from None
            todo.append(number)
            give(actor.remote(shared, cores))
            continue
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, FusiformError):
                raise type(cause)(*cause.args) from None
            raise
        with target.writing(number) as file:
            file.write(data)
        advance(done.images)
        yield number, done
        give(worker)
