"""The types of the standard library whose methods are known: which never wait, and which can be tried first."""

from __future__ import annotations

import array
import collections
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import managers
from typing import Any, NamedTuple

from .lines import Blocked, check_timeout
from .waiting import patience, queue_patience, semaphore_patience

LOCK = type(threading.Lock())

OF_THREADS = (type(threading.RLock()), threading.Condition, threading.Barrier)
"""They need a thread for each caller, and here callers have none."""

SYNCHRONISED = {
    LOCK, threading.Semaphore, threading.BoundedSemaphore, threading.Event,
    queue.Queue, queue.LifoQueue, queue.PriorityQueue, queue.SimpleQueue,
}  # fmt: skip
"""Types whose methods never wait, but for those in `MAY_WAIT`."""

CONTAINERS: tuple[Any, ...] = ([], (), {}, set(), frozenset(), "", b"", bytearray(), range(0), collections.deque())

QUICK: set[type] = {
    *map(type, CONTAINERS),
    *(type(iter(container)) for container in CONTAINERS),
    type(iter({}.values())), type(iter({}.items())), type(reversed([])),
    type(None), bool, int, float, complex, slice, array.array,
    managers.Namespace, managers.Value,  # type: ignore[attr-defined]
}  # fmt: skip
"""Types whose methods never wait, unless it is for code that they are given."""


class MayWait(NamedTuple):
    """A call that may have to wait, taken apart.

    Attributes:
        attempt: makes it without waiting, and raises `Blocked` where it would have to.
        timeout: how many seconds it waits; None for ever, 0 not at all.
        late: gives the answer when they are over, or raises it.
        wait: makes it, and waits for so many seconds, or for ever with None.
    """

    attempt: Callable[[], Any]
    timeout: float | None
    late: Callable[[], Any]
    wait: Callable[[float | None], Any]

    @property
    def is_patient(self) -> bool:
        """Whether it waits at all."""
        return self.timeout is None or self.timeout > 0


def take_apart(obj: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> MayWait | None:
    """Return the call of method `name` of `obj` in pieces.

    Returns: None for all that never wait, or wait in ways not known here.
    Raises: what the call would raise for these arguments.
    """
    if not issubclass(type(obj), tuple(SYNCHRONISED)):
        return None
    pieces = MAY_WAIT.get(getattr(type(obj), name, None))  # not the function of a subclass with the same name
    if pieces is None:
        return None
    found = pieces(obj, *args, **kwargs)
    check_timeout(found.timeout)
    return found


def is_quick(kind: type) -> bool:
    """Return whether the methods of such objects never wait, nor their end."""
    return kind in QUICK or kind in SYNCHRONISED


def _get(obj: Any, block: bool = True, timeout: float | None = None) -> MayWait:
    def attempt() -> Any:
        try:
            return obj.get(False)
        except queue.Empty:
            raise Blocked from None

    def late() -> None:
        raise queue.Empty

    return MayWait(attempt, queue_patience(block, timeout), late, lambda left: obj.get(True, left))


def _put(obj: Any, item: Any, block: bool = True, timeout: float | None = None) -> MayWait:
    def attempt() -> None:
        try:
            obj.put(item, False)
        except queue.Full:
            raise Blocked from None

    def late() -> None:
        raise queue.Full

    timeout = queue_patience(block and obj.maxsize > 0, timeout)
    return MayWait(attempt, timeout, late, lambda left: obj.put(item, True, left))


def _join(obj: Any) -> MayWait:
    def attempt() -> None:
        if obj.unfinished_tasks:
            raise Blocked

    return MayWait(attempt, None, attempt, lambda left: obj.join())


def _acquire(obj: Any, timeout: float | None, wait: Callable[[float | None], Any]) -> MayWait:
    def attempt() -> bool:
        if not obj.acquire(False):
            raise Blocked
        return True

    return MayWait(attempt, timeout, lambda: False, wait)


def _acquire_lock(obj: Any, blocking: bool = True, timeout: float = -1) -> MayWait:
    return _acquire(obj, patience(blocking, timeout), lambda left: obj.acquire(True, -1 if left is None else left))


def _acquire_semaphore(obj: Any, blocking: bool = True, timeout: float | None = None) -> MayWait:
    return _acquire(obj, semaphore_patience(blocking, timeout), lambda left: obj.acquire(True, left))


def _wait(obj: Any, timeout: float | None = None) -> MayWait:
    def attempt() -> bool:
        if not obj.is_set():
            raise Blocked
        return True

    return MayWait(attempt, timeout, lambda: False, obj.wait)


MAY_WAIT: dict[Any, Callable[..., MayWait]] = {
    queue.Queue.get: _get,
    queue.Queue.put: _put,
    queue.Queue.join: _join,
    queue.SimpleQueue.get: _get,
    LOCK.acquire: _acquire_lock,
    threading.Semaphore.acquire: _acquire_semaphore,
    threading.Event.wait: _wait,
}
"""The functions that may wait, and what takes their calls apart."""
