"""Listening sockets that somebody hands over: systemd, a parent, or the version of the program before this one.

Who listens at an address for which there is such a socket uses it and binds none of its own, so that what waits in its
backlog is not lost. `Listener`, `Datagram.bind` and `serve` look for one by themselves.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
from collections.abc import Iterable, MutableMapping

from .addresses import FAMILIES, Address, Endpoint, format_address, parse_address
from .binding import Resolver, close_socket
from .errors import AddressError, LocalError

log = logging.getLogger("reactor")

FIRST_DESCRIPTOR = 3
"""Where the descriptors begin that systemd passes (SD_LISTEN_FDS_START)."""

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

EVERY_ADDRESS = ("", "0.0.0.0", "::")


class Inheritance:
    """Sockets that were handed over, until somebody takes them.

    Arguments:
        sockets: each with the name under which it was handed over; several may have the same one.
    """

    def __init__(self, sockets: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self._sockets = list(sockets)

    def __len__(self) -> int:
        return len(self._sockets)

    @property
    def names(self) -> list[str]:
        """The names of those that nobody has taken, without repetitions."""
        return list(dict.fromkeys(name for name, _ in self._sockets))

    def take(self, address: Address, kind: int = socket.SOCK_STREAM) -> list[socket.socket]:
        """Return the sockets for `address`, which belong to the caller from now on; most often none, or one.

        Arguments:
            address: (host, port), a path or a URL; or the name under which they were handed over.
            kind: ``SOCK_STREAM`` or ``SOCK_DGRAM``.
        """
        taken = self.find(address, kind)
        self._sockets = [(name, sock) for name, sock in self._sockets if sock not in taken]
        return taken

    def find(self, address: Address, kind: int = socket.SOCK_STREAM) -> list[socket.socket]:
        """Return what `take` would, and leave it."""
        fitting = [(name, sock) for name, sock in self._sockets if sock.type == kind]
        if address in self.names:
            return [sock for name, sock in fitting if name == address]
        endpoint = parse_address(address, scheme="udp" if kind == socket.SOCK_DGRAM else "tcp")
        named = [sock for name, sock in fitting if name == str(endpoint)]
        return named or [sock for _, sock in fitting if is_bound_to(sock, endpoint)]

    def take_all(self) -> list[tuple[str, socket.socket]]:
        """Return all that are left, with their names; they belong to the caller from now on."""
        taken, self._sockets = self._sockets, []
        return taken

    def close(self) -> None:
        """Close those that nobody has taken, and say so: somebody connects to them, and gets no answer."""
        for name, sock in self.take_all():
            log.warning("the socket on %s was handed over (%s), and nobody listens there", where(sock), name)
            close_socket(sock)


def is_bound_to(sock: socket.socket, endpoint: Endpoint, resolver: Resolver = socket.getaddrinfo) -> bool:
    """Return whether `endpoint` means the address that `sock` is bound to.

    Port 0 is none: the system is to choose. A name is resolved, which may take its time.
    """
    own = sock.getsockname()
    if endpoint.is_unix or sock.family == FAMILIES.get("AF_UNIX"):
        return endpoint.is_unix and sock.family == FAMILIES["AF_UNIX"] and path_of(own) == path_of(endpoint.location)
    host, port = endpoint.location[:2]
    if port != own[1] or endpoint.family not in (socket.AF_UNSPEC, sock.family):
        return False
    if host in EVERY_ADDRESS or own[0] in EVERY_ADDRESS:
        # '' is every address of both families where there are two, and `sock` may be of either.
        return own[0] in EVERY_ADDRESS and host in ("", own[0])
    try:
        found = resolver(host, port, sock.family, sock.type, 0, socket.AI_PASSIVE)
    except (socket.gaierror, ValueError):
        return False
    return any(location[0] == own[0] for *_, location in found)


def path_of(location: str | bytes) -> bytes:
    """Return what names the same Unix socket whichever way it is written."""
    path = os.fsencode(location)
    return path if path[:1] in (b"", b"\0") else os.path.abspath(path)


def where(sock: socket.socket) -> str:
    """Return the address of `sock` as people write it."""
    return format_address(sock.getsockname())


def sockets_from_systemd(environ: MutableMapping[str, str] = os.environ) -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd passes to this very process (sd_listen_fds(3)), each with its name.

    The variables that tell of them are removed, so that no child takes them for its own. What is no socket stays open
    and is left alone; the log tells of it, and of what is not there.

    Raises:
        LocalError: a variable makes no sense.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    told = {name: environ.pop(name, "") for name in VARIABLES}
    if not told["LISTEN_FDS"].isdecimal():
        raise LocalError(f"LISTEN_FDS is {told['LISTEN_FDS']!r}; systemd gives a whole number")
    count = int(told["LISTEN_FDS"])
    names = told["LISTEN_FDNAMES"].split(":") if told["LISTEN_FDNAMES"] else ["unknown"] * count
    if len(names) != count:
        raise LocalError(f"LISTEN_FDS is {count}, and LISTEN_FDNAMES has {len(names)} names")
    found = []
    for number, name in enumerate(names, FIRST_DESCRIPTOR):
        try:
            found.append((name, socket_from_descriptor(number)))
        except LocalError as error:
            log.warning("systemd passes %s: %s", name, error)
    return found


def descriptor_in(address: object) -> int | None:
    """Return the number of the descriptor that `address` names, as ``fd://3`` does; None for any other address.

    Raises:
        AddressError: there is no number behind ``fd://``.
    """
    if not isinstance(address, str) or not address.startswith("fd://"):
        return None
    number = address.removeprefix("fd://")
    if not number.isdecimal():
        raise AddressError(f"{address!r} names no descriptor; give its number: fd://3")
    return int(number)


def socket_from_descriptor(number: int) -> socket.socket:
    """Return the inherited descriptor `number` as a socket, which no program that this one runs will inherit.

    Raises:
        LocalError: there is none, or it is no socket.
    """
    try:
        os.set_inheritable(number, False)
        sock = socket.socket(fileno=number)
    except OSError as error:
        what = "is no socket" if error.errno == errno.ENOTSOCK else f"was not inherited: {error.strerror}"
        raise LocalError(f"the descriptor {number} {what}") from None
    sock.setblocking(False)
    return sock


@functools.cache
def inheritance() -> Inheritance:
    """Return what systemd has passed to this process, and nobody has taken yet."""
    return Inheritance(sockets_from_systemd())


def inherited_socket(address: Address, kind: int = socket.SOCK_STREAM) -> socket.socket | None:
    """Return the socket for `address` if somebody has handed it over, else None.

    Arguments:
        address: as for a listener; or the name that the unit of systemd gives (``FileDescriptorName=``); or ``fd://3``
            for the descriptor 3, inherited from whoever started this program.
        kind: ``SOCK_STREAM`` or ``SOCK_DGRAM``.
    Raises:
        AddressError: this is no address; or several sockets were handed over for it.
        LocalError: there is no such descriptor, or it is no socket of this kind.
    """
    number = descriptor_in(address)
    if number is not None:
        sock = socket_from_descriptor(number)
        if sock.type != kind:
            sock.detach()
            wanted = "datagrams" if kind == socket.SOCK_DGRAM else "connections"
            raise LocalError(f"the descriptor {number} is a socket, and not for {wanted}")
        return sock
    found = inheritance().find(address, kind)
    if len(found) > 1:
        raise AddressError(f"{len(found)} sockets were handed over for {address!r}; give each of them a name")
    return inheritance().take(address, kind)[0] if found else None
