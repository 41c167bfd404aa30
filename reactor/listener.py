"""Listeners: a socket that accepts, within its limits, whatever the operating system says."""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .addresses import Address, Endpoint, family_name, format_address, parse_address
from .binding import SocketFile, bind_inet, bind_unix, close_socket, fastest_endpoint, set_stream_options
from .channel import Channel, Origin
from .codecs import Codec, Trust
from .defaults import get_reactor
from .errors import LimitError, LocalError, ReactorError, RemoteError
from .eventloop import READ, Reactor
from .inheriting import inherited_socket
from .introducing import Introduction
from .limits import ACCEPTS_PER_TURN, DEFAULT_LIMITS, Limits
from .sending import STATES
from .states import State, become

if TYPE_CHECKING:
    from .proxying import Proxies, ProxyHeader

log = logging.getLogger("reactor")

PAUSE_AFTER_ERROR = 0.1
"""Seconds without accepting once the descriptors, or the kernel's buffers, have run out."""

PEER_ERRORS = {
    getattr(errno, name)
    for name in (
        "ECONNABORTED", "ECONNRESET", "EINTR", "EPERM", "EPROTO", "ENOPROTOOPT", "ENETDOWN", "ENETUNREACH",
        "EHOSTDOWN", "EHOSTUNREACH", "ENONET", "ETIMEDOUT",
    )
    if hasattr(errno, name)
}  # fmt: skip
"""What accept reports about one peer that is gone already; the next one may be well (accept(2))."""


class Listening(State):
    name = "Listening"
    reads = READ

    def enter(self, channel: Channel) -> None:
        channel._want(READ)

    def readable(self, channel: Channel) -> bool:
        assert isinstance(channel, Listener)
        return channel._accept_some()

    def pause(self, channel: Channel) -> None:
        become(channel, "pause")


class Full(State):
    name = "Full"

    def enter(self, channel: Channel) -> None:
        channel._want(0)

    def pause(self, channel: Channel) -> None:
        become(channel, "pause")

    def relieved(self, channel: Channel) -> None:
        become(channel, "resume")


class Resting(State):
    name = "Resting"

    def enter(self, channel: Channel) -> None:
        channel._want(0)

    def pause(self, channel: Channel) -> None:
        channel._set_deadline(None)  # what was a rest of its own accord is a pause now

    def resume(self, channel: Channel) -> None:
        channel._set_deadline(None)
        become(channel, "resume")

    def expired(self, channel: Channel) -> None:
        become(channel, "resume")


