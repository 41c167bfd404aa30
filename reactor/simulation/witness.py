"""The witness: holds what channels, queues and timers do against what they promise, while a simulation runs.

Each channel that is attached to a simulated reactor gets a subclass of its own class: in front of the user's
methods stands what notes which hooks the engine calls, behind them what notes which bytes they queue. The
engine's code runs unchanged in between.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..addresses import format_address
from ..channel import Channel
from ..connecting import Attempt
from ..connection import JOINED, Connection, cut
from ..datagram import Datagram
from ..errors import ReactorError, RemoteError, excerpt
from ..framing import SHORT
from ..listener import Listener
from ..producers import FileSlice, OutputQueue, Producer
from ..states import State
from ..timers import Timer, TimerQueue
from .hosts import Host
from .network import MAPPED

if TYPE_CHECKING:
    from ..eventloop import Reactor
    from .world import World


class Part:
    """A piece of what a channel was given to send: bytes, or what a producer makes, which comes by and by.

    Attributes:
        chunks: what is known of it and not yet received: frames of a `Connection`, or any pieces of a stream.
        is_complete: whether nothing more comes of it.
    """

    __slots__ = ("chunks", "is_complete")

    def __init__(self, chunk: bytes | None = None) -> None:
        self.chunks: deque[bytes] = deque()
        self.is_complete = chunk is not None
        if chunk is not None:
            self.chunks.append(chunk)

    def recording(self, produce: Callable[[], Any]) -> Callable[[], Any]:
        """Return `produce`, its results noted."""

        def produce_and_note() -> Any:
            chunk = produce()
            data = bytes(memoryview(chunk))
            if data:
                self.chunks.append(data)
            else:
                self.is_complete = True
            return chunk

        return produce_and_note


class Ledger:
    """What one channel was given to send, as far as its peer has not received it."""

    __slots__ = ("_is_over", "_parts", "_turning_points", "channel", "is_framed", "received", "sent")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.is_framed = isinstance(channel, Connection)
        self.sent = self.received = 0
        self._is_over = False
        self._parts: deque[Part] = deque()
        self._turning_points: deque[Part] = deque()
        queued = channel._output
        if isinstance(queued, list):
            for data in queued:
                self.add(data[SHORT.size :] if self.is_framed else data)
        elif isinstance(queued, OutputQueue):
            self._adopt(queued)

    def add(self, data: bytes) -> None:
        """`data` was queued: a frame, or a piece of a stream."""
        if data or self.is_framed:
            self.sent += 1
            self._parts.append(Part(data))

    def add_producer(self, queue: Any) -> None:
        """A producer or a file was queued: the last entry of `queue`, unless that takes nothing more."""
        if isinstance(queue, OutputQueue) and not queue.sealed:
            self._watch(queue._entries[-1])

    def turn(self) -> None:
        """From here on all is encrypted: a part that never comes stands in between, until the peer encrypts too."""
        point = Part()
        self._turning_points.append(point)
        self._parts.append(point)

    def pass_turning_point(self) -> None:
        """The peer encrypts from here on: what was sent in plaintext and was not delivered is never delivered."""
        if self._turning_points:
            point = self._turning_points.popleft()
            while self._parts.popleft() is not point:
                pass

    def receive(self, data: bytes) -> str | None:
        """The peer has received a frame, or a piece of a stream. Return what is wrong with it, if anything is."""
        if self._is_over:
            return None
        self.received += 1
        expected = self._next()
        if self.is_framed:
            if expected is None:
                return f"a frame of {len(data)} bytes was delivered that was never sent"
            if expected != data:
                return f"frame {self.received} was sent as {excerpt(expected)} and delivered as {excerpt(data)}"
            self._parts[0].chunks.popleft()
            return None
        while data:
            if expected is None and self._is_turning and not self._has_leaked(data):
                self._is_over = True  # a program that knows nothing of TLS is given what TLS says
                return None
            if expected is None:
                return f"{len(data)} bytes were delivered that were never sent"
            size = min(len(expected), len(data))
            if expected[:size] != data[:size]:
                return f"other bytes were delivered than were sent, {data[:20]!r} in place of {expected[:20]!r}"
            chunks = self._parts[0].chunks
            if size == len(expected):
                chunks.popleft()
            else:
                chunks[0] = expected[size:]
            data = data[size:]
            expected = self._next() if data else None
        return None

    @property
    def _is_turning(self) -> bool:
        """Whether all that was sent in plaintext was received."""
        return bool(self._turning_points) and self._parts[0] is self._turning_points[0]

    def _has_leaked(self, data: bytes) -> bool:
        """Return whether `data`, which came in plaintext, is what was to be encrypted."""
        behind = next((chunk for part in itertools.islice(self._parts, 1, None) for chunk in part.chunks), b"")
        size = min(len(behind), len(data))
        return size > 0 and behind[:size] == data[:size]

    def _next(self) -> bytes | None:
        parts = self._parts
        while parts and parts[0].is_complete and not parts[0].chunks:
            parts.popleft()
        return parts[0].chunks[0] if parts and parts[0].chunks else None

    def _adopt(self, queue: OutputQueue) -> None:
        entries = list(queue._entries)
        while entries:
            entry = entries.pop(0)
            if not isinstance(entry, bytes | memoryview):
                self._watch(entry)
            elif not self.is_framed:
                self.add(bytes(entry))
            elif entries and isinstance(entries[0], FileSlice):
                pass  # its header
            elif SHORT.unpack_from(entry)[0] == len(entry) - SHORT.size:
                self.add(bytes(entry[SHORT.size :]))
            else:  # the header of a large one
                self.add(bytes(entries.pop(0)))  # type: ignore[arg-type]

    def _watch(self, entry: Any) -> None:
        if isinstance(entry, FileSlice):
            self._parts.append(Part(os.pread(entry.file.fileno(), entry.size, entry.offset)))
        elif isinstance(entry, Producer):
            part = Part()
            entry._produce = part.recording(entry._produce)
            self._parts.append(part)


class Noted:
    """Stands in front of the user's class: every hook that the engine calls comes by here."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """No class that the user has written: none of those hears of it."""

    def handle_open(self) -> None:
        witness_of(self).hook(self, "handle_open")
        super().handle_open()  # type: ignore[misc]

    def handle_data(self, data: bytes) -> None:
        if is_called_by_a_state():
            witness = witness_of(self)
            witness.hook(self, "handle_data", data)
            witness.received(self, data)
        super().handle_data(data)  # type: ignore[misc]

    def handle_eof(self) -> None:
        witness_of(self).hook(self, "handle_eof")
        super().handle_eof()  # type: ignore[misc]

    def handle_secured(self) -> None:
        witness = witness_of(self)
        witness.hook(self, "handle_secured")
        witness.secured(self)
        super().handle_secured()  # type: ignore[misc]

    def handle_drained(self) -> None:
        witness_of(self).hook(self, "handle_drained")
        super().handle_drained()  # type: ignore[misc]

    def handle_error(self, error: Exception) -> None:
        witness_of(self).hook(self, "handle_error", error)
        super().handle_error(error)  # type: ignore[misc]

    def handle_close(self, reason: ReactorError) -> None:
        witness = witness_of(self)
        witness.hook(self, "handle_close", reason)
        witness.closed(self)
        super().handle_close(reason)  # type: ignore[misc]


