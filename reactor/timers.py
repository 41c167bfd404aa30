"""Timers in (deadline, sequence) order, and deadlines that share them. No I/O here, and the clock is given."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Protocol

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
            self._queue.forget(self)

    def __repr__(self) -> str:
        return f"<Timer due at {self.deadline:.6f} calls {self.callback!r}>"


class TimerQueue:
    """The timers of one reactor.

    A cancelled timer stays in the heap as an empty shell until its turn comes, or until the shells are
    the larger half: so to cancel costs nothing, and a million timers set and cancelled leave nothing.

    Attributes:
        next_due: when the next timer is due; infinity where none waits.
        latest: the sequence number of the timer that was set last.
    """

    __slots__ = ("_cancelled", "_heap", "_now", "latest", "next_due")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._cancelled = 0
        self.latest = 0
        self._now = -math.inf
        self.next_due = math.inf

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
        self._push(timer)
        return timer

    def pop_due(self, now: float, latest: int) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        """Take the first timer that is due at `now` and return what to call, or None.

        A repeating timer is put back for its next run; runs that were missed are left out, and the
        rhythm is kept.

        Arguments:
            now: seconds on the reactor's clock.
            latest: what the attribute `latest` was; a timer that was set after that is not taken.
        """
        if self.next_due > now or self._heap[0][1] > latest:
            self._now = -math.inf
            return None
        self._now = now
        _, _, timer = heapq.heappop(self._heap)
        deadline = timer.deadline
        callback, args = timer.callback, timer.args
        assert callback is not None
        if timer.interval is None:
            timer.callback = None
            timer.args = ()
        else:
            timer.deadline = next_run(deadline, timer.interval, now)
            self._push(timer)
        self._settle()
        return callback, args

    def clear(self) -> None:
        """Cancel every timer."""
        for _, _, timer in self._heap:
            timer.callback = None
            timer.args = ()
        self._heap.clear()
        self._cancelled = 0
        self._settle()

    def forget(self, timer: Timer) -> None:
        """`timer` was cancelled: count one more shell, and sweep them out once they are the larger half."""
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
        if timer.deadline <= self.next_due:
            self._settle()

    def _push(self, timer: Timer) -> None:
        self.latest += 1
        # One that a due timer sets for the past stands behind all that are due in this pass.
        due = max(timer.deadline, self._now)
        heapq.heappush(self._heap, (due, self.latest, timer))
        self.next_due = min(self.next_due, due)

    def _settle(self) -> None:
        """Have a timer at the top of the heap, not a shell."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        self.next_due = heap[0][0] if heap else math.inf


def next_run(deadline: float, interval: float, now: float) -> float:
    """Return the first of ``deadline + n * interval`` that lies after `now`, as well as a float can say it."""
    missed = (now - deadline) // interval
    for runs in (missed + 1, missed + 2):  # rounding can put the first of them at `now` itself
        following = deadline + runs * interval
        if now < following < math.inf:
            return following
    return math.nextafter(now, math.inf)  # the interval is shorter than the clock can tell


class Expiring(Protocol):
    """What can have a deadline: a channel."""

    _deadline_group: DeadlineGroup | None

    def _expire(self) -> None:
        """The deadline has passed."""


class DeadlineGroup:
    """Owners whose deadlines fall together, with the one timer that they share."""

    __slots__ = ("_deadlines", "due", "members", "timer")

    def __init__(self, deadlines: Deadlines, due: float) -> None:
        self._deadlines = deadlines
        self.due = due
        self.members: dict[Expiring, None] = {}
        self.timer = deadlines.timers.add(due, deadlines.expire, (self,))

    def leave(self, owner: Expiring) -> None:
        """The deadline of `owner` does not count any more."""
        owner._deadline_group = None
        del self.members[owner]
        if not self.members and self._deadlines.groups.get(self.due) is self:
            self.timer.cancel()
            del self._deadlines.groups[self.due]


class Deadlines:
    """A deadline for each of many owners, for the price of a place in a dictionary.

    A deadline is rounded up by at most a thousandth of its timeout, and those that coincide share a timer:
    ten thousand idle connections have a handful of timers, not ten thousand, and to set a deadline and
    to take it back touches no heap.
    """

    GRAINS = 1024
    """So many possible deadlines in the length of one timeout."""

    def __init__(self, timers: TimerQueue, clock: Callable[[], float]) -> None:
        self.timers = timers
        self.groups: dict[float, DeadlineGroup] = {}
        self._clock = clock

    def set(self, owner: Expiring, timeout: float | None) -> None:
        """Have `owner._expire` called after `timeout` seconds; None takes back what was set before."""
        if owner._deadline_group is not None:
            owner._deadline_group.leave(owner)
        if timeout is None:
            return
        grain = timeout / self.GRAINS
        due = math.ceil((self._clock() + timeout) / grain) * grain
        group = self.groups.get(due)
        if group is None:
            group = self.groups[due] = DeadlineGroup(self, due)
        group.members[owner] = None
        owner._deadline_group = group

    def expire(self, group: DeadlineGroup) -> None:
        """Tell all members of `group`; one of them may well take others out of it."""
        members = group.members
        try:
            for owner in list(members):
                if owner._deadline_group is group:
                    del members[owner]
                    owner._deadline_group = None
                    owner._expire()
        finally:
            if members:  # Ctrl-C came in between: the others are still due
                group.timer = self.timers.add(group.due, self.expire, (group,))
            else:
                self.groups.pop(group.due, None)