class Listener(Channel, Origin):
    """Accepts connections, and makes a channel for each.

    Arguments:
        address: (host, port), a path, or a URL. Port 0 lets the system choose; the host ``""`` means
            every address of the machine, of IPv4 and IPv6. None picks a Unix socket of its own, in a
            directory that only this user can enter, or a port on localhost where there are none.
            A socket that systemd passes for this address is used; the name that its unit gives it
            is an address as well, and so is ``fd://3``, for an inherited descriptor.
        factory: called without arguments for each connection; the channel's class, most often.
        family: ``'AF_INET'``, ``'AF_INET6'`` or ``'AF_UNIX'``, where the form of the address leaves it open.
        backlog: connections that the kernel holds for us at the most.
        authkey: the key that peers must have, in bytes; for channels that are `Connection`.
        codec: see `Connection.codec`; given here it wins.
        minimum_digest: ``"sha256"`` shuts out Python up to 3.11, which knows nothing but MD5.
        allow_unauthenticated_pickle: let anybody who can connect run code in this process.
        limits: what is granted to the peers.
        reactor: the loop; by default the one of this thread.
        sock: a socket that is bound already, instead of an address. It belongs to the listener then.
        reuse_port: let several processes listen on the same port (SO_REUSEPORT).
        tls: two files, (certificate, key), to encrypt all connections; a `ServerTls` says more, or an `ssl.SSLContext`.
        proxies: hosts and networks whose connections begin with a header of the PROXY protocol, version 1 or 2, which
            says who the peer is: ``["127.0.0.1", "10.0.0.0/8"]``; ``"unix"`` stands for all peers of a Unix socket.
            Those of others are served as they are.

    Raises:
        AddressError: the address or the family cannot be used here.
        AddressInUseError: somebody alive listens there already.
        UnsafePickleError: nothing would keep strangers from sending pickles.
        LocalError: arguments that contradict one another.
        StateError: the reactor is shutting down.
        OSError: the operating system refused; its message is unchanged.
    """

    __slots__ = (
        "_checks", "_file", "_options", "_peers", "_proxies", "_tls", "_troubled", "_trust", "_unauthenticated",
        "address", "backlog", "connections", "factory", "family", "last_accepted", "reuse_port",
    )  # fmt: skip

    _states: ClassVar[Mapping[str, State]] = {**STATES, "Listening": Listening(), "Full": Full(), "Resting": Resting()}

    def __init__(
        self,
        address: Address | None = None,
        factory: Callable[[], Channel] | None = None,
        *,
        family: str | None = None,
        backlog: int = 1024,
        authkey: bytes | None = None,
        codec: str | Codec | None = None,
        minimum_digest: str = "md5",
        allow_unauthenticated_pickle: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        reactor: Reactor | None = None,
        sock: socket.socket | None = None,
        reuse_port: bool = False,
        tls: Any = None,
        proxies: Iterable[str] | None = None,
    ) -> None:
        if not callable(factory):
            raise LocalError(f"a listener needs to know what to make of a connection: a class, not {factory!r}")
        if sock is not None and address is not None:
            raise LocalError("a listener takes an address or a socket, not both")
        self.factory = factory
        self.backlog = backlog
        self.reuse_port = reuse_port
        self.last_accepted: Any = None
        self.connections = 0
        self._troubled = False
        self._trust: dict[Any, Trust] = {}
        self._options = (authkey, codec, minimum_digest, allow_unauthenticated_pickle)
        self._peers: Counter[str] = Counter()
        self._unauthenticated: OrderedDict[Channel, None] = OrderedDict()
        self._file: SocketFile | None = None
        self._tls = None
        if tls is not None and tls is not False:
            from .tls import tls_for

            self._tls = tls_for(self, tls)
        self._checks: set[Channel] = set()
        self._proxies: Proxies | None = None
        if proxies is not None:
            from .proxying import Proxies

            self._proxies = Proxies(proxies)
        reactor = reactor or get_reactor()
        try:
            is_unix = self._bind(address, family, reuse_port, reactor, sock)
            self._check_trust(is_unix)
            self._attach(reactor, self.address, limits)
            become(self, "listen")
        except BaseException:
            self._give_back()
            raise

    @property
    def _name(self) -> str:
        """The listener's class and its address, for people."""
        return f"{type(self).__name__} on {format_address(self.address)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def handle_accepted(self, channel: Channel) -> None:
        """A connection was accepted, and neither authenticated nor open yet; `channel.close()` refuses it."""

    def handle_introduced(self, channel: Channel, header: ProxyHeader) -> None:
        """A proxy has said who the peer of `channel` is, and more perhaps; `channel.close()` refuses it.

        Arguments:
            header: what it has said. Where there is no ``source`` in it, `channel.peer` is the proxy.
        """

    def handle_error(self, error: Exception) -> None:
        """Something went wrong; the listener goes on. By default it is logged."""
        log.error("%s: %s: %s", self, type(error).__name__, error, exc_info=error)

    def pause(self) -> None:
        """Accept nothing until `resume`; the kernel keeps who comes, up to `backlog`.

        Raises:
            StateError: the listener is closed.
        """
        self.state.pause(self)

    def resume(self) -> None:
        """Accept again."""
        self.state.resume(self)

    # For the state and for the channels that were accepted

    def _accept_some(self) -> bool:
        """Accept who is there, within the limits. Return whether there was progress."""
        limits = self.limits
        progress = False
        for _ in range(ACCEPTS_PER_TURN):
            if self.connections >= limits.maximum_connections and not self._unauthenticated:
                log.warning("%s: %d connections (maximum_connections); the next ones wait", self, self.connections)
                become(self, "fill")
                return True
            try:
                sock, peer = self.socket.accept()
            except (BlockingIOError, InterruptedError):
                return progress
            except OSError as error:
                progress = True
                if error.errno in PEER_ERRORS:
                    continue
                self._rest(error)
                return True
            progress = True
            if self._troubled:
                self._troubled = False
                log.warning("%s: accepting again", self)
            try:
                self._adopt(sock, peer)
            except Exception as error:
                close_socket(sock)
                self._hook_failed(error)
            if self.state is not self._states["Listening"]:  # handle_accepted closed or paused it
                return True
        return progress

    def _channel_authenticating(self, channel: Channel) -> None:
        if channel in self._unauthenticated:
            return
        if len(self._unauthenticated) >= self.limits.maximum_unauthenticated:
            self._make_room("maximum_unauthenticated", self.limits.maximum_unauthenticated)
        self._unauthenticated[channel] = None

    def _channel_introduced(self, channel: Channel, header: ProxyHeader) -> None:
        from .proxying import speaks_for_itself

        if speaks_for_itself(header, channel.peer):
            self._checks.add(channel)
        if header.source is not None:
            self._count_out(channel)
            channel.peer = self.last_accepted = with_shared_host(header.source)
            count = self._count_in(channel)
            if count > self.limits.maximum_connections_per_peer:
                limit = "maximum_connections_per_peer"
                channel._fail(LimitError(f"this host has {count - 1} connections already ({limit})", limit))
                return
        try:
            self.handle_introduced(channel, header)
        except Exception as error:
            self._hook_failed(error)
            channel.close(error)
        if channel.state is channel._states["Introducing"]:
            channel._start()

    def _is_expected(self, channel: Channel, error: ReactorError) -> bool:
        # A proxy that looks whether this server is well leaves as soon as it knows, in the middle of whatever it is.
        return channel in self._checks and isinstance(error, RemoteError)

    def _channel_opened(self, channel: Channel) -> None:
        self._unauthenticated.pop(channel, None)

    def _trust_for(self, codec: str | Codec) -> Trust:
        authkey, chosen, minimum_digest, allow = self._options
        key = codec if isinstance(codec, str) else id(codec)
        if key not in self._trust:
            trust = Trust.of(chosen or codec, authkey, minimum_digest, allow)
            if self._proxies is not None and self._proxies.include_unix:
                trust.check(peer_is_this_user=False)  # the proxy may be this user: those behind it are anybody
            self._trust[key] = trust
        return self._trust[key]

    def _channel_closed(self, channel: Channel, reason: ReactorError) -> None:
        self._unauthenticated.pop(channel, None)
        self._checks.discard(channel)
        self.connections -= 1
        self._count_out(channel)
        self.state.relieved(self)

    def _finish(self) -> None:
        self._remove_file()
        super()._finish()

    def _adopt(self, sock: socket.socket, peer: Any) -> None:
        limits = self.limits
        is_proxy = self._proxies is not None and peer in self._proxies
        if isinstance(peer, tuple) and not is_proxy:
            peer = with_shared_host(peer)
            count = self._peers[peer[0]]
            if count >= limits.maximum_connections_per_peer:
                close_socket(sock)
                log.warning("%s: %s has %d connections (maximum_connections_per_peer); one more was refused",
                            self, format_address(peer), count)  # fmt: skip
                return
        if self.connections >= limits.maximum_connections:
            self._make_room("maximum_connections", limits.maximum_connections)
        sock.setblocking(False)
        channel = self.factory()
        if not isinstance(channel, Channel):
            raise LocalError(f"the factory of a listener makes channels, not {channel!r}")
        channel._attach(self.reactor, peer or self.address, limits, self)
        channel.socket = sock
        self.connections += 1
        self._count_in(channel)
        self.last_accepted = peer
        try:
            self.handle_accepted(channel)
        except Exception as error:
            self._hook_failed(error)
            channel.close(error)
        if channel.state is channel._states["New"]:
            if is_proxy:
                self._await_introduction(channel)
            else:
                channel._start()

    def _await_introduction(self, channel: Channel) -> None:
        from .proxying import HeaderDecoder

        channel.socket = Introduction(channel.socket, HeaderDecoder(self.limits.maximum_proxy_header))
        if channel._is_let_in():
            become(channel, "introduce")

    def _count_in(self, channel: Channel) -> int:
        """`channel` is one more of its host; return how many those are."""
        if not isinstance(channel.peer, tuple):
            return 0
        self._peers[channel.peer[0]] += 1
        return self._peers[channel.peer[0]]

    def _count_out(self, channel: Channel) -> None:
        """`channel` is no longer one of its host."""
        if isinstance(channel.peer, tuple):
            host = channel.peer[0]
            self._peers[host] -= 1
            if not self._peers[host]:
                del self._peers[host]

    def _rest(self, error: OSError) -> None:
        """Leave accept alone for a moment; say so once, however often it fails in a row."""
        if not self._troubled:
            self._troubled = True
            log.error("%s: accept failed: %s; trying every %g s", self, error.strerror, PAUSE_AFTER_ERROR)
        become(self, "pause")
        self._set_deadline(PAUSE_AFTER_ERROR)

    def _cannot_watch(self, error: OSError) -> None:
        self.reactor.hook_soon(self, self._rest_unwatched, error)

    def _rest_unwatched(self, error: OSError) -> None:
        if self.state is self._states["Listening"]:  # nobody has paused it meanwhile
            self._rest(error)

    def _make_room(self, limit: str, value: int) -> None:
        """Close the peer that has been in the handshake for longest: silence must lock nobody out."""
        oldest, _ = self._unauthenticated.popitem(last=False)
        if oldest.state.name in ("Introducing", "Securing", "Authenticating"):
            oldest._fail(
                LimitError(f"still in the handshake, and the next one needs the place: {value} ({limit})", limit)
            )
        else:
            oldest.close()  # refused already, and said so

    def _bind(
        self,
        address: Address | None,
        family: str | None,
        reuse_port: bool,
        reactor: Reactor,
        sock: socket.socket | None,
    ) -> bool:
        directory = None
        if sock is None and address is not None:
            sock = inherited_socket(address)
        if sock is not None:
            endpoint = Endpoint(sock.family, sock.getsockname())
            if not endpoint.is_unix:
                set_stream_options(sock)
            sock.setblocking(False)
            sock.listen(self.backlog)
        elif address is None and family in (None, "AF_UNIX"):
            endpoint, directory = fastest_endpoint()
        else:
            endpoint = parse_address(("localhost", 0) if address is None else address, family)
        if sock is None and endpoint.is_unix:
            try:
                sock = bind_unix(endpoint, reactor.socket_factory, self.backlog)
            except BaseException:
                if directory is not None:
                    os.rmdir(directory)
                raise
            if not endpoint.is_abstract:
                self._file = SocketFile(endpoint.location, directory)
        elif sock is None:
            sock = bind_inet(endpoint, reactor.socket_factory, reactor.resolver, self.backlog, reuse_port)
        self.socket = sock
        self.address = sock.getsockname()
        self.family = family_name(sock.family)
        return endpoint.is_unix

    def _check_trust(self, is_unix: bool) -> None:
        """Refuse now what would be refused for every connection; a factory that is no class is asked later."""
        factory = self.factory.func if isinstance(self.factory, functools.partial) else self.factory
        codec = getattr(factory, "codec", None)
        if codec is not None:
            self._trust_for(codec).check(peer_is_this_user=is_unix)
        elif isinstance(factory, type) and self._options[:2] != (None, None):
            raise LocalError(f"{factory.__name__} is no Connection: it has no use for an authkey or a codec")

    def _give_back(self) -> None:
        self._remove_file()
        if self.socket is not None:
            close_socket(self.socket)

    def _remove_file(self) -> None:
        # While the socket is open, the number of its file cannot come back as another's: so it goes first.
        if self._file is not None:
            self._file.remove()
            self._file = None


def with_shared_host(peer: Any) -> Any:
    """Return the address `peer`, with a string for its host that all others of this host have, too.

    Of ten thousand connections few have a host of their own.
    """
    return (sys.intern(peer[0]), *peer[1:]) if isinstance(peer, tuple) else peer
