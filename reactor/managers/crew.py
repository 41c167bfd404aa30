"""A bounded number of threads, of which waiting alone can never take all."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..eventloop import Reactor
from ..threads import ThreadPool


class Hands(ThreadPool):
    """Threads that nobody waits for when the server ends: what they do may take for ever."""

    def close(self, timeout: float = 0.0) -> None:
        super().close(timeout)


class Job:
    """A function that is to run on a thread.

    Arguments:
        function: what to call there.
        returned: called on the loop with its result.
        raised: called on the loop with its error.
        waits: whether all that it does is to wait for others.
        begins: called on the loop when there is a thread for it.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        returned: Callable[[Any], object],
        raised: Callable[[BaseException], object],
        waits: bool = False,
        begins: Callable[[], object] = lambda: None,
    ) -> None:
        self.function = function
        self.returned = returned
        self.raised = raised
        self.waits = waits
        self.begins = begins
        self._queue: OrderedDict[Job, None] = OrderedDict()

    def wait_in(self, queue: OrderedDict[Job, None]) -> None:
        """Wait in `queue`, behind the others."""
        self._queue = queue
        queue[self] = None

    def cancel(self) -> None:
        """Do not begin any more."""
        self._queue.pop(self, None)


class Crew:
    """Runs jobs in their order, as many at once as there are threads. Half of these may be taken by jobs that wait.

    Arguments:
        reactor: the loop whose threads are used.
        size: the number of threads.
    """

    def __init__(self, reactor: Reactor, size: int) -> None:
        self._reactor = reactor
        self._free = size
        self._free_to_wait = max(size // 2, 1)
        self._working: OrderedDict[Job, None] = OrderedDict()
        self._waiting: OrderedDict[Job, None] = OrderedDict()

    def run(self, job: Job) -> None:
        """Run `job` as soon as there is a thread for it. Only from the loop's own thread."""
        job.wait_in(self._waiting if job.waits else self._working)
        self._start_some()

    def _start_some(self) -> None:
        while self._free and (self._working or (self._waiting and self._free_to_wait)):
            job, _ = (self._working or self._waiting).popitem(last=False)
            self._free -= 1
            self._free_to_wait -= job.waits
            job.begins()
            self._reactor.run_in_thread(
                job.function,
                on_result=functools.partial(self._ended, job, job.returned),
                on_error=functools.partial(self._ended, job, job.raised),
            )

    def _ended(self, job: Job, tell: Callable[[Any], object], outcome: Any) -> None:
        self._free += 1
        self._free_to_wait += job.waits
        tell(outcome)
        self._start_some()
