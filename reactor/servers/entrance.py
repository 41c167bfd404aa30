"""How a request comes in: a listener that asks the server's `get_request`, and a channel that keeps its place."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..addresses import Description, family_name, format_address
from ..binding import SHORTAGES
from ..blocking.guests import AuthenticatingExactly
from ..channel import Channel
from ..connection import Connection
from ..errors import ClosedHere, LimitError, ReactorError
from ..eventloop import READ, WRITE, Reactor
from ..listener import Listener
from ..sending import Open
from ..states import State

if TYPE_CHECKING:
    import ssl

    from ..proxying import ProxyHeader
    from .service import Service

log = logging.getLogger("reactor")

OURS = SHORTAGES | {errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP}
"""What accept says when something is wrong on this side: anything else is about the one peer."""


class Accepted:
    """What `get_request` gave, with the face of a socket, until a channel takes it.

    Arguments:
        request: what it gave: a socket, most often.
        address: the address of the client, as it gave that.
    """

    def __init__(self, request: Any, address: Any) -> None:
        self.request = request
        self.address = address

    def setblocking(self, flag: bool) -> None:
        """Leave it as it is: whoever wrote `get_request` may have set a timeout."""

    def close(self) -> None:
        """Close it, if it can be closed."""
        if hasattr(self.request, "close"):
            self.request.close()


class Door:
    """Stands for the socket of a listener: to accept is to ask the server, which opens once in a turn of the loop.

    That is what a `get_request` expects that somebody has written: somebody is there, and it is called once.
    """

    def __init__(self, service: Service, reactor: Reactor) -> None:
        self._service = service
        self._server = service.server
        self._reactor = reactor
        self._turn = -1

    def fileno(self) -> int:
        """Return the descriptor of the server."""
        number: int = self._server.fileno()
        return number

    def accept(self) -> tuple[Accepted, Any]:
        """Return what the server's `get_request` returns.

        Raises:
            BlockingIOError: nobody is there; or this turn has had its request.
            OSError: what is wrong on this side; what is wrong with one peer is a ConnectionAbortedError.
        """
        if self._turn == self._reactor.turns:
            raise BlockingIOError
        self._turn = self._reactor.turns
        try:
            request, address = self._server.get_request()
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            if error.errno in OURS:
                raise
            log.info("%s: somebody could not be accepted: %s", type(self._server).__name__, error)
            raise ConnectionAbortedError(errno.ECONNABORTED, str(error)) from None
        return Accepted(request, address), address

    def close(self) -> None:
        """Close the socket of the server, unless handlers may still answer datagrams with it."""
        if not self._service.takes_datagrams:
            self._server.socket.close()


class Arriving(Open):
    """The handshakes are done. What they have left to say goes out, then the server gets the request.

    From then on the channel has no socket, and keeps the place of the request within the limits until that is done.
    """

    reads = 0

    def enter(self, channel: Channel) -> None:
        channel._want(channel._interest & WRITE)

    def readable(self, channel: Channel) -> bool:
        assert isinstance(channel, Request)
        channel._arrive()
        return True

    def shutdown(self, channel: Channel) -> None:
        if channel.socket is not None and not channel._output:
            State.shutdown(self, channel)


class Request(Connection):
    """A channel that leads a request through its handshakes to the server, and then keeps its place.

    Attributes:
        address: the address of the client, as the server will be told.
    """

    __slots__ = ("_raw", "_reference", "_timeout", "_trailing", "address")

    codec = "bytes"
    _shares_tls_buffers = False  # the handler may run in another thread than the reactor
    _states: ClassVar[Mapping[str, State]] = {
        **Connection._states,
        "Authenticating": AuthenticatingExactly(),
        "Open": Arriving(),
    }

    _origin: Entrance | None

    def __init__(self) -> None:
        self.address: Any = None
        self._trailing = b""
        self._timeout: float | None = None
        self._raw: Any = None
        self._reference: Callable[[], Any] | None = None

    @property
    def has_arrived(self) -> bool:
        """Whether the server has the request."""
        return self._reference is not None

    @property
    def tls(self) -> ssl.SSLObject | None:
        # Somebody's get_request may return a socket with TLS of its own.
        return None if self._origin is None or self._origin._tls is None else super().tls

    @property
    def _is_unfinished(self) -> bool:
        return self.has_arrived

    def handle_open(self) -> None:
        if not self._output:
            self._get_ready()

    def handle_drained(self) -> None:
        self._get_ready()

    def handle_close(self, reason: ReactorError) -> None:
        if self._reference is None or isinstance(reason, ClosedHere):
            return
        raw = self._reference()
        if raw is not None:  # cut off: a handler that waits for the peer has to hear of it
            with contextlib.suppress(OSError, AttributeError):
                raw.shutdown(socket.SHUT_RDWR)

    def take(self, accepted: Accepted, has_handshake: bool) -> None:
        """Take what was accepted; make it nonblocking if there is a handshake to be made."""
        self.socket = self._raw = accepted.request
        self.address = accepted.address
        if has_handshake:
            self._timeout = self.socket.gettimeout()
            self.socket.setblocking(False)

    def _authenticated(self, trailing: bytes) -> None:
        self._trailing = trailing
        super()._authenticated(b"")

    def _get_ready(self) -> None:
        """Nothing is left to be said here: hand the request out, now or when the client has spoken."""
        if self.has_arrived:
            return
        assert self._origin is not None
        if not self._origin.service.client_speaks_first or self._trailing or self._has_input:
            self._arrive()
        elif self._is_let_in():
            self._want(READ)

    def _arrive(self) -> None:
        entrance, session = self._origin, self.tls
        assert entrance is not None
        entrance._channel_opened(self)
        self._want(0)
        self._set_deadline(None)
        request, self.socket = self.socket, None
        if session is not None:
            from .encrypted import EncryptedSocket

            request.leave_channel()
            request = EncryptedSocket(request, self._trailing, self._timeout, self.limits.drain_timeout)
        elif entrance.has_handshake:
            request.settimeout(self._timeout)
        with contextlib.suppress(TypeError):  # somebody's get_request may return anything
            self._reference = weakref.ref(self._raw)
        self._reference = self._reference or nothing
        self._raw = None
        entrance.service.deliver(request, self.address, self)


def nothing() -> None:
    """Stand for a reference to what cannot be referred to."""


class Entrance(Listener):
    """Accepts for a server, within the limits.

    Arguments:
        service: what the requests are delivered to.
        options: those of `Listener`, without an address.
    """

    __slots__ = ("has_handshake", "service")

    def __init__(self, service: Service, **options: Any) -> None:
        self.service = service
        self.has_handshake = any(options.get(name) is not None for name in ("authkey", "tls", "proxies"))
        super().__init__(factory=Request, **options)

    @property
    def _name(self) -> str:
        return f"{type(self.service.server).__name__} on {format_address(self.address)}"

    def handle_accepted(self, channel: Channel) -> None:
        assert isinstance(channel, Request)
        channel.take(channel.socket, self.has_handshake)

    def handle_introduced(self, channel: Channel, header: ProxyHeader) -> None:
        assert isinstance(channel, Request)
        if header.source is not None:
            channel.address = channel.peer

    def _adopt(self, sock: Any, peer: Any) -> None:
        if self.service.takes_datagrams:
            self.reactor.hook_soon(self, self.service.deliver, sock.request, peer)
        elif isinstance(peer, tuple) and not isinstance(peer[0], str):  # of a family that has no hosts: AF_VSOCK
            super()._adopt(sock, Description(peer))
        else:
            super()._adopt(sock, peer)

    def _make_room(self, limit: str, value: int) -> None:
        oldest = next(iter(self._unauthenticated))
        if oldest.state.name == "Open":
            del self._unauthenticated[oldest]
            what = "has said nothing, and the next one needs the place"
            oldest._fail(LimitError(f"the peer {what}: {value} ({limit})", limit))
        else:
            super()._make_room(limit, value)

    def _bind(self, address: Any, family: Any, reuse_port: bool, reactor: Reactor, sock: Any) -> bool:
        server = self.service.server
        self.socket = Door(self.service, reactor)
        self.address = server.server_address
        self.family = family_name(server.address_family)
        return self.family == "AF_UNIX"
