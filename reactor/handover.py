"""Handover: a new version of a program takes the listening sockets from the old one, and nobody is refused.

The old version listens at the path of a Unix socket. The new one connects to it, each sees to it that the other belongs
to the same user, and the descriptors are passed (SCM_RIGHTS). From then on both accept from the same sockets. When the
new version says that it is ready, the old one stops accepting, lets its connections come to their end, and ends. If
the new one ends before that, the old one goes on as if nothing had happened.

What goes over that socket::

    new: take\\n
    old: {"sockets": ["localhost:6000", ...], "files": ["/run/socket", ...]}\\n
                        with the descriptors: of the socket at that path, and of the others in this order
    new: ready\\n
    old:                the end of the stream, when the old version has ended
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from .addresses import Address, parse_address
from .binding import SocketFile, bind_unix, close_socket
from .dispatcher import Dispatcher
from .errors import LocalError, ReactorError, excerpt
from .eventloop import Reactor
from .limits import Limits
from .listener import Listener
from .stream import Stream

log = logging.getLogger("reactor")

DESCRIPTORS_PER_MESSAGE = 200
"""Linux takes 253 in one message (SCM_MAX_FD)."""

LONGEST_ANSWER = 1 << 20

PATIENCE = 10.0
"""Seconds for the other version to say the first word."""

CREDENTIALS = struct.Struct("iII")
"""struct ucred: process, user, group (unix(7))."""

Sockets = list[tuple[str, socket.socket]]
"""Sockets, each with the name under which it is handed over."""


class Predecessor:
    """The old version of this program, which has handed over its sockets.

    Made by `find`.

    Attributes:
        sockets: what it has handed over, until somebody takes it.
        door: the socket at which the next version will ask: for `Offer`, which takes it from here.
        files: the paths of Unix sockets that this version removes in the end, once the old one is dismissed.
        pid: its process; 0 where the system does not tell.
    """

    def __init__(self, sock: socket.socket, pid: int, door: socket.socket, sockets: Sockets, files: list[str]) -> None:
        self.sockets = sockets
        self.files = files
        self.door: socket.socket | None = door
        self.pid = pid
        self._sock: socket.socket | None = sock

    @classmethod
    def find(cls, path: Address, timeout: float = PATIENCE) -> Predecessor | None:
        """Ask whoever listens at `path` for the sockets of the program; return None if nobody does. It blocks.

        Raises:
            AddressError: this is no path.
            LocalError: it belongs to somebody else, gives nothing, or takes longer than `timeout` seconds.
            OSError: the system refused.
        """
        endpoint = parse_address(path, "AF_UNIX")
        received: list[socket.socket] = []
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            try:
                sock.connect(endpoint.location)
            except OSError as error:
                error.filename = endpoint.location
                raise
            pid = check_credentials(sock)
            sock.sendall(b"take\n")
            names, files = receive(sock, received)
        except BaseException as error:
            for each in (sock, *received):
                close_socket(each)
            # Reset is a connection that a dying process had not accepted yet.
            if isinstance(error, FileNotFoundError | ConnectionError):
                return None
            if isinstance(error, TimeoutError):
                raise LocalError(f"{endpoint}: the old version does not answer within {timeout:g} s") from None
            if isinstance(error, LocalError):
                raise LocalError(f"{endpoint}: {error}") from None
            raise
        return cls(sock, pid, received[0], list(zip(names, received[1:], strict=True)), files)

    def take_sockets(self) -> Sockets:
        """Return what it has handed over, which belongs to the caller from now on."""
        taken, self.sockets = self.sockets, []
        return taken

    def dismiss(self, reactor: Reactor, ended: Callable[[], object]) -> None:
        """Say that this version is ready: the old one stops accepting. `ended` is called when it has ended."""
        assert self._sock is not None
        sock, self._sock = self._sock, None
        with contextlib.suppress(OSError):  # it has ended already
            sock.sendall(b"ready\n")
        sock.setblocking(False)
        Farewell(sock, ended, reactor)

    def close(self) -> None:
        """Give everything back that nobody has taken. Who was not dismissed goes on."""
        for _, sock in self.sockets:
            close_socket(sock)
        for each in (self.door, self._sock):
            if each is not None:
                close_socket(each)


class Farewell(Dispatcher):
    """The connection to a version that was dismissed: it ends with that."""

    def __init__(self, sock: socket.socket, ended: Callable[[], object], reactor: Reactor) -> None:
        super().__init__(sock, reactor=reactor)
        self._ended = ended

    def handle_readable(self) -> None:
        with contextlib.suppress(OSError):
            if self.socket.recv(4096):
                return
        self.close()
        self._ended()


class Offer:
    """Hands the sockets of this program over to its next version, if there ever is one.

    Arguments:
        path: where the next version asks: a path that only this user can reach, or an abstract name.
        sockets: returns what is handed over; the program may go on using them.
        files: returns the paths of Unix sockets that the next version removes in the end, from `given` on.
        given: called with the process of the next version, once that is ready.
        reactor: the loop.
        door: the socket that listens at `path`, if this version was handed over itself.

    Raises:
        AddressInUseError: somebody listens there already.
        AddressError: this is no path.
        OSError: the system refused.

    Attributes:
        visitor: the next version, while it makes itself ready.
    """

    def __init__(
        self,
        path: Address,
        sockets: Callable[[], Sockets],
        files: Callable[[], list[str]],
        given: Callable[[int], object],
        reactor: Reactor,
        door: socket.socket | None = None,
    ) -> None:
        endpoint = parse_address(path, "AF_UNIX")
        if door is None:
            door = bind_unix(endpoint, reactor.socket_factory, 16)
        self.sockets = sockets
        self.files = files
        self.given = given
        self.visitor: Visitor | None = None
        self._file = None if endpoint.is_abstract else file_of(endpoint.location)
        self._listener = Listener(None, lambda: Visitor(self), sock=door, reactor=reactor, limits=VISITOR_LIMITS)

    def hand_over(self, sock: socket.socket) -> None:
        """Send everything to the next version, over `sock`.

        Raises:
            OSError: the system refused, or has no room.
        """
        sockets = self.sockets()
        answer = {"sockets": [name for name, _ in sockets], "files": self.files()}
        send(sock, answer, [self._listener.socket, *(each for _, each in sockets)])

    def leave(self, visitor: Visitor) -> None:
        """`visitor` is ready: everything is its from now on."""
        self._file = None
        self._listener.close()
        self.given(visitor.pid)

    def close(self) -> None:
        """Hand nothing over any more. A `visitor` has everything already, and keeps the file of the door."""
        if self.visitor is not None:
            self.visitor.look()  # it may be gone, or be ready this very moment
        if self._file is not None and self.visitor is None:
            self._file.remove()
        self._file = None
        self._listener.close()


VISITOR_LIMITS = Limits(idle_timeout=None, linger_timeout=0.5)
"""The next version may take long until it is ready."""


class Visitor(Stream):
    """Somebody who asks for the sockets."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.pid = 0
        self.asked = b""

    def handle_open(self) -> None:
        self.patience = self.reactor.call_later(PATIENCE, self.close)
        try:
            self.pid = check_credentials(self.socket)
        except LocalError as error:
            self.refuse(str(error))

    def refuse(self, why: str) -> None:
        """Give nothing."""
        log.warning("process %d asked for the sockets of this program, and was refused: %s", self.pid, why)
        self.push(json.dumps({"error": why}).encode() + b"\n")
        self.close_when_done()

    def handle_data(self, data: bytes) -> None:
        self.asked += data
        current = self.offer.visitor
        if self.asked == b"take\n" and current is None:
            self.give()
        elif self.asked == b"take\n" and current is not None and current is not self:
            self.refuse(f"process {current.pid} is about to take them")
        elif self.asked == b"take\nready\n" and current is self:
            self.offer.leave(self)
        elif not b"take\nready\n".startswith(self.asked):
            self.refuse("these are no words of a handover")

    def give(self) -> None:
        """Hand the descriptors over: at once, since a queue has no room for them."""
        self.offer.visitor = self
        self.patience.cancel()
        try:
            self.offer.hand_over(self.socket)
        except OSError as error:
            self.refuse(f"the system does not pass the sockets: {error.strerror}")
        else:
            log.info("process %d takes over; this one goes on until it is ready", self.pid)

    def look(self) -> None:
        """Take note of what came in and the loop has not seen yet."""
        try:
            data = self.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.handle_data(data)
        else:
            self.offer.visitor = None

    def handle_eof(self) -> None:
        if self.offer.visitor is self and self.asked == b"take\n":
            log.error("process %d has ended before it was ready to take over; this one goes on", self.pid)
        self.close()

    def handle_error(self, error: Exception) -> None:
        if isinstance(error, ReactorError):
            log.warning("the handover to process %d failed: %s", self.pid, error)
        else:
            super().handle_error(error)

    def handle_close(self, reason: ReactorError) -> None:
        self.patience.cancel()
        if self.offer.visitor is self:
            self.offer.visitor = None