class NotedFrames:
    """In front of the user's class too, where that takes frames."""

    __slots__ = ()

    def handle_frame(self, data: bytes) -> None:
        if is_called_by_a_state():
            witness = witness_of(self)
            witness.hook(self, "handle_frame", data)
            witness.received(self, data)
        super().handle_frame(data)  # type: ignore[misc]


class NotedMessages:
    """In front of the user's class too, where that takes messages."""

    __slots__ = ()

    def handle_message(self, message: Any) -> None:
        witness_of(self).hook(self, "handle_message")
        super().handle_message(message)  # type: ignore[misc]


class NotedDatagrams:
    """In front of the user's class too, where that takes datagrams."""

    __slots__ = ()

    def handle_datagram(self, data: bytes, address: Any) -> None:
        if is_called_by_a_state():
            witness = witness_of(self)
            witness.hook(self, "handle_datagram", data)
            witness.received_datagram(self, data, address)
        super().handle_datagram(data, address)  # type: ignore[misc]


class StreamLedger(Channel):
    """Stands behind the user's class: what that queues on a stream comes by here."""

    __slots__ = ()

    def push(self, data: Any) -> None:
        super().push(data)
        if is_buffer(data):
            witness_of(self).queued(self).add(bytes(memoryview(data)))

    def _push_producer(self, source: Any) -> None:
        super()._push_producer(source)
        if not is_buffer(source):
            witness_of(self).queued(self).add_producer(self._output)

    def start_tls(self, tls: Any) -> int:
        dropped = super().start_tls(tls)
        witness_of(self).queued(self).turn()
        return dropped

    def _opened(self) -> None:
        witness_of(self).opened(self)
        super()._opened()


