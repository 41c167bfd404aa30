"""Locks, queues and their kind for a server with one thread: a call that has to wait holds nobody up.

They have the methods of `threading` and `queue` that proxies call, with the same arguments, results and errors. Where
those belong to a thread, these belong to whoever calls: the client behind one connection. Who came first is served
first. No I/O, no clock.
"""

from __future__ import annotations

import queue
import sys
from collections import deque
from collections.abc import Callable
from itertools import islice
from threading import BrokenBarrierError
from typing import Any

from .lines import Blocked, Caller, Line, Shared, Wait, settle


class Lock(Shared):
    """`threading.Lock`: whoever has acquired it, anybody may release it."""

    def __init__(self) -> None:
        self._line = Line()
        self.lines = (self._line,)
        self._owner: Any = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> Any:
        return Wait(self.caller, self._line, self._acquiring(self.caller), patience(blocking, timeout), lambda: False)

    def release(self) -> None:
        if not self.locked():
            raise RuntimeError("release unlocked lock")
        self._release_save()

    def locked(self) -> bool:
        return self._owner is not None

    # For a condition, as the locks of `threading` have them

    def _is_owned(self) -> bool:
        return self.locked()

    def _release_save(self) -> int:
        """Release it, and return how often it was acquired."""
        depth, self._depth, self._owner = self._depth, 0, None
        return depth

    def _acquiring(self, caller: Any, depth: int = 1) -> Callable[[], bool]:
        """Return the attempt of `caller` to acquire it `depth` times at once."""

        def attempt() -> bool:
            if self._owner is not None:
                raise Blocked
            self._owner, self._depth = caller, depth
            return True

        return attempt


class RLock(Lock):
    """`threading.RLock`, owned by the caller."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> Any:
        if not self._is_owned():
            return super().acquire(blocking, timeout)
        patience(blocking, timeout)
        self._depth += 1
        return True

    def release(self) -> None:
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def _is_owned(self) -> bool:
        return self._owner is not None and self._owner is self.caller


def patience(blocking: bool, timeout: float) -> float | None:
    """Return how many seconds the `acquire` of a lock waits with these arguments: None for ever, 0 not at all."""
    is_negative = timeout < 0
    if not blocking and timeout != -1:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if is_negative and timeout != -1:
        raise ValueError("timeout value must be a non-negative number")
    if timeout == -1:
        return None if blocking else 0
    return timeout


class Semaphore(Shared):
    """`threading.Semaphore`."""

    def __init__(self, value: int = 1) -> None:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        self._line = Line()
        self.lines = (self._line,)
        self._value = value

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Any:
        def attempt() -> bool:
            if not self._value:
                raise Blocked
            self._value -= 1
            return True

        return Wait(self.caller, self._line, attempt, semaphore_patience(blocking, timeout), lambda: False)

    def release(self, n: int = 1) -> None:
        if n < 1:
            raise ValueError("n must be one or more")
        self._value += n


def semaphore_patience(blocking: bool, timeout: float | None) -> float | None:
    """Return the same for the `acquire` of a semaphore, which takes other arguments than that of a lock."""
    if not blocking and timeout is not None:
        raise ValueError("can't specify timeout for non-blocking acquire")
    return timeout if blocking else 0


class BoundedSemaphore(Semaphore):
    """`threading.BoundedSemaphore`."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._initial = value

    def release(self, n: int = 1) -> None:
        if self._value + n > self._initial:
            raise ValueError("Semaphore released too many times")
        super().release(n)


class Event(Shared):
    """`threading.Event`."""

    def __init__(self) -> None:
        self._line = Line()
        self.lines = (self._line,)
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> Any:
        def attempt() -> bool:
            if not self._is_set:
                raise Blocked
            return True

        return Wait(self.caller, self._line, attempt, timeout, lambda: False)


class Condition(Shared):
    """`threading.Condition`, on a `Lock` or an `RLock` of this module."""

    def __init__(self, lock: Lock | None = None) -> None:
        if lock is None:
            lock = RLock()
        elif not isinstance(lock, Lock):
            raise TypeError(f"a condition needs a Lock or an RLock of the same manager, not {lock!r}")
        self.acquire = lock.acquire
        self.release = lock.release
        self.lines = lock.lines
        self._lock = lock
        self._asleep = Line()  # nobody is tried here: who is notified, or has waited long enough, goes to the lock
        self._waits = 0

    def wait(self, timeout: float | None = None) -> Any:
        if not self._lock._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        (to_the_lock,) = self.lines
        acquire = self._lock._acquiring(self.caller, self._lock._release_save())

        def attempt() -> bool:
            acquire()
            return sleep.awakened_at is not None

        def late() -> None:
            if sleep.line is self._asleep:
                sleep.move(to_the_lock)
            raise Blocked

        def leave() -> None:
            if sleep.awakened_at is not None:
                self._notify(1, sleep.awakened_at)

        sleep = Sleep(self._waits, self.caller, self._asleep, attempt, timeout, late, leave)
        self._waits += 1
        return sleep

    def notify(self, n: int = 1) -> None:
        if not self._lock._is_owned():
            raise RuntimeError("cannot notify on un-acquired lock")
        self._notify(n, self._waits)

    def notify_all(self) -> None:
        self.notify(len(self._asleep))

    def _notify(self, n: int, moment: int) -> None:
        """Wake the first `n` of those that slept at this `moment`, counted in calls of `wait`."""
        (to_the_lock,) = self.lines
        for sleep in list(islice(self._asleep, max(n, 0))):
            assert isinstance(sleep, Sleep)
            if sleep.began_at < moment:
                sleep.awakened_at = moment
                sleep.move(to_the_lock)


