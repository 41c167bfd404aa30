"""Binding: from an endpoint to a socket that listens or takes datagrams, and the file of a Unix socket."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from .addresses import FAMILIES, Endpoint, numeric
from .errors import AddressError, AddressInUseError

SocketFactory = Callable[..., socket.socket]
Resolver = Callable[..., list[Any]]

SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""What is said of a socket that could be made at another moment."""


class SocketFile:
    """The file of a Unix socket that this process has bound: removed by it, and by nobody else.

    Arguments:
        path: where the socket was bound.
        directory: a temporary directory to remove with it, or None.
    """

    def __init__(self, path: str | bytes, directory: str | None = None) -> None:
        self._path = path
        self._directory = directory
        self._process = os.getpid()
        self._identity = _identity(path)

    def remove(self) -> None:
        """Remove the file, unless it is another one by now, or this is a child that inherited the socket."""
        if os.getpid() != self._process:
            return
        try:
            if _identity(self._path) == self._identity:
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def fastest_endpoint() -> tuple[Endpoint, str | None]:
    """Return an endpoint of the fastest family that this system has, and the directory made for it."""
    if "AF_UNIX" not in FAMILIES:
        return Endpoint(socket.AF_INET, ("localhost", 0)), None
    directory = tempfile.mkdtemp(prefix="reactor-")  # mode 0700
    return Endpoint(FAMILIES["AF_UNIX"], os.path.join(directory, "socket")), directory


def bind_unix(endpoint: Endpoint, make_socket: SocketFactory, backlog: int) -> socket.socket:
    """Return a listening Unix socket that only this user can connect to.

    A file that a dead process left behind is taken over.

    Raises:
        AddressInUseError: somebody alive listens there, or the file is no socket.
        AddressError: the path is too long for the system.
        OSError: the directory is missing, or not ours to write in.
    """
    sock = make_socket(endpoint.family, socket.SOCK_STREAM)
    try:
        _bind_file(sock, endpoint, make_socket)
        sock.setblocking(False)
        # In this order nobody gets in between: before listen() a connect is refused.
        sock.listen(backlog)
    except BaseException:
        close_socket(sock)
        raise
    return sock


def bind_inet(
    endpoint: Endpoint, make_socket: SocketFactory, resolver: Resolver, backlog: int, reuse_port: bool
) -> socket.socket:
    """Return a listening TCP socket; for an empty host, one for all addresses of both families.

    Raises:
        AddressInUseError: the port is taken.
        AddressError: the name means no address of this machine.
        OSError: the operating system refused, a port below 1024 for example.
    """
    family, location, both = _inet_location(endpoint, make_socket, resolver)
    sock = make_socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows it would let others bind the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        _bind(sock, Endpoint(family, location))
        set_stream_options(sock)
        sock.setblocking(False)
        sock.listen(backlog)
    except BaseException:
        close_socket(sock)
        raise
    return sock


def bind_datagrams(
    endpoint: Endpoint, make_socket: SocketFactory, resolver: Resolver, broadcast: bool, reuse_port: bool
) -> tuple[socket.socket, SocketFile | None]:
    """Return a socket for datagrams with the address of `endpoint`, and its file, if it has one.

    Raises: as `bind_unix` and `bind_inet`.
    """
    family, location, both = endpoint.family, endpoint.location, False
    if not endpoint.is_unix:
        family, location, both = _inet_location(endpoint, make_socket, resolver, socket.SOCK_DGRAM)
    sock = make_socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        if not endpoint.is_unix:
            _bind(sock, Endpoint(family, location))
            return sock, None
        _bind_file(sock, endpoint, make_socket)
        return sock, None if endpoint.is_abstract else SocketFile(endpoint.location)
    except BaseException:
        close_socket(sock)
        raise


