"""The witness reports what is wrong, by its own name, and nothing that is right."""

from __future__ import annotations

import abc
import dataclasses
import gc
import heapq
import io
import os
import socket
import tempfile
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest

import reactor
from reactor.channel import Channel
from reactor.connection import JOINED
from reactor.eventloop import READ, Reactor
from reactor.framing import FrameDecoder
from reactor.listener import Listener
from reactor.producers import OutputQueue
from reactor.sending import Open
from reactor.simulation import HARMLESS, Violation, World, simulate
from reactor.simulation.running import run_once
from reactor.simulation.sockets import SimulatedSocket
from reactor.simulation.witness import noted
from reactor.states import Closed, Preparing
from reactor.timers import TimerQueue
from tests.conftest import KEY

BULK = bytes(range(256)) * 2500
"""More than the network holds of one connection."""


class Echo(reactor.Stream):
    def handle_data(self, data: bytes) -> None:
        self.push(data)


class Caller(reactor.Stream):
    received = b""

    def handle_open(self) -> None:
        self.push(b"hello")

    def handle_data(self, data: bytes) -> None:
        self.received += data


class FrameEcho(reactor.Connection):
    codec = "bytes"

    def handle_frame(self, data: bytes) -> None:
        self.send_bytes(data)


class FrameCaller(reactor.Connection):
    codec = "bytes"
    received: list[bytes]

    def __init__(self) -> None:
        self.received = []

    def handle_open(self) -> None:
        for word in (b"one", b"two", b"three"):
            self.send_bytes(word)

    def handle_frame(self, data: bytes) -> None:
        self.received.append(data)


class MessageEcho(reactor.Connection):
    codec = "json"

    def handle_message(self, message: Any) -> None:
        self.send(message)


class MessageCaller(reactor.Connection):
    codec = "json"
    received: list[Any]

    def __init__(self) -> None:
        self.received = []

    def handle_open(self) -> None:
        for word in ("one", "two", "three"):
            self.send(word)

    def handle_message(self, message: Any) -> None:
        self.received.append(message)


def kind_of(scenario: Callable[[World], Any], **options: Any) -> str:
    """Return the kind of the violation with which `scenario` ends when nothing goes wrong outside of it."""
    failure = run_once(scenario, draws={}, tracing=True, **options).failure
    assert isinstance(failure, Violation), repr(failure)
    return failure.kind


def streams(world: World) -> None:
    world.listen(("server", 6000), Echo)
    caller = world.connect(("server", 6000), Caller)
    world.run(until=lambda: caller.received == b"hello")
    caller.close_when_done()
    world.run()


def much_on_streams(world: World) -> None:
    world.listen(("server", 6000), Echo)
    caller = world.connect(("server", 6000), Caller)
    caller.push(BULK)
    world.run(until=lambda: len(caller.received) == len(BULK) + 5)


def messages(world: World) -> None:
    world.listen(("server", 6000), MessageEcho)
    caller = world.connect(("server", 6000), MessageCaller)
    world.run(until=lambda: len(caller.received) == 3)


def frames(world: World) -> None:
    world.listen(("server", 6000), FrameEcho)
    caller = world.connect(("server", 6000), FrameCaller)
    world.run(until=lambda: len(caller.received) == 3)


@pytest.mark.parametrize("scenario", [streams, much_on_streams, messages, frames])
def test_nothing_is_wrong_with_what_is_right(scenario: Callable[[World], Any]) -> None:
    assert run_once(scenario, draws={}).failure is None


# What is delivered


def test_bytes_that_are_skipped_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    right = OutputQueue.advance

    def advance(self: OutputQueue, sent: int) -> None:
        right(self, sent)
        if self._entries:
            right(self, 1)

    monkeypatch.setattr(OutputQueue, "advance", advance)
    assert kind_of(much_on_streams) == "what is delivered is not what was sent"


def test_bytes_that_are_delivered_twice_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def readable(self: Open, channel: Any) -> bool:
        data = channel.socket.recv(65536)
        channel.handle_data(data)
        channel.handle_data(data)
        return True

    monkeypatch.setattr(Open, "readable", readable)
    assert kind_of(streams) == "what is delivered is not what was sent"


