"""`Listener`, `Client` and `Pipe` for programs that want to wait, on the listener and the handshake of the reactor."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
import threading
import time
import weakref
from multiprocessing import connection as original
from types import TracebackType
from typing import Any, Self

from .. import authentication, connecting, errors
from ..addresses import Address, parse_address
from ..errors import ReactorError
from ..eventloop import Reactor
from ..limits import DEFAULT_LIMITS, Limits
from .connection import Connection
from .guests import Hall, HastyPool, Reception
from .handshake import AuthenticationError

log = logging.getLogger("reactor")

PATIENT = dataclasses.replace(DEFAULT_LIMITS, connect_timeout=None, tls_timeout=None, authentication_timeout=None)
"""For a client: how long to wait is for its caller to say."""

_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()


class Listener:
    """Accepts connections for a program that wants to wait: as ``multiprocessing.connection.Listener``.

    Any number of peers are authenticated at the same time, within `accept`. Several threads may accept at once, and
    so may children that inherited the listener; whoever closes it closes it for its own process alone.

    Arguments:
        address: (host, port), a path, or a URL; None picks one of its own: a Unix socket in a private directory.
        family: ``'AF_INET'``, ``'AF_INET6'`` or ``'AF_UNIX'``. On Windows also ``'AF_PIPE'``, which is handed over to
            the standard library as a whole, without timeouts, `strict` and `limits`; that is not tested.
        backlog: connections that the kernel holds for us at the most.
        authkey: the key that peers must have, in bytes. Without one, whoever can connect can send pickles, and a
            pickle runs code.
        strict: have `accept` raise what is wrong with a peer, as the original does.
        limits: what is granted to peers in the handshake: `authentication_timeout`, `tls_timeout` and
            `maximum_unauthenticated`.
        tls: as for `reactor.Listener`: two files, (certificate, key), for example.

    Raises:
        TypeError: the key is no bytes object.
        LocalError: the key is empty.
        AddressError: the address or the family cannot be used here. It is a ValueError.
        OSError: somebody listens there already, or the operating system refused.
    """

    def __init__(
        self,
        address: Address | None = None,
        family: str | None = None,
        backlog: int = 1024,
        *,
        authkey: bytes | None = None,
        strict: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        tls: Any = None,
    ) -> None:
        self.address: Any
        """Where it listens."""
        self._original: Any = None
        self.strict = strict
        self.last_accepted: Any = None
        """The address of the peer that `accept` returned last."""
        if is_pipe(address, family):
            check_no_tls(tls)
            self._original = original.Listener(address, family, backlog, authkey=authkey)
            self.address = self._original.address
            return
        check_authkey(authkey)
        self._options: dict[str, Any] = {"backlog": backlog, "authkey": authkey, "limits": limits, "tls": tls}
        self._is_closed = False
        self._lock = threading.Lock()
        self._open(address=address, family=family)
        self.address = self._reception.listener.address
        _listeners.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def accept(self, timeout: float | None = None) -> Connection:
        """Return the next connection whose peer has authenticated.

        Arguments:
            timeout: seconds; None waits for as long as it takes.
        Raises:
            TimeoutError: nobody came in time.
            OSError: the listener is closed.
            AuthenticationError, EOFError, OSError: only with `strict`: the handshake of some peer failed.
        """
        if self._original is not None:
            return self._original.accept()  # type: ignore[no-any-return]
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._lock.acquire(timeout=-1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)):
            raise TimeoutError("nobody came in time: another thread waits here")
        try:
            return self._accept(deadline)
        finally:
            self._lock.release()
            if self._is_closed:
                self.close()  # whoever said so could not, while this was under way

    def handle_refused(self, error: ReactorError) -> None:
        """A peer was refused, or left before it was authenticated. By default a line in the log.

        Arguments:
            error: what was wrong with it. With `strict` `accept` raises it instead.
        """
        log.warning("%s", error)

    def close(self) -> None:
        """Accept no more; once more does nothing. Who waits in `accept` gets an OSError."""
        if self._original is not None:
            self._original.close()
            return
        self._is_closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._cleanup()
            finally:
                self._lock.release()
        else:
            reactor = self._reception.reactor
            with contextlib.suppress(errors.ClosedReactorError):  # it was just closed by somebody else
                reactor.call_threadsafe(reactor.stop)

    def _open(self, **where: Any) -> None:
        self._reception = Reception(**where, **self._options)
        self._options["tls"] = self._reception.listener._tls  # a child may not be allowed to read the files again
        self._cleanup = weakref.finalize(self, self._reception.close)

    def _accept(self, deadline: float | None) -> Connection:
        self._check_open()
        if self._reception.is_inherited:
            inherited, cleanup = self._reception, self._cleanup
            self._open(sock=inherited.listener.socket)
            inherited.listener.socket = None  # it lives on
            cleanup()
        reception = self._reception
        hall = reception.hall
        left: float | None = 0.0  # for a first look
        reception.clock.go()
        try:
            while True:
                reception.reactor.loop(left)
                while hall.refused:
                    error = hall.refused.popleft()
                    if self.strict:
                        raise as_the_original(error)
                    self.handle_refused(error)
                self._check_open()
                if hall.arrived:
                    connection, peer = hall.arrived.popleft()
                    self.last_accepted = peer if isinstance(peer, tuple) else ""
                    return connection
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("nobody came in time")
        finally:
            reception.clock.stop()

    def _check_open(self) -> None:
        if self._is_closed:
            raise OSError("listener is closed")


def _renew_locks() -> None:
    """In the child of a fork: a thread that held a lock is not here."""
    for listener in list(_listeners):
        listener._lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_locks)


def Client(
    address: Address,
    family: str | None = None,
    authkey: bytes | None = None,
    *,
    timeout: float | None = None,
    tls: Any = None,
) -> Connection:
    """Return a connection to `address`.

    Arguments:
        address: (host, port), a path, or a URL.
        family: ``'AF_INET'``, ``'AF_INET6'`` or ``'AF_UNIX'``, to leave the others out. On Windows also ``'AF_PIPE'``,
            which is handed over to the standard library as a whole, without timeouts; that is not tested.
        authkey: the key that both sides have, in bytes.
        timeout: seconds for all of it, from the name to the handshake; None waits for as long as it takes.
        tls: as for `reactor.connect`: True to believe whom this system believes, for example.

    Raises:
        TypeError: the key is no bytes object.
        LocalError: the key is empty.
        AddressError: the address or the family cannot be used here. It is a ValueError.
        OSError: no connection could be made; a ConnectionRefusedError, FileNotFoundError and so on.
        AuthenticationError: the other side has another key, or none.
        EOFError: the other side closed the connection in the middle of the handshake.
        TimeoutError: it took too long.
    """
    if is_pipe(address, family):
        check_no_tls(tls)
        return original.Client(address, family, authkey)  # type: ignore[return-value]
    check_authkey(authkey)
    hall = Hall()
    with Reactor(threads=HastyPool(1, "resolver")) as reactor:
        connecting.connect(
            address, hall.guest, family=family, authkey=authkey, limits=PATIENT, reactor=reactor, tls=tls
        )
        reactor.loop(timeout)
        if hall.arrived:
            return hall.arrived.popleft()[0]
        if hall.refused:
            raise as_the_original(hall.refused.popleft())
    raise TimeoutError(f"no connection to {parse_address(address)} within {timeout} s")


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Return the two ends of a pipe.

    Arguments:
        duplex: whether messages go both ways; else the first end receives, and the second one sends.
    """
    if duplex:
        first, second = socket.socketpair()
        return Connection._over(first), Connection._over(second)
    reading, writing = os.pipe()
    return Connection(reading, writable=False), Connection(writing, readable=False)