def connect_datagrams(endpoint: Endpoint, make_socket: SocketFactory, broadcast: bool) -> tuple[socket.socket, Any]:
    """Return a socket for datagrams that go to `endpoint`, and come from there; and its own address.

    Raises:
        OSError: nobody is there, as far as the system knows, or there is no way to it.
    """
    sock = make_socket(endpoint.family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if endpoint.is_unix and sys.platform == "linux":
            sock.bind("")  # an abstract name that the system chooses (unix(7)), so that the peer can answer
        sock.connect(endpoint.location)
        return sock, sock.getsockname()
    except BaseException:
        close_socket(sock)
        raise


def remove_stale(endpoint: Endpoint, make_socket: SocketFactory, kind: int) -> None:
    """Remove the file of a socket of this `kind` on which nobody listens any more.

    Raises:
        AddressInUseError: somebody alive listens there, or the file is no socket.
    """
    path = endpoint.location
    identity = _identity(path)
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise AddressInUseError(errno.EADDRINUSE, f"{endpoint} is a file, and no socket; it is left alone")
    with make_socket(endpoint.family, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            pass
        except OSError as error:  # its backlog is full, it is no stream, or it is not ours to connect to
            raise AddressInUseError(
                errno.EADDRINUSE, f"somebody has {endpoint} already ({error.strerror}); it is left alone"
            ) from None
        else:
            raise AddressInUseError(errno.EADDRINUSE, f"somebody listens on {endpoint} already")
    if _identity(path) == identity:
        os.unlink(path)


def close_socket(sock: Any) -> None:
    """Close `sock`, whatever it reports: a reset on BSD, an input/output error. The descriptor is gone all the same."""
    with contextlib.suppress(OSError):
        sock.close()


def set_stream_options(sock: socket.socket) -> None:
    """Set what every TCP connection here has; one that a listener accepts inherits it from the listener.

    No waiting for more (Nagle): a turn's output leaves in one call anyway. And keepalive, so that
    the kernel finds out when a silent peer has died.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def acknowledge_at_once(sock: socket.socket) -> None:
    """Have the kernel acknowledge what has come over this TCP connection now, where it can be told to (Linux)."""
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):  # the peer is gone; the next receive will say so
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _inet_location(
    endpoint: Endpoint, make_socket: SocketFactory, resolver: Resolver, kind: int = socket.SOCK_STREAM
) -> tuple[int, Any, bool]:
    host, port = endpoint.location[:2]
    if not host:
        if endpoint.family == socket.AF_INET or not _has_both(make_socket):
            return socket.AF_INET, ("0.0.0.0", port), False
        return socket.AF_INET6, ("::", port), endpoint.family == socket.AF_UNSPEC
    known = numeric(endpoint)
    if known.family != socket.AF_UNSPEC:
        return known.family, known.location, False
    try:
        found = resolver(host, port, endpoint.family, kind, 0, socket.AI_PASSIVE)
    except (socket.gaierror, ValueError) as error:  # a ValueError for what can be no name, as 'a..b'
        raise AddressError(f"cannot listen on {endpoint}: {getattr(error, 'strerror', error)}") from None
    # IPv4 first: a client of the standard library that says 'localhost' tries nothing else.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return found[0][0], found[0][4], False


def _has_both(make_socket: SocketFactory) -> bool:
    """Return whether one socket can serve IPv4 and IPv6, as `socket.has_dualstack_ipv6` finds it out."""
    try:
        probe = make_socket(socket.AF_INET6, socket.SOCK_STREAM)
        try:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        finally:
            close_socket(probe)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise  # it would be a socket for half of those who come, and nobody would know
        return False
    return True


def _bind(sock: socket.socket, endpoint: Endpoint) -> None:
    try:
        sock.bind(endpoint.location)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and not (endpoint.is_unix and not endpoint.is_abstract):
            raise AddressInUseError(errno.EADDRINUSE, f"somebody listens on {endpoint} already") from None
        if error.errno is None and endpoint.is_unix:  # "AF_UNIX path too long" comes from Python itself
            raise AddressError(f"{endpoint}: {error}; about 100 bytes are possible") from None
        if endpoint.is_unix:
            error.filename = endpoint.location  # which the socket module does not tell
        raise


def _bind_file(sock: socket.socket, endpoint: Endpoint, make_socket: SocketFactory) -> None:
    """Bind a Unix socket that is for this user alone, and take over a file that a dead process left behind."""
    mode = 0o600
    if not endpoint.is_abstract:
        with contextlib.suppress(OSError):  # Linux makes the file with this mode; others know no mode of a socket
            os.fchmod(sock.fileno(), mode)
    try:
        _bind(sock, endpoint)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or endpoint.is_abstract:
            raise
        remove_stale(endpoint, make_socket, sock.type)
        _bind(sock, endpoint)
    if not endpoint.is_abstract:
        os.chmod(endpoint.location, mode)


def _identity(path: str | bytes) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