@pytest.mark.parametrize("scenario", [messages, frames])
@pytest.mark.parametrize(
    "disorder", [lambda found: found[::-1], lambda found: found + found[:1], lambda found: [*found[1:], b"x"]]
)
def test_frames_in_disorder_are_reported(
    scenario: Callable[[World], Any], disorder: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FrameDecoder.feed
    monkeypatch.setattr(FrameDecoder, "feed", lambda self, data: disorder(right(self, data)))
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "what is delivered is not what was sent"


class DatagramEcho(reactor.Datagram):
    def handle_datagram(self, data: bytes, address: Any) -> None:
        self.send_to(data, address)


class DatagramTaker(reactor.Datagram):
    def __init__(self) -> None:
        self.received: list[bytes] = []

    def handle_datagram(self, data: bytes, address: Any) -> None:
        self.received.append(data)


class DatagramCaller(DatagramTaker):
    """Says each word twice, once before it is open."""

    words = (b"one", b"two", b"")

    def handle_open(self) -> None:
        for word in self.words:
            self.send_to(bytearray(word))
        with pytest.raises(TypeError):
            self.send_to(5)


def datagrams(world: World) -> None:
    DatagramEcho.bind(("", 53), reactor=world.host("server").reactor)
    caller = DatagramCaller.connect(("server", 53), reactor=world.host("client").reactor)
    for word in caller.words:
        caller.send_to(word)
    world.run(until=lambda: len(caller.received) == 6)
    caller.close_when_done()
    world.run()


def datagrams_of_a_socket_without_a_channel(world: World) -> None:
    server = DatagramTaker.bind(("", 53), reactor=world.host("server").reactor)
    sock: Any = world.host("client").reactor.socket_factory(socket.AF_INET, socket.SOCK_DGRAM)
    sock.sendto(b"made by hand", (world.host("server").addresses[socket.AF_INET], 53))
    world.run(until=lambda: server.received)
    sock.close()


@pytest.mark.parametrize("scenario", [datagrams, datagrams_of_a_socket_without_a_channel])
def test_datagrams_that_are_right_raise_no_alarm(scenario: Callable[[World], Any]) -> None:
    assert run_once(scenario, draws={}).failure is None


@pytest.mark.parametrize(
    ("change", "is_wrong"),
    [
        (lambda data: data[:-1], True),
        (lambda data: data + b"x", True),
        (lambda data: b"three", True),
        (lambda data: b"one", False),
    ],
)
def test_datagram_that_nobody_has_sent_so_is_reported(
    change: Callable[[bytes], bytes], is_wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SimulatedSocket.recvfrom

    def recvfrom(self: SimulatedSocket, size: int) -> Any:
        data, address = right(self, size)
        return change(data), address

    monkeypatch.setattr(SimulatedSocket, "recvfrom", recvfrom)
    if is_wrong:
        assert kind_of(datagrams) == "what is delivered is not what was sent"
    else:  # it has come twice
        assert run_once(datagrams, draws={}).failure is None


def test_hooks_for_datagrams_stand_in_the_trace() -> None:
    trace = "\n".join(run_once(datagrams, draws={}, tracing=True).trace)
    assert "DatagramEcho on [::]:53 (Open).handle_datagram(3 bytes)" in trace


# Closing


def test_channel_that_is_never_told_that_it_is_closed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: Channel) -> None:
        del self._reason
        self.socket.close()
        self.reactor.forget(self, reactor.ClosedHere(""))

    monkeypatch.setattr(reactor.Stream, "_finish", finish)
    assert kind_of(streams) == "a channel is not closed exactly once"


def test_channel_that_is_told_twice_that_it_is_closed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Channel._finish

    def finish(self: Channel) -> None:
        self.handle_close(self._reason)
        right(self)

    monkeypatch.setattr(Channel, "_finish", finish)
    assert kind_of(streams) == "a channel is not closed exactly once"


def test_hook_that_is_called_after_the_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Channel._finish

    def finish(self: Channel) -> None:
        right(self)
        self.handle_drained()

    monkeypatch.setattr(Channel, "_finish", finish)
    assert kind_of(streams) == "a hook is called after handle_close"


# Descriptors


def test_descriptor_that_is_left_open_is_reported() -> None:
    def scenario(world: World) -> None:
        world.host("client").reactor.socket_factory()

    assert kind_of(scenario) == "a descriptor is left open"


def test_descriptor_that_is_closed_before_it_is_unregistered_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def enter(self: Closed, channel: Any) -> None:
        channel._set_deadline(None)
        channel.reactor.finish_soon(channel)

    monkeypatch.setattr(Closed, "enter", enter)
    assert kind_of(streams) == "a descriptor is closed before it is unregistered"


def test_descriptor_that_is_closed_inside_of_its_batch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reactor, "finish_soon", lambda self, channel: channel._finish())
    assert kind_of(streams) == "a descriptor is closed inside of its batch"