class FrameLedger(Connection):
    """Stands behind the user's class: the frames that it queues come by here."""

    __slots__ = ()

    def send_bytes(self, buffer: Any, offset: int = 0, size: int | None = None) -> None:
        super().send_bytes(buffer, offset, size)
        if type(buffer) is not bytes or offset or size is not None:
            buffer = cut(buffer, offset, size)
        if len(buffer) <= JOINED:
            witness_of(self).queued(self).add(buffer)

    def _queue_large(self, data: bytes | memoryview) -> None:
        super()._queue_large(data)
        witness_of(self).queued(self).add(bytes(data))

    def _push_producer(self, source: Any) -> None:
        super()._push_producer(source)
        if not is_buffer(source):
            witness_of(self).queued(self).add_producer(self._output)

    def start_tls(self, tls: Any) -> int:
        dropped = super().start_tls(tls)
        witness_of(self).queued(self).turn()
        return dropped

    def _opened(self) -> None:
        witness = witness_of(self)
        witness.opened(self)
        if not self._hears_frames:
            codec = NotedCodec(self._trust.codec, lambda frame: witness.received(self, frame))
            self._trust = dataclasses.replace(self._trust, codec=codec)
        super()._opened()


class DatagramLedger(Datagram):
    """Stands behind the user's class: the datagrams that it sends come by here."""

    __slots__ = ()

    def send_to(self, data: Any, address: Any = None) -> bool:
        if is_buffer(data):
            witness_of(self).posted(self, bytes(memoryview(data)))  # before it is sent: it may arrive at once
        return super().send_to(data, address)


class NotedCodec:
    """A codec that tells of every frame that it is given."""

    def __init__(self, codec: Any, tell: Callable[[bytes], None]) -> None:
        self.dumps = codec.dumps
        self._loads = codec.loads
        self._tell = tell

    def loads(self, data: bytes) -> Any:
        self._tell(data)
        return self._loads(data)


def is_called_by_a_state() -> bool:
    """Return whether the hook that asks was called with what came in, and not with something of the program's own."""
    return isinstance(sys._getframe(2).f_locals.get("self"), State)


def witness_of(channel: Any) -> Witness:
    """Return the witness of a channel that lives in a simulation."""
    channels = channel.reactor.channels
    assert isinstance(channels, NotedChannels)
    return channels.witness


def endpoint_of(channel: Any) -> Any:
    """Return what the network knows of the socket of `channel`, below its TLS."""
    return getattr(channel.socket, "_raw", channel.socket).endpoint


def noted(cls: type[Channel]) -> type[Channel]:
    """Return the subclass of `cls` whose hooks and queues have a witness."""
    if issubclass(cls, Noted):
        return cls  # a channel has made another one of its own kind: type(self)()
    # Kept in the class itself, so that a class which a scenario makes anew for each run goes when the run is over.
    found: type[Channel] | None = cls.__dict__.get("_noted_class")
    if found is None:
        bases: tuple[type, ...]
        if issubclass(cls, Connection):
            bases = (Noted, NotedFrames if cls._hears_frames else NotedMessages, cls, FrameLedger)
        elif issubclass(cls, Datagram):
            bases = (Noted, NotedDatagrams, cls, DatagramLedger)
        elif issubclass(cls, Listener | Attempt):
            bases = (Noted, cls)
        else:
            bases = (Noted, cls, StreamLedger)
        if cls in (Connection, Channel, Datagram):  # of which the ledger is a subclass already
            bases = tuple(base for base in bases if base is not cls)
        found = type(cls.__name__, bases, {"__slots__": (), "__module__": cls.__module__, "__doc__": cls.__doc__})
        found._hears_drained = cls._hears_drained
        if issubclass(cls, Connection):
            found._hears_frames = cls._hears_frames  # type: ignore[attr-defined]
        cls._noted_class = found  # type: ignore[attr-defined]
    return found


