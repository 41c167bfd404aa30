"""What stands behind `Listener` and `Client`: channels that live until the peer is known, then hand out its socket."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from .. import listener
from ..authentication import Handshake
from ..binding import close_socket
from ..connection import Authenticating
from ..connection import Connection as MessageChannel
from ..errors import ReactorError
from ..eventloop import Reactor
from ..states import State
from ..threads import ThreadPool
from .connection import Connection


class Clock:
    """A clock that stands still while nobody waits, so that no peer is too late for who was not there.

    It counts seconds; `go` and `stop` it.
    """

    def __init__(self) -> None:
        self._shown = time.monotonic()
        self._started: float | None = None

    def __call__(self) -> float:
        return self._shown if self._started is None else self._shown + time.monotonic() - self._started

    def go(self) -> None:
        self._started = time.monotonic()

    def stop(self) -> None:
        self._shown, self._started = self(), None


class HastyPool(ThreadPool):
    """Does not wait for its threads to end: one may hang in the resolver for longer than anybody wants to wait."""

    def close(self, timeout: float = 0.0) -> None:
        super().close(timeout)


class Hall:
    """Where guests arrive.

    Attributes:
        arrived: connections that are ready, each with the address of its peer.
        refused: why others did not get so far.
    """

    def __init__(self) -> None:
        self.arrived: deque[tuple[Connection, Any]] = deque()
        self.refused: deque[ReactorError] = deque()

    def guest(self) -> Guest:
        """Return the channel for a connection."""
        return Guest(self)


class Reception:
    """A hall with a listener in front of it, and the reactor that runs both: for one process.

    Arguments:
        options: those of the `listener.Listener`.
    """

    def __init__(self, **options: Any) -> None:
        self._process = os.getpid()
        self.hall = Hall()
        self.clock = Clock()
        self.reactor = Reactor(clock=self.clock)
        try:
            self.listener = listener.Listener(factory=self.hall.guest, reactor=self.reactor, **options)
        except BaseException:
            self.reactor.close()
            raise

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a child of the one that made it, and can only close it."""
        return os.getpid() != self._process

    def close(self) -> None:
        """Close everything. In a child that takes nothing away from its parent."""
        channels = list(self.reactor.channels) if self.is_inherited else []
        self.reactor.close()
        for channel in channels:
            if channel.socket is not None:
                close_socket(channel.socket)
        while self.hall.arrived:
            self.hall.arrived.popleft()[0].close()


class AuthenticatingExactly(Authenticating):
    """Takes no byte from the socket that is not the handshake's: the rest is for the connection.

    Over TLS that cannot be, for a record comes as a whole; see `_authenticated`.
    """

    def receive_size(self, handshake: Handshake) -> int:
        return handshake.needed


class Guest(MessageChannel):
    """A channel that becomes a blocking `Connection` as soon as it is open."""

    __slots__ = ("_hall", "_trailing")

    codec = "bytes"
    _shares_tls_buffers = False  # the connection may be used in another thread than that of the reactor
    _states: ClassVar[Mapping[str, State]] = {**MessageChannel._states, "Authenticating": AuthenticatingExactly()}

    def __init__(self, hall: Hall) -> None:
        self._hall: Hall | None = hall
        self._trailing = b""

    def handle_open(self) -> None:
        if self._output:
            # The last word of the handshake goes out first; and what comes meanwhile is not for this channel.
            self.pause_reading()
        else:
            self._arrive()

    def handle_drained(self) -> None:
        self._arrive()

    def handle_error(self, error: Exception) -> None:
        """It is told as the reason of the close."""
        if not isinstance(error, ReactorError):
            super().handle_error(error)

    def handle_close(self, reason: ReactorError) -> None:
        if self._hall is not None:
            self._hall.refused.append(reason)
            self.reactor.stop()

    def _authenticated(self, trailing: bytes) -> None:
        self._trailing = trailing
        super()._authenticated(b"")

    def _arrive(self) -> None:
        is_encrypted = self.tls is not None
        sock = self._take_socket()
        if is_encrypted:
            from .encrypted import EncryptedConnection

            sock.leave_channel()
            connection: Connection = EncryptedConnection(sock, self._trailing)
        else:
            connection = Connection._over(sock)
        hall, self._hall = self._hall, None
        assert hall is not None
        hall.arrived.append((connection, self.peer))
        self.reactor.stop()