def test_descriptor_that_is_used_after_it_was_closed_is_reported() -> None:
    def scenario(world: World) -> None:
        sock = world.host("client").reactor.socket_factory()
        sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.recv(1)
        world.run()
        world.host("client").reactor.call_soon(int)
        world.run()

    assert kind_of(scenario) == "a closed descriptor is used"


def test_event_that_reaches_another_descriptor_than_it_was_for_is_reported() -> None:
    def scenario(world: World) -> None:
        host = world.host("client")
        sockets: list[Any] = [host.reactor.socket_factory(), host.reactor.socket_factory()]
        first, second = sockets
        host.reactor._selector.register(first, READ, "the first socket")
        batch = host.collect()
        number = first.fileno()
        host.table[number] = second.endpoint  # as if it had been closed, and its number had come back
        assert len(list(batch)) == 1
        host.table[number] = first.endpoint
        world.finish()

    assert kind_of(scenario) == "an event reaches the wrong object"


# Timers


def test_timers_that_run_out_of_order_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def push(self: TimerQueue, timer: Any) -> None:
        self.latest += 1
        heapq.heappush(self._heap, (timer.deadline, -self.latest, timer))  # the last one first, of those that coincide
        self.next_due = min(self.next_due, timer.deadline)

    def scenario(world: World) -> None:
        loop = world.host("client").reactor
        for number in range(3):
            loop.call_at(loop.clock() + 1, number.__divmod__, 7)
        world.run()

    assert run_once(scenario, draws={}).failure is None
    monkeypatch.setattr(TimerQueue, "_push", push)
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "timers run out of order"
    assert " at 0x" not in str(failure)


def test_timer_that_is_forgotten_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(world: World) -> None:
        loop = world.host("client").reactor
        loop.call_later(1, divmod, 1, 1)
        loop.call_later(2, divmod, 2, 1)
        world.run()

    right = TimerQueue.add

    def add(self: TimerQueue, deadline: float, callback: Any, args: Any = (), interval: Any = None) -> Any:
        timer = right(self, deadline, callback, args, interval)
        if args == (1, 1):
            self._heap.pop()
            self._settle()
        return timer

    monkeypatch.setattr(TimerQueue, "add", add)
    assert kind_of(scenario) == "timers run out of order"


def test_timers_that_are_cancelled_repeated_and_set_by_others_are_in_order() -> None:
    def scenario(world: World) -> None:
        loop = world.host("client").reactor
        ran: list[Any] = []
        every = loop.call_every(0.25, ran.append, "every")
        never = loop.call_later(1, ran.append, "never")
        loop.call_later(0.5, never.cancel)
        loop.call_later(1, loop.call_at, loop.clock() - 5, ran.append, "set for the past")
        loop.call_later(1, ran.append, "behind it")
        for _ in range(200):
            loop.call_later(2, ran.append, "never").cancel()
        loop.call_later(1.1, every.cancel)
        world.run()
        assert ran == ["every", "every", "every", "behind it", "every", "set for the past"]

    assert run_once(scenario, draws={}).failure is None
    assert simulate(scenario, 20).runs == 20


# Limits


def flood(world: World, **limits: Any) -> None:
    """Send to a client that does not read."""

    class Flood(reactor.Stream):
        def handle_data(self, data: bytes) -> None:
            for _ in range(10):
                self.push(BULK)

    class Deaf(reactor.Stream):
        def handle_open(self) -> None:
            self.push(b"flood me")
            self.pause_reading()

    world.listen(("server", 6000), Flood, limits=reactor.Limits(**limits))
    world.connect(("server", 6000), Deaf)
    world.run(timeout=1)


def test_queue_that_grows_past_its_limit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(world: World) -> None:
        flood(world, maximum_output=1_000_000)

    assert run_once(scenario, draws={}).failure is None
    monkeypatch.setattr(Preparing, "check_output", lambda self, channel: False)
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "a queue is over its limit"
    assert "is more than maximum_output" in str(failure)


