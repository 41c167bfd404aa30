"""Timers in (deadline, sequence) order. No I/O and no clock of its own: the time is given."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

from .errors import LocalError


class Timer:
    """A call that is due at a time; the handle that cancels it.

    Attributes:
        deadline: when it is due, in seconds of the reactor's clock.
        interval: seconds from one run to the next, or None for a call that happens once.
    """

    __slots__ = ("_queue", "args", "callback", "deadline", "interval")

    def __init__(
        self,
        queue: TimerQueue,
        deadline: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        interval: float | None,
    ) -> None:
        self._queue = queue
        self.deadline = deadline
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.interval = interval

    def cancel(self) -> None:
        """Call it off. Cancelling what has run, or was cancelled before, does nothing."""
        if self.callback is not None:
            self.callback = None
            self.args = ()
            self._queue.forget_one()

    def __repr__(self) -> str:
        return f"<Timer due at {self.deadline:.6f} calls {self.callback!r}>"


class TimerQueue:
    """The timers of one reactor.

    A cancelled timer stays in the heap as an empty shell until its turn comes, or until the shells
    are the larger half: so to cancel costs nothing, and a million timers set and cancelled leave nothing.
    """

    __slots__ = ("_cancelled", "_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = itertools.count()
        self._cancelled = 0

    def __len__(self) -> int:
        """Return how many timers wait; the cancelled ones do not count."""
        return len(self._heap) - self._cancelled

    def add(
        self,
        deadline: float,
        callback: Callable[..., object],
        args: tuple[Any, ...] = (),
        interval: float | None = None,
    ) -> Timer:
        """Set a timer.

        Arguments:
            deadline: seconds on the reactor's clock; one that has passed is due at once.
            callback: what is called, with `args`.
            interval: seconds from run to run, above 0, or None.

        Raises:
            LocalError: `deadline` is infinite or not a number, or `interval` is not above 0.
        """
        if not math.isfinite(deadline):
            raise LocalError(f"a timer cannot be due at {deadline!r}; give a finite number of seconds")
        if interval is not None and not (interval > 0 and math.isfinite(interval)):
            raise LocalError(f"a timer cannot repeat every {interval!r} seconds; give a number above 0")
        timer = Timer(self, deadline, callback, args, interval)
        heapq.heappush(self._heap, (deadline, next(self._sequence), timer))
        return timer

    def next_deadline(self) -> float | None:
        """Return when the next timer is due, or None where none waits."""
        heap = self._heap
        while heap:
            deadline, _, timer = heap[0]
            if timer.callback is not None:
                return deadline
            heapq.heappop(heap)
            self._cancelled -= 1
        return None

    def pop_due(self, now: float) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        """Take the first timer that is due at `now` and return what to call, or None.

        A repeating timer is put back for its next run; runs that were missed are left out, and the
        rhythm is kept.
        """
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        _, _, timer = heapq.heappop(self._heap)
        callback, args = timer.callback, timer.args
        assert callback is not None
        if timer.interval is None:
            timer.callback = None
            timer.args = ()
        else:
            missed = math.floor((now - deadline) / timer.interval)
            timer.deadline = deadline + (missed + 1) * timer.interval
            heapq.heappush(self._heap, (timer.deadline, next(self._sequence), timer))
        return callback, args

    def clear(self) -> None:
        """Cancel every timer."""
        for _, _, timer in self._heap:
            timer.callback = None
            timer.args = ()
        self._heap.clear()
        self._cancelled = 0

    def forget_one(self) -> None:
        """Count one more cancelled timer, and sweep them out once they are the larger half."""
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
