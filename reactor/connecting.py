"""Connecting: names resolved off the loop, addresses raced (RFC 8305), and trying again."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

from .addresses import FAMILIES, Address, Endpoint, format_address, numeric, parse_address
from .binding import close_socket, set_stream_options
from .calls import ThreadCall
from .channel import Channel, Origin
from .codecs import Codec, Trust
from .defaults import get_reactor
from .errors import ClosedHere, ConnectError, LocalError, ReactorError
from .eventloop import WRITE, Reactor
from .limits import DEFAULT_LIMITS, Limits
from .sending import STATES
from .states import State, become
from .timers import Timer

ATTEMPT_DELAY = 0.25
"""Seconds from one attempt to the next while none has failed (RFC 8305, section 5)."""

IN_PROGRESS = {0, errno.EINPROGRESS, errno.EINTR}
"""What connect says when it has succeeded, or goes on by itself."""

RETRY_DELAY = 0.05
"""Seconds until the next try when connect says EAGAIN, and goes on with nothing: on Linux the backlog of
a Unix listener is full, or the routing cache is."""

AnyChannel = TypeVar("AnyChannel", bound=Channel)


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait in front of the next connection: exponential, with jitter.

    The wait is drawn evenly from half the present step to all of it, so that a thousand clients of
    one server that restarts do not come back in the same instant.

    Arguments:
        first: the first step, in seconds.
        maximum: the longest step, in seconds.
        factor: each step is so many times the one before it.
        attempts: give up after so many connections in a row that never opened; None for never.
    """

    first: float = 0.1
    maximum: float = 30.0
    factor: float = 2.0
    attempts: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.maximum or not self.factor >= 1 or not math.isfinite(self.maximum):
            raise LocalError(f"{self} makes no sense; it needs 0 < first <= maximum and factor >= 1")

    def delay(self, failures: int, random: Callable[[int], bytes]) -> float:
        """Return the seconds to wait after so many `failures` in a row (0 after one that opened)."""
        step = self.maximum
        if failures < 64:  # a larger power would overflow
            step = min(self.maximum, self.first * self.factor**failures)
        return step * (0.5 + int.from_bytes(random(4), "big") / 2**33)


class Trying(State):
    """The state of one attempt: its socket becomes writable when the connect has succeeded or failed."""

    name = "Connecting"

    def enter(self, channel: Channel) -> None:
        channel._want(WRITE)

    def writable(self, channel: Channel) -> bool:
        assert isinstance(channel, Attempt)
        try:
            number = channel.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as error:  # macOS, where the peer has reset already
            number = error.errno or errno.ECONNRESET
        if number == 0 and not is_connected(channel.socket):
            return False  # woken for nothing: neither an error nor a connection
        channel._connector.attempt_ended(channel, number)
        return True