def file_of(path: str | bytes) -> SocketFile | None:
    """Return the file of a Unix socket, to be removed by this process; None if somebody has removed it."""
    try:
        return SocketFile(path)
    except FileNotFoundError:
        return None


def check_credentials(sock: Any) -> int:
    """Return the process at the other end of a Unix socket, 0 where the system does not tell.

    For the end that connected this is who has called listen(2) at the other one.

    Raises:
        LocalError: it belongs to another user, who is not root either.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return 0  # the file of the socket lets in nobody but this user
    told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, user, _ = CREDENTIALS.unpack(told)
    if user not in (0, os.geteuid()):
        raise LocalError(f"process {pid} belongs to user {user}, and this program to user {os.geteuid()}")
    assert isinstance(pid, int)
    return pid


def send(sock: socket.socket, answer: dict[str, list[str]], sockets: list[socket.socket]) -> None:
    """Send `answer`, and the descriptors of `sockets`."""
    data = json.dumps(answer).encode() + b"\n"
    for first in range(0, len(sockets), DESCRIPTORS_PER_MESSAGE):
        part = sockets[first : first + DESCRIPTORS_PER_MESSAGE]
        socket.send_fds(sock, [data], [each.fileno() for each in part])
        data = b"\n"  # descriptors travel with a byte


def receive(sock: socket.socket, received: list[socket.socket]) -> tuple[list[str], list[str]]:
    """Put the sockets that come over `sock` into `received`; return the names of all but the first, and the files.

    Raises:
        LocalError: the other side refuses, ends, or talks of something else.
        TimeoutError: it takes too long.
    """
    data = b""
    names: list[str] = []
    files: list[str] = []
    count: int | None = None
    while count is None or len(received) < count:
        more, descriptors, flags, _ = socket.recv_fds(sock, 65536, DESCRIPTORS_PER_MESSAGE)
        for number in descriptors:
            os.set_inheritable(number, False)
            received.append(socket.socket(fileno=number))
            # The old version accepts from it, too: whatever makes a copy of it must not make it blocking for a moment.
            received[-1].setblocking(False)
        data += more
        if flags & socket.MSG_CTRUNC:
            raise LocalError("not all of the sockets could be received; this process may have too few descriptors")
        if not more or len(data) > LONGEST_ANSWER:
            raise LocalError("the old version has ended in the middle of the handover")
        line, end, _ = data.partition(b"\n")
        if end and count is None:
            names, files = understand(line)
            count = len(names) + 1
    return names, files


def understand(line: bytes) -> tuple[list[str], list[str]]:
    """Return the names and the files in the answer of an old version.

    Raises:
        LocalError: it refuses, or talks of something else.
    """
    try:
        answer = json.loads(line)
        if "error" in answer:
            raise LocalError(f"the old version refuses: {answer['error']}")
        return [str(name) for name in answer["sockets"]], [str(path) for path in answer["files"]]
    except (ValueError, TypeError, KeyError):
        raise LocalError(f"who answers is no version of this program: {excerpt(line)}") from None
