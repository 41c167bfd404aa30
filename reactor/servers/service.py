"""What makes a server of `socketserver` run on a reactor."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import socketserver
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

from ..channel import Origin
from ..codecs import Trust
from ..errors import ClosedReactorError, LocalError
from ..eventloop import Reactor
from ..limits import Limits
from .entrance import Entrance, Request

log = logging.getLogger("reactor")

PATIENCE = 1.0
"""Seconds for the thread that serves to notice that another one closes the server."""

PASSIVE = {socketserver.BaseServer.service_actions, socketserver.ForkingMixIn.service_actions}
"""What need not be called again and again: the one does nothing, and the other one looks for what is told here."""


class Service:
    """The part of a server that nobody customises: its reactor, its entrance, and the requests on their way.

    Arguments:
        server: the server.

    Attributes:
        takes_datagrams: whether its requests are datagrams.
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        self.reactor: Reactor | None = None
        self._is_shared = False
        self._options: dict[str, Any] = {}
        self._entrance: Entrance | None = None
        self._process = os.getpid()
        self._thread: int | None = None
        self._wanted: float = 0
        """How many requests the server is to be given from now on."""
        self._arrived: deque[tuple[Any, Any, Request | None]] = deque()
        self._places: dict[weakref.ref[Any], Request] = {}
        self._is_serving = False
        self._is_stopping = False
        self._is_closed = False
        self._failure: Exception | None = None
        self._ended = threading.Event()
        self._left = threading.Event()

    def configure(self, reactor: Reactor | None, authkey: bytes | None, tls: Any, proxies: Any, limits: Limits) -> None:
        """Take what the server was given.

        Raises:
            LocalError: it cannot be used.
        """
        if self.takes_datagrams and any(option is not None for option in (authkey, tls, proxies)):
            raise LocalError("authkey, tls and proxies are for connections, and a server of datagrams has none")
        if tls is not None:
            from ..tls import tls_for

            tls = tls_for(Origin(), tls)
        Trust.of("bytes", authkey, "md5", allow_unauthenticated_pickle=False)
        self._options = {"authkey": authkey, "tls": tls, "proxies": proxies, "limits": limits}
        if reactor is not None:
            self.reactor = reactor
            self._is_shared = True
            self._wanted = math.inf

    @property
    def takes_datagrams(self) -> bool:
        return getattr(self.server, "socket_type", None) == socket.SOCK_DGRAM

    @property
    def client_speaks_first(self) -> bool:
        """Whether a request without input is none yet."""
        return bool(self.server.client_speaks_first)

    # Serving

    def start(self) -> Reactor:
        """Accept from now on, whenever the reactor runs; return the reactor."""
        if self._process != os.getpid() and not self._is_shared:
            self.leave_to_parent()
            self.server._leave_handlers_to_parent()
            self._process = os.getpid()
        if self.reactor is None:
            self.reactor = Reactor()
        if self._entrance is None or self._entrance.state.name == "Closed":
            try:
                self._entrance = Entrance(self, reactor=self.reactor, **self._options)
            except BaseException:
                self._close_reactor()
                raise
            if self._is_shared:
                self._set_blocking(False)
        return self.reactor

    def start_if_shared(self) -> None:
        """The server listens: whoever runs a reactor of his own has it serve from now on."""
        if self._is_shared:
            self.start()

    def serve_forever(self, poll_interval: float | None) -> None:
        """Serve until `stop`."""
        self._ended.clear()
        try:
            with self._serving(math.inf) as reactor:
                has_actions = getattr(self.server.service_actions, "__func__", None) not in PASSIVE
                while not (self._is_stopping or self._is_over):
                    if has_actions:
                        reactor.poll(poll_interval)
                    else:
                        reactor.loop()
                    self._raise_failure()
                    if has_actions and not self._is_stopping:
                        self.server.service_actions()
        finally:
            self._is_stopping = False
            self._ended.set()

    def serve_one(self, timeout: float | None) -> bool:
        """Serve one request, and return whether there was one within `timeout` seconds."""
        with self._serving(1) as reactor:
            deadline = math.inf if timeout is None else reactor.clock() + timeout
            while self._wanted and not self._is_over:
                reactor.loop(None if timeout is None else max(deadline - reactor.clock(), 0))
                self._raise_failure()
                if self._wanted and reactor.clock() >= deadline:
                    return False
        return True

    def stop(self) -> None:
        """Make `serve_forever` return, and wait until it has. From another thread."""
        self._is_stopping = True
        self._wake()
        self._ended.wait()

    @contextlib.contextmanager
    def _serving(self, wanted: float) -> Iterator[Reactor]:
        reactor = self.start()
        self._thread = threading.get_ident()
        self._wanted = wanted
        self._is_serving = True
        reactor.call_soon(self._process_arrived)
        if not self._is_shared:
            self._set_blocking(False)
        try:
            yield reactor
        finally:
            self._is_serving = False
            self._wanted = 0
            if self._is_closed:
                self._close_reactor()
            elif not self._is_shared:
                self._set_blocking(True)
            else:
                self._wanted = math.inf
                reactor.call_soon(self._process_arrived)

    def _set_blocking(self, flag: bool) -> None:
        """Set what the system sees. What the server's socket itself tells is the user's, who may have set a timeout."""
        sock = getattr(self.server, "socket", None)
        if not self.takes_datagrams and isinstance(sock, socket.socket) and sock.gettimeout() is None:
            with contextlib.suppress(OSError):
                os.set_blocking(sock.fileno(), flag)

    @property
    def _is_over(self) -> bool:
        """Whether nobody comes in any more: the server is closed, or a shared reactor has been shut down."""
        if self._is_closed or self.reactor is None or self._entrance is None:
            return True
        return self._entrance.state.name == "Closed" and not self.reactor.is_shutting_down

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _wake(self) -> None:
        reactor = self.reactor
        if reactor is not None:
            with contextlib.suppress(ClosedReactorError):
                reactor.call_threadsafe(reactor.stop)

    # Requests

    def deliver(self, request: Any, address: Any, place: Request | None = None) -> None:
        """Give a request to the server, when that wants one.

        Arguments:
            place: what keeps its place, as long as it is not done.
        """
        self._thread = threading.get_ident()
        self._arrived.append((request, address, place))
        self._process_arrived()

    def done(self, request: Any) -> None:
        """`request` is done, and its place free. From any thread."""
        self.free(self.take_place(request))

    def take_place(self, request: Any) -> Request | None:
        """Return what keeps the place of `request`, for whoever will say by himself that it is free."""
        if not self._places:
            return None
        try:
            return self._places.pop(weakref.ref(request), None)
        except TypeError:
            return None

    def free(self, place: Request | None) -> None:
        """The place is free. From any thread."""
        if place is None:
            return
        if self._thread == threading.get_ident():
            place.close()
        else:
            with contextlib.suppress(ClosedReactorError):
                place.reactor.call_threadsafe(place.close)

    def look_for_room(self) -> None:
        """Accept, or do not, as the server has room. From any thread."""
        if self._thread == threading.get_ident():
            self._look_for_room()
        elif self.reactor is not None:
            with contextlib.suppress(ClosedReactorError):
                self.reactor.call_threadsafe(self._look_for_room)

    def _look_for_room(self) -> None:
        if self._entrance is not None:
            if self.server._has_room:
                self._entrance.resume()
            else:
                self._entrance.pause()

    def _process_arrived(self) -> None:
        while self._arrived and (self._wanted or self._is_closed):
            request, address, place = self._arrived.popleft()
            self._keep(request, place)
            if self._is_closed:
                self.server.shutdown_request(request)
                continue
            self._wanted -= 1
            try:
                self._process_request(request, address)
            except Exception as error:  # raised by the user's handle_error, most likely
                if not self._is_serving:
                    raise
                self._failure = error
                self._wanted = 0
            if not self._wanted and self.reactor is not None:
                self.reactor.stop()
        self._look_for_room()

    def _process_request(self, request: Any, address: Any) -> None:
        server = self.server
        try:
            is_wanted = server.verify_request(request, address)
            if is_wanted:
                server.process_request(request, address)
        except Exception:
            server.handle_error(request, address)
            is_wanted = False
        except BaseException:
            server.shutdown_request(request)
            raise
        if not is_wanted:
            server.shutdown_request(request)

    def _keep(self, request: Any, place: Request | None) -> None:
        """Keep `place` until the server closes the request, or drops it."""
        if place is None:
            return
        try:
            self._places[weakref.ref(request, self._vanished)] = place
        except TypeError:  # nobody can tell what becomes of it
            self.free(place)

    def _vanished(self, reference: weakref.ref[Any]) -> None:
        self.free(self._places.pop(reference, None))

    # The end

    def close(self) -> None:
        """Accept no more, and let go of everything."""
        self._is_closed = True
        if self.reactor is None or self._process != os.getpid():
            return
        if self._is_serving and self._thread != threading.get_ident():
            # The socket must not be closed, and its number come back, behind the back of the selector.
            with contextlib.suppress(ClosedReactorError):
                self.reactor.call_threadsafe(self._leave)
                self._left.wait(PATIENCE)
        else:
            self._leave()

    def leave_to_parent(self, request: Any = None) -> None:
        """In the child of a fork: close the copies of all that is the parent's, but for `request`."""
        if self._entrance is not None:
            for channel in self._channels():
                if channel.socket is not None:
                    channel.socket.close()
        for other, _, _ in self._arrived:
            if other is not request:
                discard(other)
        self._places.clear()
        self._arrived.clear()
        self._entrance = None
        if not self._is_shared:
            self._close_reactor()

    def _leave(self) -> None:
        if self._entrance is not None:
            for channel in self._channels():
                if not channel.has_arrived:
                    channel.close()
            self._entrance.close()
            self._entrance = None
        self._process_arrived()
        self._left.set()
        if not self._is_serving:
            self._close_reactor()
        elif self.reactor is not None:
            self.reactor.stop()

    def _channels(self) -> list[Request]:
        assert self.reactor is not None
        requests = [channel for channel in self.reactor.channels if isinstance(channel, Request)]
        return [request for request in requests if request._origin is self._entrance]

    def _close_reactor(self) -> None:
        if self.reactor is not None and not self._is_shared:
            self.reactor.close()
            self.reactor = None


def discard(request: Any) -> None:
    """Close a copy of a request of which the peer is to hear nothing."""
    if hasattr(request, "forget"):
        request.forget()
    if hasattr(request, "close"):
        request.close()
