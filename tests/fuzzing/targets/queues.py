"""The output queue and the timers, worked with as any bytes say."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from functools import partial

from reactor.errors import LocalError, ProducerError
from reactor.framing import encode_frame
from reactor.limits import Limits
from reactor.producers import BUFFERS_PER_CALL, BYTES_PER_CALL, PRODUCERS_WAITING, FileSlice, OutputQueue, Producer
from reactor.timers import DeadlineGroup, Deadlines, Timer, TimerQueue
from tests.fuzzing.decisions import Decisions
from tests.fuzzing.models import TimerModel

MOST_STEPS = 200
"""So many things are done with a queue, at the most."""

# The output queue

MARKS = tuple(
    Limits(low_water=low, high_water=high, maximum_output=maximum)
    for low, high, maximum in ((100, 300, 1000), (1, 1, 1), (10, 10, 300), (65536, 262144, 1 << 27))
)
LARGEST_CHUNK = len(encode_frame(bytes(255)))
LARGE = bytes(range(256)) * 400


class Pushed:
    """Something that a program pushes.

    Attributes:
        closed: how often it was closed.
    """

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class File(Pushed):
    """An open file, as far as the queue knows files."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


class Source(Pushed):
    """What bytes are drawn from.

    Arguments:
        parts: what it gives; a function is called, and may raise.
        frame: what the queue makes of each part.

    Attributes:
        given: how many bytes have gone into the queue.
    """

    def __init__(self, parts: list[bytes | Callable[[], bytes]], frame: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._parts = parts
        self._frame = frame
        self.given = 0

    def produce(self) -> bytes:
        """Return the next part, or nothing at the end."""
        if not self._parts:
            return b""
        part = self._parts.pop(0)
        data = part if isinstance(part, bytes) else part()
        self.given += len(self._frame(data))
        return data


class WithMore(Source):
    def more(self) -> bytes:
        return self.produce()


class WithRead(Source):
    def read(self, size: int) -> bytes:
        return self.produce()


class WithIterator(Source):
    def __iter__(self) -> Iterator[bytes]:
        while part := self.produce():
            yield b""  # in the middle, which is not the end
            yield part


SOURCES = (WithMore, WithRead, WithIterator)


class Pushing:
    """An output queue, and beside it what should come out: all the bytes, in one bytearray."""

    def __init__(self, limits: Limits, frame: Callable[[bytes], bytes] | None) -> None:
        self.queue = OutputQueue(limits, frame)
        self._limits = limits
        self._frame = frame or bytes
        self._mark: float = limits.high_water
        self._sealed = False
        self._nothing_waits()

    def _nothing_waits(self) -> None:
        self._to_come = bytearray()
        self._buffered = 0
        self._pushed: list[Source | File] = []
        self._has_raised = self._has_cleared = False

    def append(self, data: bytes, as_view: bool) -> None:
        """Push bytes; the queue must tell when that passes a mark, once for each."""
        said = self.queue.append(memoryview(data) if as_view else data)
        passed = False
        if data and not self._sealed:
            self._to_come += data
            self._buffered += len(data)
            passed = self.queue.size > self._mark
        if passed:
            maximum = self._limits.maximum_output
            self._mark = maximum if self.queue.size <= maximum else math.inf
        assert said == passed

    def append_source(self, kind: type[Source], parts: list[bytes], ending: int) -> None:
        """Push a source that gives `parts`, then ends, raises, or closes the channel to which it belongs."""
        endings: list[Callable[[], bytes]] = [self._raise, self._close_channel]
        source = kind([*parts, *endings[ending - 1 : ending]], self._frame)
        self._append_pushed(Producer(source), source, b"".join(map(self._frame, parts)))

    def append_file(self, data: bytes, offset: int, size: int) -> None:
        """Push a part of a file."""
        file = File(data)
        size = min(size, max(len(data) - offset, 0))
        self._append_pushed(FileSlice(file, offset, size), file, data[offset : offset + size])

    def _append_pushed(self, entry: Producer | FileSlice, pushed: Source | File, content: bytes) -> None:
        said = self.queue.append_producer(entry)
        if self._sealed:
            assert pushed.closed == 1
            assert not said
            return
        self._pushed.append(pushed)
        self._to_come += content
        assert said == (self._producers == PRODUCERS_WAITING + 1)

    @property
    def _producers(self) -> int:
        return sum(not pushed.closed for pushed in self._pushed)

    def _raise(self) -> bytes:
        self._has_raised = True
        raise OSError("the disk is gone")

    def _close_channel(self) -> bytes:
        self._has_cleared = True
        self.queue.clear()
        return b"late"

    def put_first(self, data: bytes) -> None:
        """Push bytes in front of all others."""
        self.queue.put_first(data)
        self._to_come[:0] = data
        self._buffered += len(data)

    def renew_marks(self) -> None:
        """Have the marks told again under which the queue has fallen."""
        self.queue.renew_marks()
        limits = self._limits
        self._mark = limits.high_water if self.queue.size <= limits.high_water else limits.maximum_output

    def seal(self) -> None:
        """Have nothing more taken."""
        self.queue.seal()
        self._sealed = True

    def clear(self) -> None:
        """Drop all that waits."""
        self.queue.clear()
        self._check_dropped()

    def _check_dropped(self) -> None:
        assert not self.queue
        assert all(pushed.closed == 1 for pushed in self._pushed)
        self._nothing_waits()

    def send(self, room: int) -> None:
        """Send what a socket takes that has room for so many bytes."""
        file = self.queue.next_file()
        if file is not None:
            assert file.size > 0
            data = file.file.data[file.offset :][: min(room, file.size)]
            if data:
                file.advance(len(data))
            self._check_sent(data)
            return
        size = self.queue.size
        try:
            buffers = self.queue.next_buffers()
        except ProducerError:
            assert self._has_raised
            self.clear()  # as the channel does, which it breaks
            return
        assert not self._has_raised
        if self._has_cleared:
            assert buffers == []
            self._check_dropped()
            return
        assert self.queue.size - size < self._limits.low_water + LARGEST_CHUNK
        assert all(buffers)
        assert len(buffers) <= BUFFERS_PER_CALL
        assert sum(map(len, buffers[:-1])) < BYTES_PER_CALL
        data = b""
        for buffer in buffers:
            data += buffer[: room - len(data)]
        self.queue.advance(len(data))
        self._buffered -= len(data)
        self._check_sent(data)

    def _check_sent(self, data: bytes) -> None:
        assert self._to_come.startswith(data)
        del self._to_come[: len(data)]

    def check(self) -> None:
        """Hold all that the queue says of itself to what should be in it."""
        queue, limits, producers = self.queue, self._limits, self._producers
        assert queue.size == self._buffered + sum(pushed.given for pushed in self._pushed if isinstance(pushed, Source))
        assert queue or not self._to_come
        assert queue.is_pressed == (queue.size > limits.high_water or producers > PRODUCERS_WAITING)
        assert queue.is_relieved == (queue.size <= limits.low_water and producers <= PRODUCERS_WAITING // 2)
        assert all(pushed.closed <= 1 for pushed in self._pushed)

    def drain(self, room: int) -> None:
        """Send all that waits, at least `room` bytes at a time; nothing may be left, open or unsent."""
        room = max(room, len(self._to_come) // MOST_STEPS)
        for _ in range(len(self._to_come) + 2 * len(self._pushed) + 1):
            if not self.queue:
                break
            self.send(room)
        assert not self._to_come
        self.check()
        self._check_dropped()


def output_queue(data: bytes) -> None:
    """What was pushed comes out to the byte, in order, however little the socket takes; and is closed."""
    decisions = Decisions(data)
    pushing = Pushing(MARKS[decisions.below(len(MARKS))], encode_frame if decisions.flag() else None)
    for _ in range(MOST_STEPS):
        if not decisions:
            break
        match decisions.below(14):
            case 0 | 1 as kind:
                pushing.append(decisions.string(), as_view=bool(kind))
            case 2 | 3 | 4 as kind:
                parts = [part for _ in range(decisions.below(5)) if (part := decisions.string())]
                pushing.append_source(SOURCES[kind - 2], parts, decisions.below(3))
            case 5:
                pushing.append_file(decisions.string(), decisions.number(), decisions.number())
            case 6:
                pushing.put_first(decisions.string() or b"first")
            case 7:
                pushing.send(decisions.number(2))
            case 8:
                pushing.renew_marks()
            case 9:
                pushing.clear()
            case 10 if pushing.queue.size < BYTES_PER_CALL:
                pushing.append(LARGE, as_view=False)
            case 11:
                for place in range(PRODUCERS_WAITING):
                    pushing.append_source(WithMore, [bytes([place])], 0)
            case 12 if pushing.queue.size < BUFFERS_PER_CALL:
                for place in range(BUFFERS_PER_CALL + 1):
                    pushing.append(bytes([place % 256]), as_view=False)
            case 13:
                pushing.seal()
        pushing.check()
    pushing.drain(1 + decisions.number() if decisions else 1 << 16)


# Timers


class Failed(BaseException):
    """Goes up through the loop out of a callback, as Ctrl-C does."""


class Timing:
    """A timer queue, and beside it the model to which it is held.

    Arguments:
        decisions: say what is done, in callbacks too.
    """

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._queue = TimerQueue()
        self._model = TimerModel()
        self._timers: list[Timer] = []
        self._deadlines: list[float] = []
        self._now = 0.0

    def add(self, deadline: float, interval: float | None) -> None:
        """Set a timer, or be refused where no clock can say when it is due."""
        name = len(self._timers)
        try:
            timer = self._queue.add(deadline, self._run, (name,), interval)
        except LocalError:
            assert not math.isfinite(deadline) or not (interval is None or 0 < interval < math.inf)
            return
        assert math.isfinite(deadline)
        assert interval is None or 0 < interval < math.inf
        self._timers.append(timer)
        self._deadlines.append(deadline)
        self._model.add(name, deadline)

    def add_many(self, deadline: int) -> None:
        """Set so many timers that the cancelled ones among them are swept out at some time."""
        if len(self._timers) < 300:
            for step in range(80):
                self.add(float(deadline + step % 10), None)

    def cancel_many(self, first: int, step: int) -> None:
        """Call off every one of a hundred timers, or every second, and so on."""
        for name in range(first, first + 100, step):
            self.cancel(name)

    def cancel(self, name: int) -> None:
        """Call a timer off, which may have run or been cancelled before."""
        if self._timers:
            name %= len(self._timers)
            self._timers[name].cancel()
            self._model.cancel(name)

    def clear(self) -> None:
        """Call all timers off."""
        self._queue.clear()
        self._model.clear()

    def run(self, passed: float) -> None:
        """Let time pass and run what is due, as one turn of the loop does."""
        self._now += passed
        latest = self._queue.latest
        assert latest == self._model.latest
        while (due := self._queue.pop_due(self._now, latest)) is not None:
            callback, (name,) = due
            assert name == self._model.take(self._now, latest)
            timer = self._timers[name]
            if timer.interval is not None:
                self._model.add(name, timer.deadline)
                self._check_next_run(name, timer)
            self.check()
            try:
                callback(name)
            except Failed:
                return
            self.check()
        assert self._model.take(self._now, latest) is None

    def _run(self, name: int) -> None:
        """What every timer does."""
        match self._decisions.below(8):
            case 1:
                self.any_add()
            case 2:
                self.cancel(self._decisions.number())
            case 3:
                self.cancel(name)
            case 4:
                self.clear()
            case 5:
                raise Failed

    def _check_next_run(self, name: int, timer: Timer) -> None:
        assert timer.interval is not None
        assert self._now < timer.deadline < math.inf
        last, self._deadlines[name] = self._deadlines[name], timer.deadline
        if abs(last) <= 1e9 and 1e-3 <= timer.interval <= 1e9:
            assert timer.deadline <= self._now + timer.interval + 1e-6
            assert abs(math.remainder(timer.deadline - last, timer.interval)) < 1e-6

    def any_add(self) -> None:
        """Set a timer for any time."""
        self.add(any_time(self._decisions), any_time(self._decisions) if self._decisions.flag() else None)

    def check(self) -> None:
        """Hold what the queue says of itself to the model."""
        assert len(self._queue) == len(self._model)
        assert self._queue.next_due == self._model.next_due


def any_time(decisions: Decisions) -> float:
    """Return seconds: few, many, below 0, or what else eight bytes can mean."""
    kind = decisions.below(4)
    if kind == 0:
        return decisions.number() / 8
    if kind == 1:
        return float(decisions.number(2) - 1000)
    if kind == 2:
        return decisions.number() * 0.1
    (time,) = struct.unpack("!d", decisions.take(8).ljust(8, b"\0"))
    return float(time)


def timers(data: bytes) -> None:
    """Timers run in the order of a sorted list, whatever is set and called off, in their callbacks too."""
    decisions = Decisions(data)
    timing = Timing(decisions)
    for _ in range(MOST_STEPS):
        if not decisions:
            break
        match decisions.below(7):
            case 0 | 1:
                timing.any_add()
            case 2:
                timing.cancel(decisions.number())
            case 3 | 4:
                timing.run(decisions.number() / 8)
            case 5:
                timing.add_many(decisions.number())
            case 6:
                timing.cancel_many(decisions.number(), 1 + decisions.below(4))
        timing.check()
    timing.run(1000.0)


# Deadlines

OWNERS = 6
ROUNDING = 1 / 1000
"""A deadline may be later than it was set by this part of its timeout."""


class Owner:
    """What has a deadline; `_expire` and `_deadline_group` are the engine's names for it.

    Attributes:
        earliest, latest: between these two times it may be told that its deadline has passed; None without one.
    """

    def __init__(self, expire: Callable[[Owner], None]) -> None:
        self._deadline_group: DeadlineGroup | None = None
        self._expire: Callable[[], None] = partial(expire, self)
        self.earliest: float | None = None
        self.latest: float | None = None


class Waiting:
    """Owners with deadlines, and the clock that moves when the bytes say so."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._now = 1000.0
        self._timers = TimerQueue()
        self._deadlines = Deadlines(self._timers, lambda: self._now)
        self._owners = [Owner(self._expired) for _ in range(OWNERS)]

    def any_set(self) -> None:
        """Set a deadline for one of the owners, or take it back."""
        owner = self._owners[self._decisions.below(OWNERS)]
        timeout = any_timeout(self._decisions)
        self._deadlines.set(owner, timeout)
        if timeout is None:
            owner.earliest = owner.latest = None
        else:
            rounding = math.ulp(self._now + timeout) * 4
            owner.earliest = self._now + timeout - rounding
            owner.latest = self._now + timeout * (1 + ROUNDING) + rounding

    def _expired(self, owner: Owner) -> None:
        assert owner.earliest is not None, "told of a deadline that it does not have"
        assert owner.earliest <= self._now
        owner.earliest = owner.latest = None
        match self._decisions.below(6):
            case 1 | 2:
                self.any_set()
            case 3:
                raise Failed

    def run(self, passed: float) -> None:
        """Let time pass and tell the owners whose deadlines have passed; who raises holds up no other."""
        self._now += passed
        while self._is_interrupted():
            pass
        assert all(owner.latest is None or owner.latest > self._now for owner in self._owners)

    def _is_interrupted(self) -> bool:
        """Run what is due, as one turn of the loop does; return whether somebody raised."""
        latest = self._timers.latest
        while (due := self._timers.pop_due(self._now, latest)) is not None:
            callback, arguments = due
            try:
                callback(*arguments)
            except Failed:
                return True
        return False

    def check(self) -> None:
        """An owner has a group exactly if it has a deadline, and there are no more timers than groups."""
        for owner in self._owners:
            assert (owner._deadline_group is None) == (owner.earliest is None)
        groups = {id(owner._deadline_group) for owner in self._owners if owner._deadline_group is not None}
        assert len(self._timers) == len(groups)
        assert len(self._deadlines.groups) == len(groups)

    def end(self) -> None:
        """Take all deadlines back; nothing may be left."""
        for owner in self._owners:
            self._deadlines.set(owner, None)
        assert len(self._timers) == 0
        assert self._deadlines.groups == {}


def any_timeout(decisions: Decisions) -> float | None:
    """Return seconds that a limit may have, from a thousandth to months, or None."""
    kind = decisions.below(4)
    if kind == 0:
        return None
    if kind == 1:
        return (1 + decisions.number()) / 64
    if kind == 2:
        return (1 + decisions.number(2)) * 0.01
    time = abs(any_time(decisions))
    return time if 1e-3 <= time <= 1e7 else 60.0


def deadlines(data: bytes) -> None:
    """A deadline is told once, not too early, late by no more than the rounding, and never once taken back."""
    decisions = Decisions(data)
    waiting = Waiting(decisions)
    for _ in range(MOST_STEPS):
        if not decisions:
            break
        if decisions.below(3):
            waiting.any_set()
        else:
            waiting.run(decisions.number(2) / 64)
        waiting.check()
    waiting.run(1e9)
    waiting.check()
    waiting.end()
