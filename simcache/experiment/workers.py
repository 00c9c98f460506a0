"""Tasks on the cores of this machine or the workers of a Dask scheduler, through joblib; what a dead worker had is run again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from ..errors import InputError, SimcacheError, require, require_count

BACKENDS: Final = ("loky", "dask")
ANSWER_WITHIN_S: Final = 4.0
"""How long a scheduler may take to answer before it counts as not there."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who runs: ``processes`` of this machine (None: one per core; 1: this process itself), or a Dask scheduler's.

    >>> Workers(processes=2).backend
    'loky'
    """

    processes: int | None = None
    backend: Literal["loky", "dask"] = "loky"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.processes is not None:
            require_count("workers", self.processes)
        require(self.backend in BACKENDS, "backend", self.backend, f"must be one of {', '.join(BACKENDS)}")
        if self.backend == "dask":
            require(self.scheduler is not None, "scheduler", None, "must be given with backend dask", "As in tcp://10.0.0.1:8786.")
        else:
            require(self.scheduler is None, "scheduler", self.scheduler, "goes with backend dask")


class SchedulerLostError(SimcacheError):
    """The cluster went away in the middle of a study."""


@dataclass(frozen=True)
class Died:
    """What comes back for a task under which workers die whenever it runs: how many did."""

    deaths: int


def each_done(work: Callable[[T], R], tasks: Sequence[T], workers: Workers) -> Iterator[tuple[int, R | Died]]:
    """(index, result) of every task, as they finish. An exception that ``work`` raises ends it.

    A worker that dies takes its tasks with it: they are run once more beside the others, and when that fails too, one by one,
    so that the one at fault is known; it comes back as Died. Raises InputError when the scheduler does not answer.

    >>> sorted(each_done(abs, [-1, 2], Workers(processes=1)))
    [(0, 1), (1, 2)]
    """
    if workers.backend == "dask":
        with _dask(workers) as lost:
            try:
                yield from _rounds(work, tasks, 0)
            except lost as error:
                why = " ".join(str(error).split()) or type(error).__name__
                raise SchedulerLostError(f"the scheduler at {workers.scheduler} went away: {why[:200]}") from None
        return
    if not tasks:
        return
    from joblib import cpu_count, parallel_config

    processes = min(workers.processes or cpu_count(), len(tasks))
    if processes == 1 and (workers.processes == 1 or len(tasks) == 1):
        yield from ((i, work(task)) for i, task in enumerate(tasks))
        return
    with parallel_config(backend="loky", inner_max_num_threads=1):
        yield from _rounds(work, tasks, processes)


def _rounds(work: Callable[[T], R], tasks: Sequence[T], processes: int) -> Iterator[tuple[int, R | Died]]:
    left = dict(enumerate(tasks))
    deaths = 0
    while left:
        try:
            for i, result in _parallel(work, left, processes):
                del left[i]
                yield i, result
        except _deaths():
            deaths += 1
        if not left or deaths < 2:
            continue
        # Twice in a row: the task at fault is among those that were sent out first and have not come back.
        for i in list(left)[: max(8, 4 * processes)]:
            try:
                for _, result in _parallel(work, {i: left[i]}, processes):
                    yield i, result
            except _deaths():
                yield i, Died(deaths + 1)
            del left[i]
        deaths = 0


def _parallel(work: Callable[[T], R], tasks: dict[int, T], processes: int) -> Iterator[tuple[int, R]]:
    from joblib import Parallel, delayed

    # At least two: with one, joblib would run it in this process, where a task that kills its worker kills the study.
    jobs = -1 if processes == 0 else max(2, processes)
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
    calls = (delayed(_numbered)(work, i, task) for i, task in list(tasks.items()))
    results: Iterator[tuple[int, R]] = parallel(calls)
    yield from results


def _numbered(work: Callable[[T], R], i: int, task: T) -> tuple[int, R]:
    # Ctrl-C reaches every process of a terminal: the one that asked ends the study, and says so once.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return i, work(task)


def _deaths() -> tuple[type[BaseException], ...]:
    from joblib.externals.loky.process_executor import BrokenProcessPool

    found: list[type[BaseException]] = [BrokenProcessPool]
    with contextlib.suppress(ImportError):
        from distributed.scheduler import KilledWorker

        found.append(KilledWorker)
    return tuple(found)


@contextlib.contextmanager
def _dask(workers: Workers) -> Iterator[tuple[type[BaseException], ...]]:
    """Joblib turned to the scheduler; yields the exceptions by which one knows that it is gone."""
    try:
        from dask.distributed import Client
        from distributed.comm import CommClosedError, connect
        from joblib._dask import DaskDistributedBackend
    except ImportError:
        raise InputError("backend", "dask", "is not installed", "Install simcache[cluster].") from None
    from concurrent.futures import CancelledError

    from joblib import parallel_config

    class Cluster(DaskDistributedBackend):  # type: ignore[misc]  # joblib has no types
        def effective_n_jobs(self, n_jobs: int) -> int:
            # Joblib runs a single job in the process that asks, where nothing is parallel and a death is the study's.
            return max(2, int(super().effective_n_jobs(n_jobs)))

    async def knock() -> int:
        comm = await connect(workers.scheduler, timeout=ANSWER_WITHIN_S)
        await comm.write({"op": "ncores", "reply": True, "workers": None})
        cores = await comm.read()
        await comm.close()
        return sum(cores.values())

    try:  # first a knock of our own: a client that finds nobody goes on trying, and complains when it is thrown away
        cores = asyncio.run(asyncio.wait_for(knock(), ANSWER_WITHIN_S + 1))
    except Exception as error:  # whatever listens there may speak any protocol, and what it says may break anything
        why = (" ".join(str(error).split()) or type(error).__name__)[:160]
        raise InputError("scheduler", workers.scheduler, f"does not answer: {why}", "Start one, or leave --backend out.") from None
    require(cores > 0, "scheduler", workers.scheduler, "has no workers", "Start some, as in `dask worker ADDRESS`.")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is said once, by us
    client: Any = Client(workers.scheduler, timeout=ANSWER_WITHIN_S, set_as_default=False)
    try:
        with parallel_config(backend=Cluster(client=client)):
            yield (CommClosedError, CancelledError, OSError)
    finally:
        client.close(timeout=ANSWER_WITHIN_S)
