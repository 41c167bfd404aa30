"""Calls that wait, and the lines in which they stand. No I/O, no clock: whoever calls and timers are given in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

LONGEST_TIMEOUT = 9_223_372_036.0
"""Seconds: `threading.TIMEOUT_MAX` where it is largest."""


Returned = Callable[[Any], object]
Raised = Callable[[BaseException], object]


class Blocked(Exception):
    """A call would have to wait."""


class Caller(Protocol):
    """Who calls: the client behind one connection.

    Attributes:
        has_left: whether its connection has ended, perhaps only a moment ago.
    """

    @property
    def has_left(self) -> bool: ...

    def hold(self, wait: Wait) -> None:
        """A call has to wait: see that it is told when its time is over, and when the caller has gone."""

    def run_aside(self, function: Callable[[], Any], ended: Callable[[BaseException | None], object]) -> None:
        """Call a `function` that may hold whoever calls it; then `ended`, with what it raised or None."""


class Helper(Protocol):
    """A timer, or whatever else works for a call while it waits."""

    def cancel(self) -> None: ...


class Line(OrderedDict["Wait", None]):
    """Who waits for the same, in the order in which they came: what blocks the first one blocks those behind it too.

    Attributes:
        threads: how many have gone ahead, to wait on threads of their own: until they are back, nobody passes them.
    """

    threads = 0


class Wait:
    """A call that is answered as soon as that is possible.

    Arguments:
        caller: who waits.
        line: where it will stand, behind the others.
        attempt: does what was asked for, and returns the answer; raises `Blocked` as long as that is not possible.
        timeout: seconds after which `late` is called; None for never.
        late: gives the answer then, or raises it; or raises `Blocked`, and the call waits on, without a limit.
        leave: the caller has gone: what the call has left elsewhere than in its line is to be taken away.

    Raises:
        OverflowError, TypeError: see `check_timeout`.
        RuntimeError: there is no caller.
    """

    def __init__(
        self,
        caller: Caller | None,
        line: Line,
        attempt: Callable[[], Any],
        timeout: float | None = None,
        late: Callable[[], Any] = lambda: None,
        leave: Callable[[], object] = lambda: None,
    ) -> None:
        check_timeout(timeout)
        if caller is None:
            raise RuntimeError("this object serves proxies alone; use it through one, even in its own process")
        self.caller = caller
        self.line = line
        self.attempt = attempt
        self.timeout = timeout
        self.late = late
        self.leave = leave
        self.helpers: list[Helper] = []

    def begin(self, lines: Iterable[Line], returned: Returned, raised: Raised) -> None:
        """Stand in line, and say where the answer goes. It is tried when the line is settled.

        Arguments:
            lines: this one, and those that have to do with it: settled after whatever happens to this call.
            returned: called with the answer.
            raised: called with the error, if that is the answer.
        """
        self.line[self] = None
        self.lines = lines
        self._returned = returned
        self._raised = raised
        self.caller.hold(self)

    @property
    def is_waiting(self) -> bool:
        """Whether it has no answer yet."""
        return self in self.line

    @property
    def is_impatient(self) -> bool:
        """Whether it does not wait at all."""
        return self.timeout is not None and self.timeout <= 0

    def try_again(self) -> bool:
        """Return whether something has come of it."""
        if self.caller.has_left:
            self._give_up()
            return True
        return self._end_with(self.attempt)

    def expire(self) -> None:
        """Its time is over."""
        self._end_with(self.late)
        settle(self.lines)

    def abandon(self) -> None:
        """Its caller has gone. That helps nobody who waits: what has held it up holds up the others, too."""
        if self.is_waiting:
            self._give_up()

    def move(self, line: Line) -> None:
        """Go to the end of another line."""
        del self.line[self]
        self.line = line
        line[self] = None

    def withdraw(self) -> None:
        """Wait no longer."""
        del self.line[self]
        for helper in self.helpers:
            helper.cancel()

    def _end_with(self, function: Callable[[], Any]) -> bool:
        try:
            result = function()
        except Blocked:
            return False
        except BaseException as error:
            self.withdraw()
            self._raised(error)
        else:
            self.withdraw()
            self._returned(result)
        return True

    def _give_up(self) -> None:
        self.withdraw()
        self.leave()


def check_timeout(timeout: float | None) -> None:
    """See that `timeout` can be waited for.

    Raises:
        OverflowError: no clock counts so many seconds.
        TypeError: it is no number.
    """
    if timeout is not None and not 0.0 + timeout <= LONGEST_TIMEOUT:
        raise OverflowError("timeout value is too large")


def settle(lines: Iterable[Line]) -> None:
    """Something has changed: try again who stands first in each of `lines`, until nothing comes of it."""
    while any(line and not line.threads and next(iter(line)).try_again() for line in lines):
        pass


class Shared:
    """What all objects have in common whose calls may wait.

    A call that may have to wait returns a `Wait`; the server begins it, and sends its answer.

    Attributes:
        caller: who calls at this moment; the server says so.
        lines: in which calls wait for this object, or for one that has to do with it.
    """

    caller: ClassVar[Any] = None
    lines: tuple[Line, ...] = ()

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object: it serves proxies alone; send one of these")


def call(caller: Caller, obj: Shared, function: Callable[[], Any], returned: Returned, raised: Raised) -> None:
    """Call a method of `obj` on behalf of `caller`, and try again what waits for that.

    Arguments:
        function: the method, with its arguments.
        returned: called with the answer, now or later.
        raised: called with the error, if that is the answer.
    """
    Shared.caller = caller
    try:
        result = function()
    except Exception as error:
        raised(error)
        return
    finally:
        Shared.caller = None
    answer(obj.lines, result, returned, raised)
    settle(obj.lines)
    if isinstance(result, Wait) and result.is_waiting and result.is_impatient:
        result.expire()


def answer(lines: Iterable[Line], result: Any, returned: Returned, raised: Raised) -> None:
    """Give a result to `returned`; if it is a wait, as soon as that has one which is none."""
    if isinstance(result, Wait):
        result.begin(lines, lambda later: answer(lines, later, returned, raised), raised)
    else:
        returned(result)