class Attempt(Channel):
    """One of the sockets that race for a connection."""

    __slots__ = ("_connector",)

    _states: ClassVar[Mapping[str, State]] = {**STATES, "Connecting": Trying()}
    _connector: Connector

    def _cannot_watch(self, error: OSError) -> None:
        self.reactor.hook_soon(self, self._connector.attempt_ended, self, error.errno)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is to be connected, and how: the same for every channel of a reconnecting series."""

    endpoint: Endpoint
    factory: Callable[[], Channel]
    reactor: Reactor
    limits: Limits
    backoff: Backoff | None
    authkey: bytes | None
    codec: str | Codec | None
    minimum_digest: str
    allow_unauthenticated_pickle: bool
    tls: Any

    def make_channel(self, failures: int) -> tuple[Channel, Connector]:
        """Return a new channel that is Connecting, and the connector which is to be started."""
        channel = self.factory()
        if not isinstance(channel, Channel):
            raise LocalError(f"connect needs something that makes channels, not {channel!r}")
        connector = Connector(self, channel, failures)
        codec = getattr(channel, "codec", None)
        if codec is not None:
            connector._trust_for(codec).check(peer_is_this_user=self.endpoint.is_unix)
        elif self.authkey is not None or self.codec is not None:
            raise LocalError(f"{type(channel).__name__} is no Connection: it has no use for an authkey or a codec")
        channel._attach(self.reactor, self.endpoint.location, self.limits, connector)
        become(channel, "connect")
        return channel, connector


class Connector(Origin):
    """Brings one channel into being: the origin of a channel on the connecting side."""

    _role = "client"

    def __init__(self, request: Request, channel: Channel, failures: int) -> None:
        self._causes: list[str] = []
        self._errno: int | None = None
        self._request = request
        self._channel = channel
        self._failures = failures
        self._reactor = request.reactor
        self._addresses: deque[tuple[int, Any]] = deque()
        self._attempts: dict[Attempt, None] = {}  # in their order, so that runs repeat
        self._resolving: ThreadCall | None = None
        self._timer: Timer | None = None
        self._backoff = request.backoff
        if not request.endpoint.is_unix:
            self._host = request.endpoint.location[0] or "localhost"
        if request.tls is not None and request.tls is not False:
            from .tls import tls_for

            self._tls = tls_for(self, request.tls)

    def start(self) -> None:
        """Resolve the name, if there is one, and begin to try."""
        if not self._is_wanted():
            return
        channel = self._channel
        channel._set_deadline(channel.limits.connect_timeout)
        endpoint = numeric(self._request.endpoint)
        if endpoint.family != socket.AF_UNSPEC:
            self._addresses.append((endpoint.family, endpoint.location))
            self._try_next()
            return
        host, port = endpoint.location
        self._resolving = self._reactor.run_in_thread(
            self._reactor.resolver,
            host or "localhost",
            port,
            self._request.endpoint.family,
            socket.SOCK_STREAM,
            on_result=self._resolved,
            on_error=self._not_resolved,
        )

    def attempt_ended(self, attempt: Attempt, number: int) -> None:
        """The connect of `attempt` ended with this error number; 0 is success."""
        self._attempts.pop(attempt, None)
        if not self._is_wanted():
            attempt.close()
            return
        if number == 0:
            self._connected(attempt._take_socket(), attempt.peer)
            return
        self._failed(attempt.peer, os.strerror(number), number)
        attempt.close()
        self._try_next()

    def _trust_for(self, codec: str | Codec) -> Trust:
        request = self._request
        return Trust.of(
            request.codec or codec, request.authkey, request.minimum_digest, request.allow_unauthenticated_pickle
        )

    def _channel_opened(self, channel: Channel) -> None:
        self._failures = 0

    def _channel_ending(self, channel: Channel) -> None:
        self._backoff = None

    def _progress(self) -> str:
        return "; ".join(["tried", *self._causes]) if self._causes else "no address has answered"

    def _channel_closed(self, channel: Channel, reason: ReactorError) -> None:
        self._stop()
        backoff = self._backoff
        if backoff is None or isinstance(reason, ClosedHere) or self._reactor.is_shutting_down:
            return
        if backoff.attempts is not None and self._failures >= backoff.attempts:
            return
        delay = backoff.delay(self._failures, self._reactor.random)
        successor, connector = self._request.make_channel(self._failures + 1)
        connector._timer = self._reactor.call_later(delay, connector.start)
        channel.handle_reconnecting(successor, delay)

    def _is_wanted(self) -> bool:
        """Whether the channel still waits for a connection; it may have been closed in this very turn."""
        return self._channel.state is self._channel._states["Connecting"]

    def _resolved(self, found: list[Any]) -> None:
        self._resolving = None
        if not self._is_wanted():
            return
        self._addresses.extend(interleave([(entry[0], entry[4]) for entry in found]))
        self._try_next()

    def _not_resolved(self, error: BaseException) -> None:
        self._resolving = None
        if not self._is_wanted():
            return
        self._causes.append(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}")
        self._errno = getattr(error, "errno", None)
        self._give_up("cannot resolve the name")

    def _try_next(self) -> None:
        """Try the next address; the one after it gets its turn when this fails, or after a short while."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._addresses:
            wait = self._try(*self._addresses.popleft())
            if wait is not None:
                if self._addresses:
                    self._timer = self._reactor.call_later(wait, self._try_next)
                return
        if not self._attempts:
            self._give_up("cannot connect")

    def _try(self, family: int, location: Any) -> float | None:
        """Begin a connect. Return the seconds to leave it to itself, or None when it has failed."""
        sock = None
        try:
            sock = self._reactor.socket_factory(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            if family != FAMILIES.get("AF_UNIX"):
                set_stream_options(sock)
            number = sock.connect_ex(location)
        except OSError as error:  # out of descriptors; no such family; a path that is too long
            if sock is not None:
                close_socket(sock)
            self._failed(location, error.strerror or str(error), error.errno)
            return None
        if number in IN_PROGRESS:
            # Connected at once or not, the next turn finds it writable: handle_open comes before the first input.
            attempt = Attempt()
            attempt._connector = self
            attempt._attach(self._reactor, location, self._request.limits)
            attempt.socket = sock
            self._attempts[attempt] = None
            try:
                become(attempt, "connect")
            except LocalError as error:  # the descriptor is too large for select
                self._failed(location, str(error), None)
                del self._attempts[attempt]
                attempt.close()
                return None
            return ATTEMPT_DELAY
        close_socket(sock)
        if number == errno.EAGAIN:
            self._addresses.append((family, location))
            return RETRY_DELAY
        self._failed(location, os.strerror(number), number)
        return None

    def _failed(self, location: Any, cause: str, number: int | None) -> None:
        self._errno = number
        self._causes.append(f"{format_address(location)}: {cause}")

    def _connected(self, sock: Any, location: Any) -> None:
        self._stop()
        channel = self._channel
        channel.socket = sock
        if isinstance(location, tuple) and is_connected_with_itself(sock, location):
            # A port of our own that was free a moment ago: TCP connected the socket with itself.
            self._failed(location, os.strerror(errno.ECONNREFUSED), errno.ECONNREFUSED)
            self._give_up("cannot connect")
            return
        channel.peer = location
        channel._start()

    def _give_up(self, what: str) -> None:
        self._channel._fail(ConnectError(f"{what}: {self._request.endpoint}", tuple(self._causes), self._errno))

    def _stop(self) -> None:
        """End whatever is still under way."""
        if self._timer is not None:
            self._timer.cancel()
        if self._resolving is not None:
            self._resolving.cancel()
        for attempt in self._attempts:
            attempt.close()
        self._attempts.clear()
        self._addresses.clear()


def connect(
    address: Address,
    factory: Callable[[], AnyChannel],
    *,
    family: str | None = None,
    authkey: bytes | None = None,
    codec: str | Codec | None = None,
    minimum_digest: str = "md5",
    allow_unauthenticated_pickle: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    reactor: Reactor | None = None,
    reconnect: Backoff | None = None,
    tls: Any = None,
) -> AnyChannel:
    """Return a new channel that connects to `address`; what it sends before it is open waits.

    Names are resolved on a thread. Where a name has several addresses they are raced as RFC 8305 says.

    Arguments:
        address: (host, port), a path, ``tcp://host:port`` or ``unix:///path``.
        factory: called without arguments for the channel; its class, most often.
        family: ``'AF_INET'``, ``'AF_INET6'`` or ``'AF_UNIX'``, to leave the others out.
        authkey: the key that both sides have, in bytes; for channels that are `Connection`.
        codec: see `Connection.codec`; given here it wins.
        minimum_digest: ``"sha256"`` shuts out Python up to 3.11, which knows nothing but MD5.
        allow_unauthenticated_pickle: let whoever answers run code in this process.
        limits: what is granted to the peer.
        reactor: the loop; by default the one of this thread.
        reconnect: make a new channel whenever this one closes, unless this program closed it. Each
            comes from `factory`; the old one hears of it in `handle_reconnecting`.
        tls: True to encrypt, and to believe whom this system believes; a `ClientTls` says more, or an `ssl.SSLContext`.

    Raises:
        AddressError: the address or the family cannot be used here.
        UnsafePickleError: nothing would keep a stranger from sending pickles.
        LocalError: arguments that contradict one another.
        StateError: the reactor is shutting down.
    """
    request = Request(
        parse_address(address, family),
        factory,
        reactor or get_reactor(),
        limits,
        reconnect,
        authkey,
        codec,
        minimum_digest,
        allow_unauthenticated_pickle,
        tls,
    )
    channel, connector = request.make_channel(1)
    request.reactor.hook_soon(channel, connector.start)
    return channel  # type: ignore[return-value]


def is_connected(sock: Any) -> bool:
    """Return whether `sock` has a peer by now."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def is_connected_with_itself(sock: Any, location: Any) -> bool:
    """Return whether `sock`, which is connected to `location`, has that address itself."""
    try:
        return bool(sock.getsockname() == location)
    except OSError:
        return False  # whatever is wrong with it, the next call will say


def interleave(addresses: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Return `addresses` with the families taking turns, the first one's first (RFC 8305, section 4)."""
    first: deque[tuple[int, Any]] = deque()
    others: deque[tuple[int, Any]] = deque()
    for entry in dict.fromkeys(addresses):
        (first if entry[0] == addresses[0][0] else others).append(entry)
    turns = []
    while first or others:
        turns += [queue.popleft() for queue in (first, others) if queue]
    return turns


class Connectable(Channel):
    """A channel that can be at either side: accepted by a listener, or connecting by itself."""

    __slots__ = ()

    @classmethod
    def connect(cls, address: Address, **options: Any) -> Self:
        """Return a new channel of this class that connects to `address`; see `reactor.connect` for the options."""
        return connect(address, cls, **options)