class Sleep(Wait):
    """A wait for a condition: to be notified first, and then for the lock.

    Attributes:
        began_at: how many calls of `wait` the condition had seen before this one.
        awakened_at: how many it had seen when this one was notified; None if it was not.
    """

    def __init__(self, began_at: int, *args: Any) -> None:
        super().__init__(*args)
        self.began_at = began_at
        self.awakened_at: int | None = None


class Barrier(Shared):
    """`threading.Barrier`."""

    def __init__(self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None) -> None:
        if parties < 1:
            raise ValueError("parties must be > 0")
        self.parties = parties
        self._action = action
        self._timeout = timeout
        self._gate = Line()  # while the action runs, nobody gets in
        self._inside = Line()
        self.lines = (self._gate, self._inside)
        self._round = Round()

    @property
    def n_waiting(self) -> int:
        return 0 if self.broken else len(self._round.taken)

    @property
    def broken(self) -> bool:
        return self._round.phase == "broken"

    def wait(self, timeout: float | None = None) -> Any:
        caller = self.caller
        return self._at_the_gate(lambda: self._enter(caller, self._timeout if timeout is None else timeout))

    def reset(self) -> Any:
        return self._at_the_gate(self._reset)

    def abort(self) -> Any:
        return self._at_the_gate(self._abort)

    def _at_the_gate(self, function: Callable[[], Any]) -> Wait:
        def attempt() -> Any:
            if self._round.phase == "acting":
                raise Blocked
            return function()

        return Wait(self.caller, self._gate, attempt)

    def _enter(self, caller: Caller, timeout: float | None) -> Wait:
        now = self._round
        if self.broken:
            raise BrokenBarrierError
        index = next(index for index in range(self.parties) if index not in now.taken)
        is_last = len(now.taken) == self.parties - 1

        def attempt() -> int:
            if now.phase == "broken":
                raise (is_last and now.error) or BrokenBarrierError
            if now.phase != "open":
                raise Blocked
            return index

        def late() -> None:
            if now.phase == "acting":
                raise Blocked
            now.phase = "broken"
            raise BrokenBarrierError

        wait = Wait(caller, self._inside, attempt, timeout, late, lambda: now.taken.discard(index))
        now.taken.add(index)
        if is_last:
            self._fill(caller)
        elif wait.is_impatient:
            now.phase = "broken"
        return wait

    def _fill(self, caller: Caller) -> None:
        """All are here: open, after the action if there is one."""
        if self._action is None:
            self._open()
        else:
            self._round.phase = "acting"
            caller.run_aside(self._action, self._acted)

    def _acted(self, error: BaseException | None) -> None:
        if error is None:
            self._open()
        else:
            self._round.phase = "broken"
            self._round.error = error if isinstance(error, Exception) else None
        settle(self.lines)

    def _open(self) -> None:
        self._round.phase = "open"
        self._round = Round()

    def _reset(self) -> None:
        self._round.phase = "broken"
        self._round = Round()

    def _abort(self) -> None:
        self._round.phase = "broken"


class Round:
    """Callers who wait together at a barrier.

    Attributes:
        phase: ``"filling"``, ``"acting"`` while the action runs, then ``"open"`` or ``"broken"``.
        taken: the indexes of those who are here.
        error: what the action raised.
    """

    def __init__(self) -> None:
        self.phase = "filling"
        self.taken: set[int] = set()
        self.error: Exception | None = None


class Queue(Shared):
    """`queue.Queue`."""

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self._items: deque[Any] = deque()
        self._unfinished = 0
        self._refusal: type[Exception] | None = None
        self._getters = Line()
        self._putters = Line()
        self._joiners = Line()
        self.lines = (self._getters, self._putters, self._joiners)

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self._items)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> Any:
        def attempt() -> None:
            if self._refusal is not None:
                raise self._refusal
            if self.full():
                raise Blocked
            self._items.append(item)
            self._unfinished += 1

        def late() -> None:
            raise queue.Full

        return Wait(self.caller, self._putters, attempt, queue_patience(block and self.maxsize > 0, timeout), late)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        def attempt() -> Any:
            if self._items:
                return self._items.popleft()
            raise self._refusal or Blocked

        def late() -> None:
            raise queue.Empty

        return Wait(self.caller, self._getters, attempt, queue_patience(block, timeout), late)

    def put_nowait(self, item: Any) -> Any:
        return self.put(item, block=False)

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def task_done(self) -> None:
        if self._unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1

    def join(self) -> Any:
        def attempt() -> None:
            if self._unfinished:
                raise Blocked

        return Wait(self.caller, self._joiners, attempt)

    if sys.version_info >= (3, 13):

        def shutdown(self, immediate: bool = False) -> None:
            self._refusal = queue.ShutDown
            if immediate:
                self._unfinished = max(self._unfinished - len(self._items), 0)
                self._items.clear()


def queue_patience(block: bool, timeout: float | None) -> float | None:
    """Return how many seconds a call of a queue waits with these arguments: None for ever, 0 not at all."""
    if not block:
        return 0
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout
