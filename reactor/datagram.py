"""Datagrams: UDP over IPv4 and IPv6, and Unix datagrams."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Self

from .addresses import FAMILIES, Address, Endpoint, family_name, format_address, numeric, parse_address
from .binding import SocketFile, bind_datagrams, close_socket, connect_datagrams
from .channel import Channel
from .defaults import get_reactor
from .errors import AddressError, ConnectError, LimitError, LocalError, StateError
from .eventloop import Reactor
from .exchanging import DATAGRAM_STATES, DatagramQueue, datagram_lost
from .inheriting import inherited_socket
from .limits import DEFAULT_LIMITS, Limits
from .multicast import join_group, leave_group, set_multicast
from .states import State, become

log = logging.getLogger("reactor")

LARGEST = {socket.AF_INET: 65507, socket.AF_INET6: 65527}
"""Bytes in a datagram of UDP: 65,535 without the header of UDP and, for IPv4, that of IP (RFC 768, RFC 8200)."""

OVERHEAD = 200
"""Bytes that a datagram which waits costs beside its own, about: else a queue of empty ones had no bound."""

TARGETS = 1000
"""Addresses that a channel remembers as checked."""


class Datagram(Channel):
    """A channel for datagrams: write `handle_datagram`, call `send_to`. Made by `bind` or by `connect`.

    It is open until this program closes it: no peer can, and no error about one datagram does.

    Attributes:
        address: its own, as the socket module writes it; None until it is open.
        peer: the one address that a connected one talks to, else None.
    """

    __slots__ = ("_file", "_queue", "_targets", "address")

    _states: ClassVar[Mapping[str, State]] = DATAGRAM_STATES

    _queue: DatagramQueue
    _targets: dict[Any, Any]
    _file: SocketFile | None
    address: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._queue = self._output = DatagramQueue()  # type: ignore[assignment]
        self._targets = {}
        self._file = self.address = None
        return self

    @classmethod
    def bind(
        cls,
        address: Address,
        factory: Callable[[], Self] | None = None,
        *,
        family: str | None = None,
        broadcast: bool = False,
        reuse_port: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        reactor: Reactor | None = None,
    ) -> Self:
        """Return a new channel that receives what anybody sends to `address`.

        Arguments:
            address: (host, port), a path, ``udp://host:port`` or ``unix:///path``. Port 0 lets the system
                choose; the host ``""`` means every address of the machine, of IPv4 and IPv6. A socket that systemd
                passes for this address is used, as by a `Listener`.
            factory: called without arguments for the channel; by default this class.
            family: ``'AF_INET'``, ``'AF_INET6'`` or ``'AF_UNIX'``, where the form of the address leaves it open.
            broadcast: allow sending to broadcast addresses (SO_BROADCAST); only IPv4 has them.
            reuse_port: let several sockets have the port (SO_REUSEPORT): for multicast, or several processes.
            limits: of them, `maximum_datagram`, `maximum_output` and `drain_timeout` matter here.
            reactor: the loop; by default the one of this thread.

        Raises:
            AddressError: the address or the family cannot be used here.
            AddressInUseError: somebody has it already.
            StateError: the reactor is shutting down.
            OSError: the operating system refused; its message is unchanged.
        """
        loop = reactor or get_reactor()
        channel = (factory or cls)()
        sock, file = inherited_socket(address, socket.SOCK_DGRAM), None
        if sock is None:
            endpoint = parse_address(address, "AF_INET" if broadcast and family is None else family, "udp")
            sock, file = bind_datagrams(endpoint, loop.socket_factory, loop.resolver, broadcast, reuse_port)
        try:
            own = sock.getsockname()
            channel._attach(loop, None, limits)
        except BaseException:
            close_socket(sock)
            if file is not None:
                file.remove()
            raise
        channel._file = file
        become(channel, "connect")
        channel._opens_with(sock, own)
        return channel

    @classmethod
    def connect(
        cls,
        address: Address,
        factory: Callable[[], Self] | None = None,
        *,
        family: str | None = None,
        broadcast: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        reactor: Reactor | None = None,
    ) -> Self:
        """Return a new channel that sends to `address`, and hears nobody else.

        Only such a channel is told by the system when nobody listens there (ICMP). A name is resolved on a thread;
        what is sent meanwhile waits. On Linux a Unix one gets an address of its own, to which the peer can answer.

        Arguments:
            address: (host, port), a path, ``udp://host:port`` or ``unix:///path``.
            factory: called without arguments for the channel; by default this class.
            family: ``'AF_INET'``, ``'AF_INET6'`` or ``'AF_UNIX'``, to leave the others out.
            broadcast: allow a broadcast address (SO_BROADCAST).
            limits: of them, `maximum_datagram`, `maximum_output`, `connect_timeout` and `drain_timeout` matter here.
            reactor: the loop; by default the one of this thread.

        Raises:
            AddressError: the address or the family cannot be used here.
            StateError: the reactor is shutting down.
        """
        loop = reactor or get_reactor()
        channel = (factory or cls)()
        endpoint = parse_address(address, family, "udp")
        channel._attach(loop, endpoint.location, limits)
        channel._targets[None] = None
        become(channel, "connect")
        loop.hook_soon(channel, channel._resolve, endpoint, broadcast)
        return channel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _name(self) -> str:
        if self.peer is not None or self.address is None:
            return super()._name
        return f"{type(self).__name__} on {format_address(self.address)}"

    # What a subclass writes

    def handle_datagram(self, data: bytes, address: Any) -> None:
        """A datagram came in. By default it is dropped, with a line in the log.

        Arguments:
            data: what is in it; perhaps nothing.
            address: where it came from, as the socket module writes it; None for a Unix socket without a name.
        """
        log.warning("%s: a datagram came in, and handle_datagram is not written", self)

    def handle_error(self, error: Exception) -> None:
        """Something went wrong. By default it is logged, and the channel closes only if a hook raised.

        Arguments:
            error: a `DatagramError` or a `LimitError` when datagrams are lost: the channel goes on. Or what one of
                your hooks raised: the channel closes if you say so with `close`.
        """
        super().handle_error(error)

    # What a subclass calls

    def send_to(self, data: Any, address: Any = None) -> bool:
        """Send a datagram: now, or when the socket takes it. It may be lost, as any datagram.

        Arguments:
            data: a bytes-like object.
            address: where to, as the socket module writes it, with a number for the host; None for the
                peer of a connected channel. So what `handle_datagram` was given will do.
        Returns: False if it is dropped: so much waits already, the system refuses it, or the channel closes.
        Raises:
            AddressError: `address` is a name, none at all, or of another family.
            LocalError: no datagram can be as large as `data`.
            StateError: the channel has no socket yet, and `address` is not its peer.
        """
        try:
            target = self._targets[address]
        except (KeyError, TypeError):
            target = self._check_target(address)
        if self._queue or not self.state.reads:
            return self._enqueue(data, target)
        try:
            self._send_now(data, target)
        except OSError as error:
            size = memoryview(data).nbytes
            if error.errno == errno.EMSGSIZE and size > LARGEST.get(self.socket.family, 0):  # else it is from ICMP
                raise too_large(size) from None
            if self._can_wait(error, target):
                return self._enqueue(data, target)
            self.reactor.hook_soon(self, self._report, datagram_lost(error, target, self.peer))
            return False
        return True

    def push(self, data: Any) -> None:
        """Send a datagram to the peer of a connected channel; see `send_to`."""
        self.send_to(data)

    def join_group(self, group: str, interface: str | None = None) -> None:
        """Receive what is sent to a multicast `group`, too.

        Arguments:
            group: its address, a number of IPv4 or IPv6.
            interface: the name of the network interface, ``"eth0"`` for example; the system chooses by default.
        Raises:
            AddressError: this is no group, or none for a socket of this family.
            LocalError: there is no such interface.
            StateError: the channel has no socket yet, or is closed.
            OSError: the operating system refused; the group is joined already, for one.
        """
        join_group(self._usable_socket, group, interface)

    def leave_group(self, group: str, interface: str | None = None) -> None:
        """Undo `join_group`, with the same arguments. To close does so as well."""
        leave_group(self._usable_socket, group, interface)

    def set_multicast(self, *, interface: str | None = None, hops: int = 1, loopback: bool = True) -> None:
        """Say how datagrams to multicast groups leave.

        Arguments:
            interface: the name of the network interface that they leave by; the system chooses by default.
            hops: how many routers pass them on, at the most, and one; 1 stays in the local network.
            loopback: whether programs of this machine that have joined receive them too.
        Raises:
            LocalError: there is no such interface; or `hops` is no number from 0 to 255; or it is a Unix socket.
            StateError: the channel has no socket yet, or is closed.
            OSError: the operating system refused.
        """
        set_multicast(self._usable_socket, interface, hops, loopback)

    # For the states

    def _send_now(self, data: Any, address: Any) -> None:
        if address is not None:
            self.socket.sendto(data, address)
            return
        try:
            self.socket.send(data)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            self.socket.connect(self.peer)  # Linux has forgotten a Unix peer that was gone; it may be back
            self.socket.send(data)

    def _can_wait(self, error: OSError, address: Any) -> bool:
        """Whether the socket will say when it takes this datagram after all."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            return False
        # What is full is the receiver's queue, if it is not this socket: and about that poll(2) says nothing.
        return address is None or self.socket.family != FAMILIES.get("AF_UNIX")

    def _enqueue(self, data: Any, address: Any) -> bool:
        queue, limit = self._queue, self.limits.maximum_output
        if self._is_ending:
            return False
        if type(data) is not bytes:
            data = memoryview(data).tobytes()
        size = len(data)
        if self.socket is not None and size > LARGEST.get(self.socket.family, size):
            raise too_large(size)
        if queue.size + size + OVERHEAD * len(queue) > limit:
            queue.refused += 1
            if queue.refused == 1:
                error = LimitError(
                    f"{len(queue)} datagrams of {queue.size} bytes wait, the next ones are dropped; "
                    f"the limit is {limit} (maximum_output)",
                    "maximum_output",
                )
                self.reactor.hook_soon(self, self._report, error)
            return False
        queue.add(data, address)
        if len(queue) == 1:
            self.reactor.flush_soon(self)
        return True

    def _check_target(self, address: Any) -> Any:
        """Return what the socket takes for `address`, and remember it."""
        if self.socket is None:
            if self._is_ending:
                return None  # the datagram will be dropped
            raise StateError(f"{self}: it has no socket yet; until then a connected one can send to its peer alone")
        target = target_of(address, self.socket.family)
        if len(self._targets) >= TARGETS:
            self._targets = {None: None} if self.peer is not None else {}
        self._targets[address] = target
        return target

    @property
    def _is_ending(self) -> bool:
        """Whether it closes, or is closed: it takes no datagrams any more."""
        return hasattr(self, "_reason") or self.state is self._states["Closed"]

    @property
    def _usable_socket(self) -> Any:
        if self.socket is None:
            raise StateError(f"{self}: it has no socket")
        return self.socket

    # The way to Open

    def _resolve(self, endpoint: Endpoint, broadcast: bool) -> None:
        """Connect to `endpoint`: at once, or when a thread has found the addresses of its name."""
        known = numeric(endpoint)
        if known.family != socket.AF_UNSPEC:
            self._connect_to_first([known], broadcast)
            return
        self._set_deadline(self.limits.connect_timeout)
        host, port = known.location

        def resolved(found: list[Any]) -> None:
            self._connect_to_first([Endpoint(entry[0], entry[4]) for entry in found], broadcast)

        def not_resolved(error: BaseException) -> None:
            cause = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self._give_up_connecting(f"cannot resolve the name: {endpoint}", (cause,))

        self.reactor.run_in_thread(
            self.reactor.resolver,
            host or "localhost",
            port,
            endpoint.family,
            socket.SOCK_DGRAM,
            on_result=resolved,
            on_error=not_resolved,
        )

    def _connect_to_first(self, endpoints: list[Endpoint], broadcast: bool) -> None:
        """Take the first address with which the system is content."""
        if self.state is not self._states["Connecting"]:
            return
        causes = []
        for endpoint in endpoints:
            try:
                sock, own = connect_datagrams(endpoint, self.reactor.socket_factory, broadcast)
            except OSError as error:
                causes.append(f"{endpoint}: {error.strerror or error}")
            else:
                self.peer = endpoint.location
                self._opens_with(sock, own)
                return
        self._give_up_connecting("cannot connect", tuple(causes))

    def _give_up_connecting(self, what: str, causes: tuple[str, ...]) -> None:
        if self.state is self._states["Connecting"]:
            self._fail(ConnectError(what, causes))

    def _opens_with(self, sock: Any, own: Any) -> None:
        self.socket = sock
        self.address = own
        self._set_deadline(None)
        # Not now: handle_open comes before the first input.
        self.reactor.hook_soon(self, self._enter)

    def _enter(self) -> None:
        try:
            become(self, "open")
        except LocalError as error:  # the descriptor is too large for select
            self._fail(error)
            return
        if self._is_ending:
            self.state.drain(self, self._reason)
        elif self._queue:
            self.reactor.flush_soon(self)
        self.handle_open()

    def _finish(self) -> None:
        if self._file is not None:
            self._file.remove()
        super()._finish()


def too_large(size: int) -> LocalError:
    """Return the error for data of `size` bytes, which fits into no datagram."""
    return LocalError(f"{size} bytes are more than a datagram can hold here")


def target_of(address: Any, family: int) -> Any:
    """Return what a socket of `family` takes for `address`.

    Raises:
        AddressError: it is a name, which sendto would wait for; or of another family; or no address.
    """
    if family == FAMILIES.get("AF_UNIX"):
        # Taken as it is: a peer chooses its path, and can choose one that looks like a URL. One without a name
        # cannot be answered; that is its fault, and no error of the program that tries.
        if address is None or isinstance(address, str | bytes):
            return address or ""
        raise AddressError(f"{address!r} is no address of a Unix socket; give a path")
    if address is None:
        raise AddressError("the channel is not connected, so send_to needs an address")
    endpoint = numeric(parse_address(address, scheme="udp"))
    if endpoint.family == socket.AF_UNSPEC:
        raise AddressError(
            f"{endpoint} is a name; send_to takes numbers, because to resolve a name takes time: "
            "use connect(), or run_in_thread(socket.getaddrinfo, ...)"
        )
    if endpoint.family == socket.AF_INET and family == socket.AF_INET6:
        return "::ffff:" + endpoint.location[0], endpoint.location[1]
    if endpoint.family != family:
        raise AddressError(f"{endpoint} is no address of {family_name(family)}, as those of this socket are")
    return endpoint.location
