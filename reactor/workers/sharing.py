"""The sockets that workers share: who listens on which of them, and where they come from."""

from __future__ import annotations

import dataclasses
import logging
import socket
import sys
from collections.abc import Collection, Iterable
from typing import Any

from ..addresses import Address, Endpoint, format_address, parse_address
from ..binding import SocketFile, bind_inet, bind_unix, close_socket
from ..errors import AddressInUseError, LocalError
from ..eventloop import Reactor
from ..inheriting import Inheritance, descriptor_in, socket_from_descriptor

log = logging.getLogger("reactor")

BALANCES = sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")
"""Whether connections are spread over the sockets that have one port; elsewhere the last of them may get all."""


def own_sockets(sockets: int, workers: int, number: int) -> list[int]:
    """Return which of the `sockets` of one address the worker `number`, counted from 0, listens on."""
    if sockets < workers:
        return [number % sockets]
    return [index for index in range(sockets) if index % workers == number]


def assign(sockets: int, workers: int, serving: Collection[int]) -> dict[int, list[int]]:
    """Return for each worker that is `serving` which of the `sockets` of one address it listens on.

    A socket whose own workers are not there gets another one: whom the kernel has put into its backlog must not wait.
    """
    assigned = {number: own_sockets(sockets, workers, number) for number in sorted(serving)}
    orphans = set(range(sockets)).difference(*assigned.values())
    for index in sorted(orphans):
        if assigned:
            heir = sorted(assigned)[index % len(assigned)]
            assigned[heir].append(index)
    return assigned


@dataclasses.dataclass(eq=False)
class Share:
    """One address, and the sockets that listen there: one for all workers, or one for each of them.

    Attributes:
        name: the address as it was asked for; the next version of the program knows it by that.
        sockets: they stay open here as long as the program runs. A connection that waits in the backlog of a socket
            is lost when the socket is closed by everybody, and not when a worker dies.
        file: that of a Unix socket, if it is to be removed in the end.
        backlog: connections that the kernel holds for each socket at the most.
    """

    name: str
    sockets: list[socket.socket]
    file: SocketFile | None = None
    backlog: int = 1024

    @property
    def address(self) -> Any:
        """Where it listens, as the socket module writes it."""
        return self.sockets[0].getsockname()

    def __str__(self) -> str:
        return format_address(self.address)

    def close(self) -> None:
        """Close the sockets here; whoever has copies of them goes on."""
        for sock in self.sockets:
            close_socket(sock)

    def remove_file(self) -> None:
        """Remove the file, if it is ours."""
        if self.file is not None:
            self.file.remove()
            self.file = None


def open_shares(
    wanted: Iterable[Address | socket.socket] | None,
    workers: int,
    handed_over: Inheritance,
    reactor: Reactor,
    backlog: int,
) -> list[Share]:
    """Return the addresses that `workers` are to share; what was handed over for them comes first.

    Arguments:
        wanted: addresses, sockets that listen, or ``fd://3``; None for whatever was handed over.

    Raises:
        AddressError: one of them is none.
        AddressInUseError: somebody alive listens there.
        LocalError: something that was handed over cannot be listened on.
        OSError: the system refused.
    """
    shares: list[Share] = []
    try:
        if wanted is None:
            for name, sock in handed_over.take_all():
                shares.append(Share(name, [sock]))
        for address in wanted or ():
            shares.append(_open_share(address, workers, handed_over, reactor, backlog))
        for share in shares:
            share.backlog = backlog
            for sock in share.sockets:
                _check(sock, share.name)
                sock.setblocking(False)  # before anybody has a copy: that is a property which they share
    except BaseException:
        for share in shares:
            share.remove_file()
            share.close()
        raise
    return shares


def _open_share(
    address: Address | socket.socket, workers: int, handed_over: Inheritance, reactor: Reactor, backlog: int
) -> Share:
    if isinstance(address, socket.socket):
        return Share(format_address(address.getsockname()), [address])
    number = descriptor_in(address)
    if number is not None:
        return Share(str(address), [socket_from_descriptor(number)])
    if address in handed_over.names:
        return Share(str(address), handed_over.take(address))
    endpoint = parse_address(address)
    sockets = handed_over.take(address)
    share = Share(str(endpoint), sockets)
    if endpoint.is_unix:
        if not sockets:
            sockets.append(bind_unix(endpoint, reactor.socket_factory, backlog))
            share.file = None if endpoint.is_abstract else SocketFile(endpoint.location)
        return share
    try:
        _fill_up(sockets, endpoint, workers if BALANCES else 1, reactor, backlog)
    except BaseException:
        share.close()
        raise
    return share


def _fill_up(sockets: list[socket.socket], endpoint: Endpoint, count: int, reactor: Reactor, backlog: int) -> None:
    """Bind so many sockets to one port, as far as those that are there already allow it."""
    host, port, *rest = endpoint.location
    make = reactor.socket_factory, reactor.resolver, backlog
    is_new = not sockets
    if is_new and port and count > 1:
        # With SO_REUSEPORT it is no error that another program of this user has the port.
        close_socket(bind_inet(endpoint, Deaf, reactor.resolver, backlog, reuse_port=False))
    if is_new:
        sockets.append(bind_inet(endpoint, *make, reuse_port=count > 1))
    elif not sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        return
    same = Endpoint(endpoint.family, (host, sockets[0].getsockname()[1], *rest))
    while len(sockets) < count:
        try:
            sockets.append(bind_inet(same, *make, reuse_port=True))
        except AddressInUseError:
            if is_new:
                raise
            log.info("%s: the sockets that were handed over belong to another user; no more can be added", same)
            return


class Deaf(socket.socket):
    """A socket that finds out whether an address is free, and attracts no connection meanwhile."""

    def listen(self, backlog: int = 0, /) -> None:
        """Nobody is to connect."""


def _check(sock: socket.socket, name: str) -> None:
    if sock.type != socket.SOCK_STREAM:
        raise LocalError(f"{name}: the socket on {format_address(sock.getsockname())} is not for connections")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise LocalError(
            f"{name}: the socket on {format_address(sock.getsockname())} does not listen; "
            "a unit of systemd needs Accept=no, which is its default"
        )