def test_channel_that_reads_on_above_the_high_water_mark_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_once(flood, draws={}).failure is None
    monkeypatch.setattr(Open, "throttle", lambda self, channel: None)
    failure = run_once(flood, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "a queue is over its limit"
    assert "high_water, and it reads on" in str(failure)


@pytest.mark.parametrize("limit", ["maximum_connections", "maximum_unauthenticated"])
def test_listener_with_more_connections_than_its_limit_is_reported(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(world: World) -> None:
        world.listen(("server", 6000), MessageEcho, authkey=KEY, limits=reactor.Limits(**{limit: 2}))
        for _ in range(5):
            world.connect(("server", 6000), reactor.Stream)
        world.run(timeout=1)

    assert run_once(scenario, draws={}).failure is None
    monkeypatch.setattr(Listener, "_make_room", lambda self, limit, value: None)
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "a queue is over its limit"
    assert f"is more than {limit}" in str(failure)


def test_listener_with_more_connections_of_one_peer_than_its_limit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(world: World) -> None:
        world.listen(("server", 6000), Echo, limits=reactor.Limits(maximum_connections_per_peer=2))
        for _ in range(5):
            world.connect(("server", 6000), reactor.Stream)
        world.run(timeout=1)

    right = Listener._adopt

    def adopt(self: Listener, sock: Any, peer: Any) -> None:
        limits, self.limits = self.limits, reactor.Limits()
        right(self, sock, peer)
        self.limits = limits

    assert run_once(scenario, draws={}).failure is None
    monkeypatch.setattr(Listener, "_adopt", adopt)
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "a queue is over its limit"
    assert "is more than maximum_connections_per_peer" in str(failure)


# Getting on


def test_loop_that_spins_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Open, "readable", lambda self, channel: True)  # and it reads nothing
    failure = run_once(streams, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "the loop spins"
    assert "ready is server.2" in str(failure)


def test_time_that_stands_still_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(world: World) -> None:
        loop = world.host("client").reactor

        def again() -> None:
            loop.call_soon(again)

        loop.call_soon(again)
        world.run(timeout=1)

    monkeypatch.setattr("reactor.simulation.world.STANDSTILL", 200)
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "time stands still"
    assert "client" in str(failure)


# What programs raise


class Clumsy(reactor.Stream):
    def handle_data(self, data: bytes) -> None:
        raise KeyError("clumsy")


def in_a_hook(world: World) -> None:
    world.listen(("server", 6000), Clumsy)
    world.connect(("server", 6000), Caller)
    world.run(timeout=1)


def raise_key_error(*_: Any) -> None:
    raise KeyError("clumsy")


def in_a_timer(world: World) -> None:
    world.host("client").reactor.call_later(1, raise_key_error)
    world.run()


def in_a_call(world: World) -> None:
    world.host("client").reactor.call_soon(raise_key_error)
    world.run()


def on_a_thread(world: World) -> None:
    world.host("client").reactor.run_in_thread(raise_key_error)
    world.run()


def in_the_result_of_a_thread(world: World) -> None:
    world.host("client").reactor.run_in_thread(int, on_result=raise_key_error)
    world.run()


@pytest.mark.parametrize("scenario", [in_a_hook, in_a_timer, in_a_call, on_a_thread, in_the_result_of_a_thread])
def test_exception_that_escapes_from_the_program_is_reported(scenario: Callable[[World], Any]) -> None:
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "an exception escaped"
    assert "KeyError: 'clumsy'" in str(failure)
    assert isinstance(failure.__cause__, KeyError)

    def tolerant(world: World) -> None:
        world.tolerate(IndexError)
        world.tolerate(KeyError)
        scenario(world)

    assert run_once(tolerant, draws={}).failure is None


# The user's own invariants


def ticking(world: World, holds: Callable[[int], Any]) -> None:
    """Count to five, once a second, and hold the count against an invariant."""
    counts: list[int] = []
    world.host("client").reactor.call_every(1, lambda: counts.append(1))
    world.invariant(lambda: holds(len(counts)))
    world.run(until=lambda: len(counts) == 5)


def test_invariant_that_holds_and_returns_something_is_no_violation() -> None:
    assert run_once(lambda world: ticking(world, lambda count: count < 6), draws={}).failure is None
    assert run_once(lambda world: ticking(world, lambda count: None), draws={}).failure is None
    assert run_once(lambda world: ticking(world, lambda count: 0), draws={}).failure is None


def test_invariant_that_returns_false_is_reported_with_its_line() -> None:
    failure = run_once(lambda world: ticking(world, lambda count: count < 3), draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "an invariant of the scenario does not hold"
    assert f"in line {ticking.__code__.co_firstlineno + 4}" in str(failure)


def test_invariant_that_raises_ends_the_run_with_what_it_raised() -> None:
    def holds(count: int) -> None:
        assert count < 3, "three is too many"

    failure = run_once(lambda world: ticking(world, holds), draws={}).failure
    assert type(failure) is AssertionError
    assert "three is too many" in str(failure)


# No false alarms: whatever a user writes that works in production


class Lines:
    """A mixin without slots: splits what comes into lines."""

    rest = b""

    def handle_data(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.handle_line(line)

    def handle_line(self, line: bytes) -> None:
        raise NotImplementedError


class Counted:
    """A mixin with a hook of its own, which it passes on."""

    __slots__ = ()
    opened = 0

    def handle_open(self) -> None:
        type(self).opened += 1
        super().handle_open()  # type: ignore[misc]


class LineEcho(Lines, reactor.Stream):
    def handle_line(self, line: bytes) -> None:
        self.push(line)
        self.push(b"\n")


class SlottedEcho(reactor.Stream):
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def handle_data(self, data: bytes) -> None:
        self.count += len(data)
        self.push(data)


class DerivedEcho(Counted, SlottedEcho):
    """Several bases, slots in one of them, and a push that is overridden."""

    def push(self, data: Any) -> None:
        super().push(bytes(data))


class AbstractEcho(reactor.Stream, abc.ABC):
    @abc.abstractmethod
    def answer(self, data: bytes) -> bytes:
        """Return the answer."""

    def handle_data(self, data: bytes) -> None:
        self.push(memoryview(self.answer(data)))


class ConcreteEcho(AbstractEcho):
    def answer(self, data: bytes) -> bytes:
        return data


Kind = TypeVar("Kind")


class GenericEcho(reactor.Stream, Generic[Kind]):
    def handle_data(self, data: bytes) -> None:
        self.push(data)


class RegisteredEcho(reactor.Stream):
    """Wants its subclasses to say something, and keeps a list of them."""

    registered: list[type] = []

    def __init_subclass__(cls, *, code: int) -> None:
        super().__init_subclass__()
        cls.registered.append(cls)

    def handle_data(self, data: bytes) -> None:
        self.push(data)


class RegisteredOnceEcho(RegisteredEcho, code=1):
    """The only one in the list."""


@dataclasses.dataclass(eq=False)
class DataEcho(reactor.Stream):
    greeting: bytes
    received: int = 0

    def handle_data(self, data: bytes) -> None:
        self.received += len(data)
        self.push(data)


class ProducingEcho(reactor.Stream):
    """Answers with iterators, objects with more(), and generators that are pulled late."""

    def handle_data(self, data: bytes) -> None:
        class Source:
            def __init__(self) -> None:
                self.left = data[len(data) // 2 :]

            def more(self) -> bytes:
                chunk, self.left = self.left[:1000], self.left[1000:]
                return chunk

        self.push(memoryview(data[: len(data) // 2])[i : i + 7] for i in range(0, len(data) // 2, 7))
        self.push(iter([]))
        self.push(Source())


class FileEcho(reactor.Stream):
    """Answers with files."""

    def handle_data(self, data: bytes) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(b"skipped" + data)
            file.seek(len(b"skipped"))
            self.push(os.fdopen(os.dup(file.fileno()), "rb"))
        self.push(io.BytesIO(b""))


class KeepingEcho(reactor.Stream):
    """Keeps back what comes first, and gives it to its own hook a second later."""

    kept: bytes | None = b""

    def handle_data(self, data: bytes) -> None:
        if self.kept is None:
            self.push(data)
            return
        if not self.kept:
            self.reactor.call_later(1, self.go_on)
        self.kept += data

    def go_on(self) -> None:
        assert self.kept is not None
        kept, self.kept = self.kept, None
        self.handle_data(kept)


class PatchedEcho(reactor.Stream):
    """Its hooks are attributes of the object."""

    def __init__(self) -> None:
        self.reasons: list[Exception] = []
        self.handle_data = lambda data: self.push(data)  # type: ignore[method-assign]
        self.handle_close = self.reasons.append  # type: ignore[assignment,method-assign]


class TellingEcho(reactor.Stream):
    """Writes every hook that there is, and hands each on."""

    def handle_open(self) -> None:
        self.told = ["open"]
        super().handle_open()

    def handle_data(self, data: bytes) -> None:
        self.push(data)

    def handle_drained(self) -> None:
        self.told.append("drained")
        super().handle_drained()

    def handle_eof(self) -> None:
        self.told.append("eof")
        super().handle_eof()

    def handle_close(self, reason: Exception) -> None:
        self.told.append("close")

    def handle_error(self, error: Exception) -> None:
        self.told.append("error")
        super().handle_error(error)


class Counting(reactor.Stream):
    """Counts what it sends."""

    def __init__(self) -> None:
        self.count = 0

    def push(self, data: Any) -> None:
        self.count += len(data)
        super().push(data)


def test_push_that_is_overridden_hears_of_everything_once() -> None:
    def scenario(world: World) -> None:
        channel = Counting()
        world.listen(("server", 6000), Echo)
        world.connect(("server", 6000), lambda: channel)
        channel.push(b"12345")
        channel.push(bytearray(b"12345"))
        assert channel.count == 10

    assert run_once(scenario, draws={}).failure is None


STREAMS: dict[str, Callable[[], reactor.Stream]] = {
    "a class": Echo,
    "a mixin without slots": LineEcho,
    "slots": SlottedEcho,
    "several bases and a push of its own": DerivedEcho,
    "an abstract base": ConcreteEcho,
    "a generic class": GenericEcho,
    "a class that knows its subclasses": RegisteredOnceEcho,
    "a dataclass made by a lambda": lambda: DataEcho(b"hello"),
    "producers": ProducingEcho,
    "files": FileEcho,
    "hooks that the class calls itself": KeepingEcho,
    "hooks of the object": PatchedEcho,
    "all hooks": TellingEcho,
}
LINES = b"".join(b"line %d of many\n" % number for number in range(3000))


class LineCaller(reactor.Stream):
    """Pushes much before it has been given to anybody, and ends its side when all has come back."""

    def __init__(self) -> None:
        self.received = b""
        self.push(LINES[:10])
        self.push(bytearray(LINES[10:2000]))
        self.push(iter([LINES[2000:2001], LINES[2001:5000]]))
        self.push(LINES[5000:])

    def handle_data(self, data: bytes) -> None:
        self.received += data
        if len(self.received) == len(LINES):
            self.close_when_done()


@pytest.mark.parametrize("name", STREAMS)
def test_stream_that_is_right_raises_no_alarm(name: str) -> None:
    def scenario(world: World) -> None:
        callers: list[LineCaller] = []

        def make() -> LineCaller:
            callers.append(LineCaller())
            return callers[-1]

        world.listen(("server", 6000), STREAMS[name])
        world.connect(("server", 6000), make)
        world.run(timeout=100)
        assert callers[0].received == LINES

    assert run_once(scenario, draws={}).failure is None
    assert simulate(scenario, 10, faults=HARMLESS).injected > 10


def test_class_is_not_told_of_the_subclass_that_has_a_witness() -> None:
    test_stream_that_is_right_raises_no_alarm("a class that knows its subclasses")
    assert RegisteredEcho.registered == [RegisteredOnceEcho]


class Reverser(reactor.Connection):
    def handle_message(self, message: Any) -> None:
        self.send(message[::-1])


class SlottedReverser(reactor.Connection):
    __slots__ = ("answers",)

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def handle_message(self, message: Any) -> None:
        self.answers += 1
        self.send(message[::-1])


class FrameReverser(reactor.Connection):
    """Has both hooks: the engine calls the one for frames, and that one the other."""

    def handle_frame(self, data: bytes) -> None:
        super().handle_frame(data)

    def handle_message(self, message: Any) -> None:
        self.send(message[::-1])


class MixedReverser(Counted, Reverser):
    """Hears of everything, and writes the methods that send anew."""

    drained = 0

    def send(self, message: Any) -> None:
        super().send(message)

    def send_bytes(self, buffer: Any, offset: int = 0, size: int | None = None) -> None:
        super().send_bytes(b"in front" + buffer, offset + 8, size)

    def push(self, data: Any) -> None:
        super().push(data)

    def handle_drained(self) -> None:
        self.drained += 1


class Json:
    """A codec as the module json is one: its dumps makes text."""

    @staticmethod
    def dumps(message: Any) -> str:
        return f'"{message}"'

    @staticmethod
    def loads(data: bytes) -> str:
        return data.decode().strip('"')


CONNECTIONS: dict[str, Callable[[], reactor.Connection]] = {
    "a class": Reverser,
    "slots, made by a lambda": lambda: SlottedReverser(0),
    "frames and messages": FrameReverser,
    "several bases and methods of its own": MixedReverser,
}
CODECS: dict[str, Any] = {
    "pickle": "pickle",
    "json": "json",
    "bytes": "bytes",
    "restricted": reactor.RestrictedPickle([]),
    "text": Json,
}
WORDS = ["", "12345678", "abc", "x" * JOINED, "y" * (JOINED + 1), "z" * 100_000, "end"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", CONNECTIONS)
def test_connection_that_is_right_raises_no_alarm(name: str, codec: str) -> None:
    words: list[Any] = [word.encode() for word in WORDS] if codec == "bytes" else WORDS
    options = {"codec": CODECS[codec], "authkey": KEY}

    class Asker(reactor.Connection):
        def __init__(self, answers: list[Any]) -> None:
            self.answers = answers

        def handle_open(self) -> None:
            for word in words:
                self.send(word)

        def handle_message(self, message: Any) -> None:
            self.answers.append(message[::-1])
            if len(self.answers) == len(words):
                self.close_when_done()

    def scenario(world: World) -> None:
        answers: list[Any] = []
        world.listen(("server", 6000), CONNECTIONS[name], **options)
        world.connect(("server", 6000), lambda: Asker(answers), **options)
        world.run(timeout=100)
        assert answers == words

    assert run_once(scenario, draws={}).failure is None
    assert simulate(scenario, 3, faults=HARMLESS).injected > 3


class Recording(reactor.Stream):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def handle_data(self, data: bytes) -> None:
        self.received.append(data)


class RecordingFrames(reactor.Connection):
    """Keeps what comes, and gives the first frame to its own hook once more."""

    codec = "bytes"

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def handle_frame(self, data: bytes) -> None:
        self.received.append(data)
        if data == b"one":
            self.handle_frame(b"")


def test_channel_may_make_others_of_its_own_kind() -> None:
    def scenario(world: World) -> None:
        answers: list[Any] = []

        class Asker(reactor.Connection):
            codec = "json"

            def handle_open(self) -> None:
                self.send(len(answers))

            def handle_message(self, message: Any) -> None:
                answers.append(message)
                self.close_when_done()

            def handle_close(self, reason: Exception) -> None:
                if len(answers) < 5:
                    type(self).connect(("server", 6000))

        world.listen(("server", 6000), MessageEcho)
        world.connect(("server", 6000), Asker)
        world.run()
        assert answers == [0, 1, 2, 3, 4]

    assert run_once(scenario, draws={}).failure is None


@pytest.mark.parametrize("authkey", [None, KEY])
def test_all_that_can_be_pushed_before_a_connection_is_attached_is_right(authkey: bytes | None) -> None:
    """Small and large frames, empty ones, those that look like a header, producers and files, in every order."""
    frames = [b"", b"12345678", b"abc", b"", b"x" * JOINED, b"y" * (JOINED + 1), b"12345678", b"", b"z" * 100_000, b""]

    def push_all(channel: reactor.Connection) -> list[bytes]:
        for frame in frames:
            channel.push(frame)
        channel.push(iter([b"one", b"", b"two"]))
        for frame in frames:
            channel.push(bytearray(frame))
        channel.push(open(__file__, "rb"))
        channel.push(tempfile.TemporaryFile())
        channel.push(b"")
        channel.push(tempfile.TemporaryFile())
        channel.send_bytes(b"a part of it", 2, 4)
        with open(__file__, "rb") as file:
            return [*frames, b"one", b"two", *frames, file.read(), b"", b"", b"", b"part"]

    class Taker(reactor.Connection):
        codec = "bytes"

        def __init__(self, taken: list[bytes]) -> None:
            self.taken = taken

        def handle_frame(self, data: bytes) -> None:
            self.taken.append(data)

    def scenario(world: World) -> None:
        taken: list[bytes] = []
        pusher = FrameEcho()
        pushed = push_all(pusher)
        world.listen(("server", 6000), lambda: Taker(taken), authkey=authkey)
        world.connect(("server", 6000), lambda: pusher, authkey=authkey)
        world.run(until=lambda: len(taken) == len(pushed))
        assert taken == pushed
        push_all(pusher)
        world.run(until=lambda: len(taken) == 2 * len(pushed))
        assert taken == pushed + pushed

    assert run_once(scenario, draws={}).failure is None
    assert simulate(scenario, 5, faults=HARMLESS).injected > 5


@pytest.mark.parametrize(("server", "caller"), [(Echo, Recording), (FrameEcho, RecordingFrames)])
def test_bytes_pushed_before_a_channel_is_attached_and_those_pushed_too_late_are_right(
    server: Any, caller: Any
) -> None:
    def scenario(world: World) -> None:
        channel = caller()
        for data in (b"one", b"", b"two"):
            channel.push(data)
        world.listen(("server", 6000), server)
        world.connect(("server", 6000), lambda: channel)
        world.run(timeout=1)
        assert b"".join(channel.received) == b"onetwo"
        channel.close_when_done()
        channel.push(b"three")
        channel.push(iter([b"four"]))
        world.run()
        assert b"".join(channel.received) == b"onetwo"

    assert run_once(scenario, draws={}).failure is None
    assert simulate(scenario, 10, faults=HARMLESS).runs == 10


CLASSES = [
    reactor.Stream, reactor.Connection, Listener, Echo, TellingEcho, DerivedEcho, Reverser, FrameReverser, FrameEcho,
    MixedReverser, SlottedReverser,
]  # fmt: skip


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_engine_takes_the_same_path_as_in_production(cls: Any) -> None:
    found: Any = noted(cls)
    assert found is noted(cls)
    assert issubclass(found, cls)
    assert noted(found) is found
    assert (found.__name__, found.__module__, found.__doc__) == (cls.__name__, cls.__module__, cls.__doc__)
    assert found._hears_drained is cls._hears_drained
    assert getattr(found, "_hears_frames", None) is getattr(cls, "_hears_frames", None)
    assert found._states is cls._states
    assert hasattr(object.__new__(found), "__dict__") is hasattr(object.__new__(cls), "__dict__")


def test_hooks_that_are_not_written_are_not_called() -> None:
    told: list[str] = []

    class Frames(reactor.Connection):
        codec = "json"

        def handle_frame(self, data: bytes) -> None:
            told.append("frame")

        def handle_message(self, message: Any) -> None:
            told.append("message")

    class Messages(reactor.Connection):
        codec = "json"

        def handle_open(self) -> None:
            self.send("a message")

    def scenario(world: World) -> None:
        world.listen(("server", 6000), Frames)
        client = world.connect(("server", 6000), Messages)
        world.run(until=lambda: told)
        client.close()

    trace = run_once(scenario, draws={}, tracing=True).trace
    assert told == ["frame"]
    assert not [line for line in trace if "handle_drained" in line or "handle_message" in line]
    assert len([line for line in trace if "handle_frame" in line]) == 1


def test_class_that_a_scenario_makes_goes_with_it() -> None:
    classes: list[weakref.ref[type]] = []

    def scenario(world: World) -> None:
        class Local(reactor.Stream):
            pass

        world.listen(("server", 6000), Local)
        channel = world.connect(("server", 6000), Local)
        world.run(timeout=1)
        classes.append(weakref.ref(type(channel)))

    assert run_once(scenario, draws={}).failure is None
    gc.collect()
    assert classes[0]() is None


def test_stream_may_speak_to_a_connection_in_frames_of_its_own() -> None:
    class ByHand(reactor.Stream):
        received = b""

        def handle_open(self) -> None:
            self.push(b"\0\0\0\5hello")

        def handle_data(self, data: bytes) -> None:
            self.received += data

    def scenario(world: World) -> None:
        world.listen(("server", 6000), FrameEcho)
        client = world.connect(("server", 6000), ByHand)
        world.run(until=lambda: client.received == b"\0\0\0\5hello")

    assert run_once(scenario, draws={}).failure is None
    assert simulate(scenario, 20).runs == 20
