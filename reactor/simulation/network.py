"""The kernel's side of simulated sockets: TCP connections and datagrams between hosts, in virtual time.

TCP here is what a program can see of it: bytes in order, bounded buffers, half-close, resets, refused and
hanging connects, a backlog. Where systems differ (a reset that destroys unread input does so on BSD, and on
Linux it does not) a draw decides.

As long as nothing goes wrong, calls end as they do on Linux, readiness and error numbers included, but for this:
buffers have sizes of their own; a port is taken by who listens on it, not by who is bound to it; a socket connects
once, and is shut down only when it is connected; of the options SO_KEEPALIVE and SO_ERROR alone mean something, and
flags mean nothing.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..eventloop import READ, WRITE
from .faults import CONNECT, DATAGRAM, ICMP, LINK, RESET, SEGMENT, failure

if TYPE_CHECKING:
    from selectors import SelectorKey

    from .hosts import Host

BUFFER = 256 * 1024
"""Bytes that one direction of a connection holds, sent and not yet received."""
DELAY_BUDGET = 0.5
"""Seconds that all harmless delays of one direction may add up to, so that they stay harmless."""
LONGEST_DELAY = 0.05
KERNEL_TIMEOUT = 127.0
"""Seconds after which Linux gives a connect up that nobody answers (tcp_syn_retries)."""
RETRANSMISSION_TIMEOUT = 924.6
"""Seconds after which Linux gives data up that nobody acknowledges (tcp_retries2)."""
KEEPALIVE = (60.0, 120.0)
"""Seconds of silence until the first probe, and until the verdict: what `set_stream_options` asks for."""
DATAGRAMS_WAITING = 64
LARGEST_DATAGRAM: dict[int, int] = {socket.AF_INET: 65507, socket.AF_INET6: 65527}
EPHEMERAL = 32768
WILDCARDS: dict[int, str] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
LOOPBACKS: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
MAPPED = "::ffff:"
"""Stands before an address of IPv4 where a datagram socket for both families deals with it."""


class File:
    """What a descriptor stands for.

    Attributes:
        host: where it is.
        name: what the trace, and the stream of its draws, is called.
        key: what a selector has registered for it, or None.
        number: its descriptor, or -1.
    """

    __slots__ = ("host", "key", "name", "number", "stream", "world")

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.world = host.world
        self.name = name
        self.stream = host.world.tape.stream(name)
        self.key: SelectorKey | None = None
        self.number = -1

    def readiness(self) -> int:
        """Return READ, WRITE, both or 0, as epoll would."""
        return 0

    def touch(self) -> None:
        """It may have become ready: whoever watches it looks again."""
        if self.key is not None:
            self.host.candidates[self] = None

    def close(self) -> None:
        """The last descriptor for it is gone."""


class TcpSocket(File):
    """One end of a connection, or a listener.

    Attributes:
        ledger: what the witness keeps about the channel at this end.
    """

    __slots__ = (
        "backlog", "budget", "capacity", "closed", "eof", "error", "family", "fin_came", "fin_sent", "in_flight",
        "inbox", "keepalive", "last_arrival", "latency", "ledger", "local", "peer", "pending", "queue", "remote",
        "reset", "role", "vanished",
    )  # fmt: skip

    def __init__(self, host: Host, family: int, name: str) -> None:
        super().__init__(host, name)
        self.family = family
        self.role = "idle"
        self.local: Any = None
        self.remote: Any = None
        self.peer: TcpSocket | None = None
        self.inbox = bytearray()
        self.in_flight = 0
        self.pending = 0
        self.last_arrival = 0.0
        self.capacity = BUFFER
        self.latency = 0.0
        self.budget = DELAY_BUDGET
        self.eof = self.reset = self.fin_sent = self.fin_came = self.closed = self.vanished = self.keepalive = False
        self.error = 0
        self.backlog = 0
        self.queue: deque[TcpSocket] = deque()
        self.ledger: Any = None

    def readiness(self) -> int:
        role = self.role
        if role == "connected":
            mask = READ if self.inbox or self.eof or self.error else 0
            peer = self.peer
            assert peer is not None
            if self.reset or self.error or self.fin_sent or len(peer.inbox) + peer.in_flight < peer.capacity:
                mask |= WRITE
            return mask
        if role == "listening":
            return READ if self.queue else 0
        return 0 if role == "connecting" and not self.error else READ | WRITE

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection still: not reset, and not ended by both sides."""
        return self.role == "connected" and not (self.reset or (self.fin_sent and self.fin_came))

    # What a program does

    def bind(self, address: Any) -> None:
        """Take a local address."""
        if self.local is not None:
            raise failure(errno.EINVAL)
        host, port = address[:2]
        host = self.host.local_address(host, self.family)
        if not port:
            port = self.host.free_port()
        elif self.host.is_taken(self.family, port):
            raise failure(errno.EADDRINUSE)
        self.local = (host, port) if self.family == socket.AF_INET else (host, port, 0, 0)

    def listen(self, backlog: int) -> None:
        """Accept connections from now on."""
        if self.role not in ("idle", "listening"):
            raise failure(errno.EINVAL)
        if self.local is None:
            self.bind(("", 0))
        if self.role == "idle" and self.host.is_taken(self.family, self.local[1]):
            raise failure(errno.EADDRINUSE)
        self.role = "listening"
        self.backlog = backlog
        self.host.listeners[self.family, self.local[1]] = self

    def take(self) -> TcpSocket:
        """Return the connection that has waited for longest."""
        if self.role != "listening":
            raise failure(errno.EINVAL)
        if not self.queue:
            raise failure(errno.EAGAIN)
        return self.queue.popleft()

    def connect(self, address: Any) -> int:
        """Begin to connect; return an errno, 0 for success."""
        if self.role == "connecting":
            return errno.EALREADY
        if self.role == "connected":
            return errno.EISCONN
        if self.role == "dead":
            number, self.error = self.error, 0
            return number or errno.ECONNABORTED
        if self.local is None:
            self.bind(("", 0))
        self.local = self.host.seen_from(self.local, address)
        self.remote = address
        self.role = "connecting"
        fault, parameter = CONNECT.decode(self.stream.draw(CONNECT))
        result = errno.EINPROGRESS
        delay = 0.0
        if fault is not None:
            self.host.injected(self.name, CONNECT, fault)
            if fault.name == "EINTR":
                result = errno.EINTR
            elif fault.name == "late":
                delay = self.delay(parameter)
            elif fault.name == "at once":
                self._knock(address, 0)
                if self.role == "connected":
                    return 0
                number, self.error = self.error, 0
                if number:
                    self.role = "dead"
                return number or errno.EINPROGRESS
            elif fault.name == "hangs":
                self.world.schedule(KERNEL_TIMEOUT, self._refused, errno.ETIMEDOUT)
                return result
            elif parameter % 2:
                self.role = "dead"
                return fault.number
            else:
                self.world.schedule(0.0, self._refused, fault.number)
                return result
        self.world.send(self.host, None, self.world.now + delay, self._knock, address, 0)
        return result

    def send(self, data: Any) -> int:
        """Take what fits of `data` for the peer; return how many bytes that was."""
        if self.error:
            number, self.error = self.error, 0
            raise failure(number)
        if self.role != "connected":
            raise failure(errno.EAGAIN if self.role == "connecting" else errno.EPIPE)
        if self.fin_sent or self.reset:
            raise failure(errno.EPIPE)
        peer = self.peer
        assert peer is not None
        room = peer.capacity - len(peer.inbox) - peer.in_flight
        size = len(data)
        if room < size:
            if room <= 0:
                raise failure(errno.EAGAIN)
            data = data[:room]
            size = room
        elif not size:
            return 0
        peer.in_flight += size
        self._transmit(peer._data_came, bytes(data))
        return size

    def receive(self, size: int) -> bytes:
        """Return at most `size` bytes of what the peer sent; none at its end."""
        inbox = self.inbox
        if inbox:
            if len(inbox) <= size:
                data = bytes(inbox)
                inbox.clear()
            else:
                data = bytes(memoryview(inbox)[:size])
                del inbox[:size]
            # However small the buffers are, they grow with what was read: large messages must not take for ever.
            self.capacity = min(self.capacity + 1 + (len(data) >> 2), BUFFER)
            assert self.peer is not None
            self.peer.touch()
            return data
        if self.fin_came:
            return b""
        if self.error:
            number, self.error = self.error, 0
            raise failure(number)
        if self.eof:
            return b""
        if self.role not in ("connected", "connecting"):
            raise failure(errno.ENOTCONN)
        raise failure(errno.EAGAIN)

    def shutdown(self, how: int) -> None:
        """End one direction, or both."""
        if not self.is_connected:
            raise failure(errno.ENOTCONN)
        if how != socket.SHUT_WR:
            self.eof = True
        if how != socket.SHUT_RD:
            self._finish()
        self.touch()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.role == "listening":
            self._forget_listener()
            for waiting in self.queue:
                waiting.abort()
            self.queue.clear()
        elif self.is_connected:
            if self.inbox:
                self.abort()  # unread input: the peer gets a reset instead of an end
            else:
                self._finish()
        if self.role != "connected":
            self.role = "dead"

    def abort(self) -> None:
        """Break the connection: the peer gets a reset."""
        if self.role == "connected" and not self.reset:
            self.reset = self.eof = True
            self.inbox.clear()
            assert self.peer is not None
            self._transmit(self.peer._reset_came)
        elif self.role == "connecting":
            self.role = "dead"
        self.touch()

    def vanish(self) -> None:
        """The power is cut: no word to the peer, which finds out by itself, or never."""
        self.vanished = self.closed = True
        if self.role == "listening":
            self._forget_listener()
            for waiting in self.queue:
                waiting.vanish()
        elif self.role == "connected":
            assert self.peer is not None
            if self.peer.keepalive:
                for silence in KEEPALIVE:
                    self.world.schedule(silence, self.peer._probe, silence == KEEPALIVE[-1])

    # What the network does

    def delay(self, parameter: int) -> float:
        """Return the seconds of a delay that is drawn as harmless: so many of them as are left."""
        seconds = min(parameter / 1024 * LONGEST_DELAY, self.budget)
        self.budget -= seconds
        return seconds

    def joined(self, peer: TcpSocket, remote: Any) -> None:
        """This end of a connection has `peer` for its other end."""
        self.peer = peer
        self.remote = remote
        fault, parameter = LINK.decode(self.stream.draw(LINK))
        if fault is None:
            return
        self.host.injected(self.name, LINK, fault)
        if fault.name == "late":
            self.latency = parameter / 1024 * LONGEST_DELAY / 2
        else:
            self.capacity = 1 + parameter % 16 if fault.name == "tiny buffers" else 64 + 4 * parameter

    def _transmit(self, deliver: Callable[..., None], *args: Any) -> None:
        """Have the peer told something, behind all that it was told before."""
        peer, world = self.peer, self.world
        assert peer is not None
        delay = 0.0
        if peer.latency and peer.budget > 0:
            delay = min(peer.latency, peer.budget)
            peer.budget -= delay
        value = peer.stream.draw(SEGMENT)
        if value:
            fault, parameter = SEGMENT.decode(value)
            assert fault is not None
            peer.host.injected(peer.name, SEGMENT, fault)
            delay += peer.delay(parameter) if fault.name == "late" else parameter / 8
        if not (delay or peer.pending or world.partitions):
            deliver(*args)
            return
        due = max(world.now + delay, peer.last_arrival)
        peer.last_arrival = due
        peer.pending += 1
        # Never at once, though it may be due: while a program computes, what is on its way becomes overdue.
        world.schedule_at(due, world.carry, self.host, peer.host, peer._arrived, (deliver, args))

    def _arrived(self, deliver: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.pending -= 1
        deliver(*args)

    def _finish(self) -> None:
        if not self.fin_sent:
            self.fin_sent = True
            assert self.peer is not None
            self._transmit(self.peer._end_came)

    def _data_came(self, data: bytes) -> None:
        if self.closed:
            self._unreachable()
            return
        if self.eof and self.fin_sent and not self.reset:  # shut down in both directions, which is as good as closed
            self._unreachable()
            self._reset_came()
        self.in_flight -= len(data)
        if self.reset:
            return
        self.inbox += data
        self.host.activity += 1
        self.touch()

    def _end_came(self) -> None:
        if self.vanished:
            self._unreachable()
        self.eof = self.fin_came = True
        self.host.activity += 1
        self.touch()

    def _reset_came(self) -> None:
        if self.closed or not self.is_connected:
            self.reset = True
            return
        self.reset = self.eof = True
        self.error = errno.EPIPE if self.fin_came else errno.ECONNRESET
        if self.inbox and self.stream.draw(RESET):
            self.host.injected(self.name, RESET, RESET.faults[1])
            self.inbox.clear()
        self.host.activity += 1
        self.touch()

    def _unreachable(self, waited: float = 0.0) -> None:
        """Something came for a connection that is not there any more."""
        peer = self.peer
        assert peer is not None
        if peer.closed:
            return
        if not self.vanished or self.host.has_power:
            self._transmit(peer._reset_came)
        elif waited < RETRANSMISSION_TIMEOUT:
            step = min(max(waited, 0.2), 120.0)
            self.world.schedule(step, self._unreachable, waited + step)
        else:
            peer._broken(errno.ETIMEDOUT)

    def _probe(self, is_last: bool) -> None:
        """Keepalive: ask a silent peer whether it is still there."""
        assert self.peer is not None
        if self.closed or self.reset:
            return
        if self.peer.host.has_power:
            self._reset_came()
        elif is_last:
            self._broken(errno.ETIMEDOUT)

    def _broken(self, number: int) -> None:
        if not self.reset and not self.closed:
            self.reset = self.eof = True
            self.error = number
            self.host.activity += 1
            self.touch()

    def _knock(self, address: Any, attempt: int) -> None:
        """A connect reaches the host that it is for."""
        if self.role != "connecting" or self.closed:
            return
        target = self.world.host_at(address[0], self.host)
        if target is None or not target.has_power or self.world.is_cut(self.host, target):
            self._knock_again(address, attempt)
            return
        listener = target.listener_at(self.family, address)
        if listener is None:
            self.world.send(target, self.host, self.world.now, self._refused, errno.ECONNREFUSED)
            return
        if len(listener.queue) > listener.backlog:
            self._knock_again(address, attempt)
            return
        server = TcpSocket(target, listener.family, target.next_name())
        server.role = "connected"
        server.keepalive = listener.keepalive
        server.local = self.seen_by(listener, address)
        self.joined(server, address)
        server.joined(self, self.seen_by(listener, self.local))
        listener.queue.append(server)
        target.activity += 1
        listener.touch()
        server._transmit(self._established)

    def seen_by(self, listener: TcpSocket, address: Any) -> Any:
        """Return an `address` of this end's family as `listener` sees it: mapped, where that is of the other one."""
        if listener.family == self.family:
            return address
        return (f"::ffff:{address[0]}", address[1], 0, 0)

    def _knock_again(self, address: Any, attempt: int) -> None:
        waited = float(2**attempt)
        if waited > KERNEL_TIMEOUT:
            self._refused(errno.ETIMEDOUT)
        else:
            self.world.schedule(waited, self._knock, address, attempt + 1)

    def _established(self) -> None:
        if self.closed or self.role != "connecting":
            self._unreachable()
            return
        self.role = "connected"
        self.host.activity += 1
        self.touch()

    def _refused(self, number: int) -> None:
        if self.role == "connecting" and not self.closed:
            self.role = "dead"
            self.eof = True
            self.error = number
            self.host.activity += 1
            self.touch()

    def _forget_listener(self) -> None:
        place = self.family, self.local[1]
        if self.host.listeners.get(place) is self:
            del self.host.listeners[place]


class UdpSocket(File):
    """A datagram socket: what it sends may be lost, doubled or overtaken."""

    __slots__ = ("closed", "error", "family", "local", "queue", "remote")

    def __init__(self, host: Host, family: int, name: str) -> None:
        super().__init__(host, name)
        self.family = family
        self.local: Any = None
        self.remote: Any = None
        self.error = 0
        self.closed = False
        self.queue: deque[tuple[bytes, Any]] = deque()

    def readiness(self) -> int:
        return READ | WRITE if self.queue or self.error else WRITE

    def bind(self, address: Any) -> None:
        """Take a local address."""
        if self.local is not None:
            raise failure(errno.EINVAL)
        host, port = address[:2]
        host = self.host.local_address(host, self.family)
        port = port or self.host.free_port()
        if (self.family, port) in self.host.datagram_ports:
            raise failure(errno.EADDRINUSE)
        self.local = (host, port) if self.family == socket.AF_INET else (host, port, 0, 0)
        self.host.datagram_ports[self.family, port] = self

    def connect(self, address: Any) -> int:
        """Name the one peer; errors that the network reports are told from now on."""
        if self.local is None:
            self.bind(("", 0))
        fault, _ = CONNECT.decode(self.stream.draw(CONNECT))
        if fault is not None and fault.number not in (0, errno.EINTR):  # there is nothing to wait for
            self.host.injected(self.name, CONNECT, fault)
            return fault.number
        self.local = self.host.seen_from(self.local, address)
        self.remote = address
        return 0

    def send(self, data: Any, address: Any = None) -> int:
        """Send one datagram."""
        if self.local is None:
            self.bind(("", 0))
        if address is None:
            address = self.remote
        if address is None:
            raise failure(errno.EDESTADDRREQ)
        if len(data) > LARGEST_DATAGRAM[self.family]:
            raise failure(errno.EMSGSIZE)
        if self.error:
            number, self.error = self.error, 0
            raise failure(number)
        fault, parameter = DATAGRAM.decode(self.stream.draw(DATAGRAM))
        copies, delay = 1, 0.0
        if fault is not None:
            self.host.injected(self.name, DATAGRAM, fault)
            copies = {"lost": 0, "twice": 2}.get(fault.name, 1)
            delay = parameter / 1024 * LONGEST_DELAY if copies == 1 else 0.0
        if self.remote is not None:
            fault, _ = ICMP.decode(self.stream.draw(ICMP))
            if fault is not None:
                self.host.injected(self.name, ICMP, fault)
                self._reported(fault.number)
                copies = 0
        for _ in range(copies):
            self.world.send(self.host, None, self.world.now + delay, self._deliver, bytes(data), address)
        return len(data)

    def receive(self, size: int) -> tuple[bytes, Any, int]:
        """Return the first datagram cut to `size` bytes, where it came from, and its full size."""
        if self.error:
            number, self.error = self.error, 0
            raise failure(number)
        if self.queue:
            data, address = self.queue.popleft()
            return data[:size], address, len(data)
        raise failure(errno.EAGAIN)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.queue.clear()
            if self.local is not None:
                self.host.datagram_ports.pop((self.family, self.local[1]), None)

    abort = vanish = close

    def hears(self, source: Any, address: Any) -> bool:
        """Return whether what comes from `source` for `address` is for this socket: a connected one has one peer."""
        if self.local[0] not in (WILDCARDS[self.family], address[0]):
            return False
        return self.remote is None or bool(self.remote[:2] == source[:2])

    def _reported(self, number: int) -> None:
        """An ICMP message has come: the next call fails."""
        self.error = number
        self.host.activity += 1
        self.touch()

    def _deliver(self, data: bytes, address: Any) -> None:
        local, place = self.local, address
        if address[0].startswith(MAPPED):
            local, place = (WILDCARDS[socket.AF_INET], local[1]), (address[0].removeprefix(MAPPED), address[1])
        target = self.world.host_at(place[0], self.host)
        if target is None or not target.has_power or self.world.is_cut(self.host, target):
            return
        source = self.host.seen_from(local, place)
        receiver = target.receiver_at(socket.AF_INET if len(local) == 2 else socket.AF_INET6, place[1])
        if receiver is not None and len(receiver.local) > len(local):
            source = (MAPPED + source[0], source[1], 0, 0)
        if receiver is None or not receiver.hears(source, place):
            if self.remote is not None and self.remote[:2] == address[:2] and not self.closed:
                self._reported(errno.ECONNREFUSED)  # port unreachable
            return
        if len(receiver.queue) < DATAGRAMS_WAITING:
            receiver.queue.append((data, source))
            target.activity += 1
            receiver.touch()