def is_pipe(address: Any, family: str | None) -> bool:
    """Whether this is about a named pipe of Windows, on Windows."""
    is_local = isinstance(address, str) and address.startswith("\\\\")
    return sys.platform == "win32" and (family == "AF_PIPE" or is_local or (address is None and family is None))


def check_no_tls(tls: Any) -> None:
    """Raise LocalError where `tls` was asked for on a named pipe."""
    if tls:
        raise errors.LocalError("there is no TLS on a named pipe; give a port or a path, or no tls=")


def check_authkey(authkey: bytes | None) -> None:
    """Raise TypeError where `authkey` is no bytes object, LocalError where it is empty."""
    if authkey is None:
        return
    if not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")
    authentication.check_authkey(authkey)


def as_the_original(error: ReactorError) -> Exception:
    """Return what the original raises where a channel closed for `error`."""
    if isinstance(error, errors.TlsError | errors.TruncatedError):
        return error
    if isinstance(error, errors.ConnectError | errors.ConnectionLost):
        message = error._message()
        if error.errno is None:
            return OSError(message)
        return socket.gaierror(error.errno, message) if error.errno < 0 else OSError(error.errno, message)
    if isinstance(error.__cause__, EOFError):
        return EOFError(str(error))
    if isinstance(error.__cause__, errors.FrameError):
        return OSError(str(error))
    return AuthenticationError(str(error)) if isinstance(error, errors.RemoteError) else error
