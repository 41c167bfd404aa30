"""A bounded pool of threads for work that blocks: name resolution, disks, other people's libraries.

``concurrent.futures`` is not used because its threads are waited for when the interpreter ends, so
that Ctrl-C would hang as long as a name server does; these are daemons.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from .errors import LocalError

MAXIMUM_WAITING = 10_000


class Threads(Protocol):
    """Where functions run that may block."""

    def submit(self, job: Callable[[], None]) -> None: ...

    def close(self) -> None: ...


class ThreadPool:
    """Threads that start when work comes and stay until `close`.

    Arguments:
        size: the largest number of threads.
        name: what the threads are called.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._idle = threading.Semaphore(0)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job`, which must not raise, on one of the threads.

        Raises:
            LocalError: ten thousand jobs wait already.
        """
        if self._jobs.qsize() >= MAXIMUM_WAITING:
            raise LocalError(
                f"{MAXIMUM_WAITING} calls wait for {self._size} threads; start fewer, or give the reactor more threads"
            )
        self._jobs.put(job)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
            number = len(self._threads) + 1
            thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, timeout: float = 1.0) -> None:
        """End the threads; wait for those that are at work, `timeout` seconds at most for all together."""
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        self._threads.clear()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            del job
            self._idle.release()
