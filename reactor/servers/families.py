"""The servers: those of `socketserver`, on a reactor."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import socketserver
from collections.abc import Callable, Iterable
from typing import Any, Self

from ..addresses import Endpoint
from ..binding import SocketFile, remove_stale, set_stream_options
from ..eventloop import Reactor
from ..limits import DEFAULT_LIMITS, Limits
from .service import Service

DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))  # not on Windows

Handler = Callable[[Any, Any, Any], Any]
"""A request handler class, or what else makes something of a request, an address and a server."""


class BaseServer(socketserver.BaseServer):
    """What the servers have in common: every method of `socketserver.BaseServer` that is to be customised.

    Beside those it has one attribute: `client_speaks_first`.
    """

    client_speaks_first = False
    """Whether it is for the client to say something first, as in HTTP. Then the handler is not called before the first
    bytes have come: who says nothing takes no thread and no process, counts for `maximum_unauthenticated`, and has
    `idle_timeout`."""

    _service: Service

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._service = Service(self)
        return self

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        """Serve until `shutdown`, or until the server is closed.

        Arguments:
            poll_interval: seconds; so often `service_actions` is called, if you have written it. Otherwise nothing
                happens between two requests.
        Raises:
            Exception: what your `handle_error` raises.
        """
        self._service.serve_forever(poll_interval)

    def shutdown(self) -> None:
        """Make `serve_forever` return, and wait until it has. From another thread: else both would wait for ever."""
        self._service.stop()

    def handle_request(self) -> None:
        """Serve one request. If none comes within `timeout`, or that of the socket, call `handle_timeout`.

        Raises:
            Exception: what your `handle_error` raises.
        """
        timeouts = [self.timeout, self.socket.gettimeout()] if hasattr(self, "socket") else [self.timeout]
        timeout = min((timeout for timeout in timeouts if timeout is not None), default=None)
        if not self._service.serve_one(timeout):
            self.handle_timeout()

    def close_request(self, request: Any) -> None:
        """Close a request. Its place within the limits is free from here on."""
        super().close_request(request)
        self._service.done(request)

    def server_close(self) -> None:
        """Accept no more, close the socket, and give everything back."""
        self._service.close()
        super().server_close()

    @property
    def _has_room(self) -> bool:
        """Whether one more request could be processed, or wait here for it."""
        return True

    def _leave_handlers_to_parent(self) -> None:
        """In the child of a fork that serves, too: the handlers that run are the parent's."""


class TCPServer(BaseServer, socketserver.TCPServer):
    """A server for connections over TCP: `socketserver.TCPServer`, with its methods and attributes, on a reactor.

    The reactor accepts, holds the limits, and makes the handshakes of all peers at the same time, without waiting for
    any; then the handler gets a blocking socket. Without a mixin that happens in the thread of `serve_forever`, one
    request after the other.

    Arguments:
        server_address: (host, port); port 0 lets the system choose.
        RequestHandlerClass: called with request, client address and server for each request.
        bind_and_activate: whether to listen at once; or else call `server_bind` and `server_activate`.
        authkey: the key that peers must have, in bytes: they make the handshake of ``multiprocessing.connection``
            first. The handler is called behind it.
        tls: two files, (certificate, key), to encrypt all connections; a `ServerTls` says more, or an
            `ssl.SSLContext`. The request is an `EncryptedSocket` then.
        proxies: as for `reactor.Listener`: the client address is the one that the proxy has told.
        limits: what is granted to the peers: `maximum_connections`, `maximum_connections_per_peer`,
            `maximum_unauthenticated`, `authentication_timeout`, `tls_timeout`, `proxy_timeout`, `idle_timeout` with
            `client_speaks_first`, and `drain_timeout` for the end of TLS.
        reactor: a reactor with other channels. The server then serves whenever that runs, and a shutdown of the
            reactor lets the requests end that are under way. By default it has one of its own, which
            `serve_forever` and `handle_request` run.

    Raises:
        LocalError: an option cannot be used.
        OSError: the operating system refused; its message is unchanged.
    """

    request_queue_size = 1024
    """Connections that the kernel holds for us at the most."""

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Handler,
        bind_and_activate: bool = True,
        *,
        authkey: bytes | None = None,
        tls: Any = None,
        proxies: Iterable[str] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        reactor: Reactor | None = None,
    ) -> None:
        self._service.configure(reactor, authkey, tls, proxies, limits)
        socketserver.TCPServer.__init__(self, server_address, RequestHandlerClass, bind_and_activate)

    def server_activate(self) -> None:
        """Listen; on a reactor with other channels, serve from now on."""
        if not self._service.takes_datagrams and self.address_family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # there are other streams than TCP
                set_stream_options(self.socket)
        super().server_activate()
        self._service.start_if_shared()


class UDPServer(TCPServer, socketserver.UDPServer):
    """A server for datagrams over UDP: `socketserver.UDPServer`, with its methods and attributes, on a reactor.

    The arguments are those of `TCPServer`, but for `authkey`, `tls` and `proxies`: they are for connections.
    """

    def get_request(self) -> Any:
        """Return ((data, socket), client address)."""
        data, address = self.socket.recvfrom(self.max_packet_size, DONTWAIT)
        return (data, self.socket), address


class UnixServer(TCPServer):
    """What servers on a Unix socket have in common: they take over the file of a dead one, and remove their own."""

    _file: SocketFile | None = None

    def server_bind(self) -> None:
        """Bind the socket.

        Raises:
            AddressInUseError: somebody alive listens there, or the file is no socket.
            OSError: the operating system refused; its message is unchanged.
        """
        wanted = Endpoint(socket.AF_UNIX, self.server_address)
        try:
            super().server_bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or wanted.is_abstract:
                raise
            remove_stale(wanted, socket.socket, self.socket.type)
            super().server_bind()
        bound = Endpoint(socket.AF_UNIX, self.server_address)
        if not bound.is_abstract:
            self._file = SocketFile(os.path.abspath(bound.location))

    def server_close(self) -> None:
        """Accept no more, remove the file, close the socket, and give everything back."""
        if self._file is not None:
            self._file.remove()
            self._file = None
        super().server_close()


class UnixStreamServer(UnixServer, socketserver.UnixStreamServer):
    """A server for connections over a Unix socket; see `TCPServer`."""

    address_family = socket.AF_UNIX


class UnixDatagramServer(UnixServer, UDPServer, socketserver.UnixDatagramServer):
    """A server for datagrams over a Unix socket; see `UDPServer`."""

    address_family = socket.AF_UNIX
