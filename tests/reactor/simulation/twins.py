"""Twins: every call is made on a real socket of the loopback, and on a simulated one, and has to end alike."""

from __future__ import annotations

import errno
import fcntl
import selectors
import socket
import struct
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from reactor.eventloop import READ, WRITE
from reactor.simulation.network import TcpSocket
from reactor.simulation.substitutes import SimulatedSelector
from reactor.simulation.tape import Tape
from reactor.simulation.world import World

LOOPBACK = "127.0.0.1"
PATIENCE = 1.0
"""Seconds after which the kernel is believed to have done what it was going to do."""

TAKES_ADDRESS = {"bind", "connect_ex", "sendto"}
BINDS = {"listen", "send", "sendmsg"}
"""Calls that choose a port for a socket that has none, even if they fail."""
NOBODY = "nobody"
"""In place of a socket's name: any free port, for bind."""


class Side:
    """The sockets of one of the two sides, by name, and what is known of their ports.

    Ports differ from side to side, so outcomes name the socket that has a port instead.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.sockets: dict[str, Any] = {}
        self.ports: dict[str, int] = {}
        self._remotes: dict[str, Any] = {}
        self._callers: dict[tuple[str, int], str] = {}

    def make_socket(self, kind: int) -> Any:
        raise NotImplementedError

    def unread(self, name: str) -> int:
        """Return how many bytes wait to be received; of a datagram socket, in its first datagram."""
        raise NotImplementedError

    def close(self) -> None:
        for name in list(self.sockets):
            self.call(name, "close")
        self.selector.close()

    def add(self, name: str, sock: Any) -> None:
        sock.setblocking(False)
        self.sockets[name] = sock
        self.selector.register(sock, READ | WRITE, name)

    def call(self, name: str, method: str, *args: Any) -> Any:
        """Return how the call ends: its result, or the name of the error."""
        try:
            return self._call(name, method, *args)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def state(self) -> dict[str, tuple[int, int]]:
        """Return for each socket what it is ready for, and how much input it has."""
        ready = {key.data: events for key, events in self.selector.select(0)}
        return {name: (ready.get(name, 0), self.unread(name)) for name in self.sockets}

    def wait_for(self, name: str, holds: Callable[[int], Any]) -> bool:
        """Return whether `holds` comes true of what a socket is ready for."""
        deadline = time.monotonic() + PATIENCE
        while not holds(self.state()[name][0]):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    def names(self) -> dict[tuple[str, str], Any]:
        """Return what `getsockname` and `getpeername` say of every socket."""
        return {(name, call): self.call(name, call) for name in self.sockets for call in ("getsockname", "getpeername")}

    def _call(self, name: str, method: str, *args: Any) -> Any:
        sock = self.sockets[name]
        if method == "close":
            self.selector.unregister(self.sockets.pop(name))
            return sock.close()
        if method == "accept":
            accepted, address = sock.accept()
            self.add(args[0], accepted)
            self.ports[args[0]], self._remotes[args[0]] = self.ports[name], address
            return address[0], self._callers[name, address[1]]
        if method == "SO_ERROR":
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return errno.errorcode.get(number, "none")
        if method == "recv_into":
            buffer = bytearray(args[0])
            return bytes(buffer[: sock.recv_into(buffer)])
        if method in TAKES_ADDRESS:
            return self._call_with_address(name, method, *args)
        try:
            result = getattr(sock, method)(*args)
        finally:
            if method in BINDS:
                self.ports[name] = sock.getsockname()[1]
        if method == "getsockname":
            return result[0], "its own port" if result[1] == self.ports.get(name, 0) else result[1]
        if method == "getpeername":
            return "its peer" if result == self._remotes.get(name) else result
        if method == "recvfrom":
            return result[0], self._sender(result[1])
        if method == "recvmsg":
            return *result[:3], self._sender(result[3])
        return result

    def _call_with_address(self, name: str, method: str, *args: Any) -> Any:
        sock = self.sockets[name]
        *others, whom = args
        address = whom if isinstance(whom, tuple) else (LOOPBACK, self.ports.get(whom, 0))
        try:
            result = getattr(sock, method)(*others, address)
        finally:
            port = sock.getsockname()[1]
            if port:
                self.ports[name] = port
        if method == "connect_ex":
            self._callers[whom, self.ports[name]] = name
            if result in (0, errno.EINPROGRESS):
                self._remotes[name] = address
            return errno.errorcode.get(result, "connected")
        return result

    def _sender(self, address: Any) -> Any:
        found = [name for name, port in self.ports.items() if address and port == address[1]]
        return (address[0], *found) if found else address


class RealSide(Side):
    """Sockets of the operating system."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())

    def make_socket(self, kind: int) -> socket.socket:
        return socket.socket(socket.AF_INET, kind)

    def unread(self, name: str) -> int:
        try:
            (size,) = struct.unpack("i", fcntl.ioctl(self.sockets[name], termios.FIONREAD, bytes(4)))
        except OSError:
            return 0  # a listener
        assert isinstance(size, int)
        return size


class SimulatedSide(Side):
    """Sockets of one simulated host, on which nothing goes wrong."""

    def __init__(self) -> None:
        self.world = World(Tape(0, frozenset(), {}))
        self.host = self.world.host("host")
        super().__init__(SimulatedSelector(self.host))

    def close(self) -> None:
        super().close()
        self.world.finish()

    def make_socket(self, kind: int) -> Any:
        return self.host.reactor.socket_factory(socket.AF_INET, kind)

    def unread(self, name: str) -> int:
        file = self.sockets[name].endpoint
        if isinstance(file, TcpSocket):
            return len(file.inbox)
        return len(file.queue[0][0]) if file.queue else 0


class Twins:
    """Both sides together."""

    def __init__(self) -> None:
        self.real = RealSide()
        self.simulated = SimulatedSide()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.real.close()
        self.simulated.close()

    def __contains__(self, name: str) -> bool:
        return name in self.simulated.sockets

    def add(self, kind: int, *names: str) -> None:
        """Make sockets."""
        for name in names:
            for side in (self.real, self.simulated):
                side.add(name, side.make_socket(kind))

    def call(self, name: str, method: str, *args: Any) -> Any:
        """Make a call on both sides; see that it ends alike, with the same readiness and names of all sockets.

        Arguments:
            method: of a socket, or ``"SO_ERROR"``; where it takes an address, the name of a socket stands for it.
        Returns: the outcome: a result, or the name of an error.
        """
        real, simulated = (side.call(name, method, *args) for side in (self.real, self.simulated))
        assert simulated == real, f"{name}.{method}{args}: simulated {simulated!r}, real {real!r}"
        self._settle(f"after {name}.{method}{args}")
        assert self.simulated.names() == self.real.names()
        return real

    def ready(self, name: str) -> int:
        """Return what a socket is ready for, on both sides."""
        return self.simulated.state()[name][0]

    def _settle(self, when: str) -> None:
        """Wait for the kernel: what it delivers to the other end is there a moment later, and rarely any later."""
        expected = self.simulated.state()
        deadline = time.monotonic() + PATIENCE
        while (state := self.real.state()) != expected:
            if time.monotonic() > deadline:
                wrong = {name: (expected[name], state[name]) for name in state if state[name] != expected[name]}
                raise AssertionError(f"{when}: (ready, unread), simulated and real: {wrong}")
            time.sleep(0.0005)