class NotedChannels(dict[Channel, None]):
    """The channels of a simulated reactor: tells of each that is attached."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.witness = witness

    def __setitem__(self, channel: Channel, value: None) -> None:
        super().__setitem__(channel, value)
        self.witness.attached(channel)


class OrderedTimers(TimerQueue):
    """A queue of timers that is held against a second one: (deadline, sequence) is the order in which they run."""

    __slots__ = ("_expected", "_violate")

    def __init__(self, violate: Callable[[str, str], None]) -> None:
        super().__init__()
        self._violate = violate
        self._expected: list[tuple[float, int, Timer, Any, Any]] = []

    def pop_due(self, now: float, latest: int) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        expected = self._expected
        while expected and expected[0][2].callback is not expected[0][3]:
            heapq.heappop(expected)  # it was cancelled
        first = heapq.heappop(expected) if expected and expected[0][0] <= now and expected[0][1] <= latest else None
        popped = super().pop_due(now, latest)
        ran = (None, None) if popped is None else popped
        due = (None, None) if first is None else first[3:]
        if ran[0] is not due[0] or ran[1] is not due[1]:
            self._violate("timers run out of order", f"at {now:.6f} {ran[0]} ran, and due was {due[0]}")
        return popped

    def clear(self) -> None:
        super().clear()
        self._expected.clear()

    def _push(self, timer: Timer) -> None:
        super()._push(timer)
        due = max(timer.deadline, self._now) if self._now > -math.inf else timer.deadline
        heapq.heappush(self._expected, (due, self.latest, timer, timer.callback, timer.args))


class Witness:
    """What is known of all channels of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hosts: dict[Reactor, Host] = {}
        self._ledgers: dict[Channel, Ledger] = {}
        self._letters: dict[Datagram, set[bytes]] = {}
        self._endings: dict[Channel, int] = {}
        self._restless: dict[Channel, None] = {}

    def watch(self, host: Host) -> None:
        """`host` has a new reactor."""
        reactor = host.reactor
        self._hosts[reactor] = host
        reactor.channels = NotedChannels(self)
        reactor._timers = reactor.deadlines.timers = OrderedTimers(self._world.violate)

    def attached(self, channel: Channel) -> None:
        """`channel` belongs to a reactor from now on."""
        channel.__class__ = noted(type(channel))
        self._endings[channel] = 0
        if isinstance(channel, Datagram):
            self._letters[channel] = set()
        elif not isinstance(channel, Listener | Attempt):
            self._ledgers[channel] = Ledger(channel)
        if isinstance(channel._origin, Listener):
            self._restless[channel._origin] = None  # it has one more

    def opened(self, channel: Channel) -> None:
        """`channel` is open: whoever is at the other end of its connection receives what it sends."""
        endpoint_of(channel).ledger = self._ledgers[channel]

    def secured(self, channel: Any) -> None:
        """`channel` is open again, and encrypted from here on."""
        peer = endpoint_of(channel).peer if channel.socket is not None else None
        if peer is not None and peer.ledger is not None:
            peer.ledger.pass_turning_point()

    def queued(self, channel: Channel) -> Ledger:
        """Something is queued on `channel`: return its ledger."""
        self._restless[channel] = None
        return self._ledgers[channel]

    def hook(self, channel: Any, name: str, what: Any = None) -> None:
        """The engine calls a hook of `channel`."""
        host = self._hosts[channel.reactor]
        world = self._world
        world.hooks += 1
        if world.tracing and not isinstance(channel, Attempt):
            shown = f"({len(what)} bytes)" if isinstance(what, bytes) else f"({what})" if what is not None else "()"
            host.note(f"{channel}.{name}{shown}")
        # What handle_close, or the factory of its successor, has raised is still told; what the peer did is not.
        may_be_told = name == "handle_error" and not isinstance(what, RemoteError)
        if self._endings[channel] and name != "handle_close" and not may_be_told:
            world.violate("a hook is called after handle_close", f"{name} of {channel}")
        self._restless[channel] = None
        host.handler_runs()

    def received(self, channel: Any, data: bytes) -> None:
        """`channel` is given a frame, or a piece of a stream."""
        peer = endpoint_of(channel).peer if channel.socket is not None else None
        if peer is not None and channel._origin._tls is not None and not getattr(channel.socket, "is_secure", False):
            self._world.violate("what was not encrypted is delivered", f"{channel}: {excerpt(data)}")
        if peer is None or peer.ledger is None or peer.ledger.is_framed != self._ledgers[channel].is_framed:
            return  # a stream that speaks frames by hand
        problem = peer.ledger.receive(data)
        if problem is not None:
            self._world.violate("what is delivered is not what was sent", f"{channel}: {problem}")

    def posted(self, channel: Datagram, data: bytes) -> None:
        """`channel` is to send a datagram. It may arrive late, several times, or never, but not as another one."""
        self._restless[channel] = None
        self._letters[channel].add(data)

    def received_datagram(self, channel: Any, data: bytes, address: Any) -> None:
        """`channel` is given a datagram that came from `address`."""
        host, port = self._world.host_at(address[0].removeprefix(MAPPED), self._hosts[channel.reactor]), address[1]
        letters = [
            sent
            for sender, sent in self._letters.items()
            if self._hosts[sender.reactor] is host and sender.address is not None and sender.address[1] == port
        ]
        if letters and not any(data in sent for sent in letters):  # else a socket sent it that has no channel
            details = f"{channel}: {excerpt(data)} came from {format_address(address)}, which never sent it"
            self._world.violate("what is delivered is not what was sent", details)

    def closed(self, channel: Any) -> None:
        """`handle_close` of `channel` is called."""
        self._endings[channel] += 1
        if self._endings[channel] > 1:
            self._world.violate("a channel is not closed exactly once", f"{channel}: handle_close runs once more")

    def gone(self, channel: Channel) -> None:
        """The program that `channel` is part of was killed: nothing is promised any more."""
        self._endings.pop(channel, None)
        self._restless.pop(channel, None)

    def look_at(self, host: Host) -> None:
        """A turn of `host` is over: is any queue over its limit?"""
        restless = self._restless
        if not restless:
            return
        self._restless = {}
        for channel in restless:
            if channel.reactor is not host.reactor or channel.state is channel._states["Closed"]:
                continue
            if isinstance(channel, Listener):
                self._look_at_listener(channel)
                continue
            if channel.tls is not None:
                self._look_at_tls(channel)
            size, limits = channel.output_size, channel.limits
            if size > limits.high_water and channel in host.reactor.dirty:
                self._restless[channel] = None  # it was queued while others were flushed, and is looked at next
            elif size > limits.maximum_output:
                self._over_limit(channel, size, "maximum_output")
            elif size > limits.high_water and channel.state is channel._states["Open"]:
                origin = channel._origin
                if origin is not None and origin._role == "listener":
                    self._over_limit(channel, size, "high_water, and it reads on")

    def finish(self) -> None:
        """Every reactor is closed: so is every channel, and each was told once."""
        for channel, times in self._endings.items():
            if times != 1 and "handle_close" not in getattr(channel, "__dict__", ()):  # a hook of the object alone
                self._world.violate(
                    "a channel is not closed exactly once", f"{channel}: handle_close ran {times} times"
                )
                return

    def _look_at_tls(self, channel: Channel) -> None:
        from .. import tls

        sock = channel.socket
        for buffer in (sock._incoming, sock._outgoing):
            if buffer.pending:
                self._world.violate(
                    "a buffer that all connections share is not empty", f"{channel} left {buffer.pending} bytes in it"
                )
        if len(sock._unsent) > tls.UNASKED_ANSWERS + tls.ENCRYPTED_AT_ONCE + tls.RECORD:
            self._over_limit(channel, len(sock._unsent), "what may wait encrypted")

    def _look_at_listener(self, listener: Listener) -> None:
        limits = listener.limits
        if listener.connections > limits.maximum_connections:
            self._over_limit(listener, listener.connections, "maximum_connections")
        most = max(listener._peers.values(), default=0)
        if most > limits.maximum_connections_per_peer:
            self._over_limit(listener, most, "maximum_connections_per_peer")
        if len(listener._unauthenticated) > limits.maximum_unauthenticated:
            self._over_limit(listener, len(listener._unauthenticated), "maximum_unauthenticated")

    def _over_limit(self, channel: Channel, size: int, limit: str) -> None:
        self._world.violate("a queue is over its limit", f"{channel}: {size} is more than {limit}")


def is_buffer(source: Any) -> bool:
    """Return whether `source` is a bytes-like object."""
    try:
        memoryview(source)
    except TypeError:
        return False
    return True
