"""Dispatchers for the tests, and pairs of sockets for them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

from reactor.compat import asyncore

Pair = Callable[[], tuple[socket.socket, socket.socket]]

peers: dict[int, socket.socket] = {}
"""By descriptor, the other end of each pair that the test has made."""


def send_to(channel: asyncore.dispatcher) -> None:
    """Have something to read come to `channel`, which holds one end of a pair."""
    peers[channel.socket.fileno()].send(b"x")


def raising(error: BaseException) -> Callable[..., None]:
    """Return a function that raises `error`."""

    def raise_it(*args: Any) -> None:
        raise error

    return raise_it


class Recording(asyncore.dispatcher):
    """Writes down in `events` what it is told; wants to read, and not to write."""

    def __init__(self, sock: Any = None, map: Any = None) -> None:
        self.events: list[Any] = []
        super().__init__(sock, map)

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        self.events.append(self.recv(65536))

    def handle_write(self) -> None:
        self.events.append("write")

    def handle_connect(self) -> None:
        self.events.append("connect")

    def handle_expt(self) -> None:
        self.events.append("expt")

    def handle_error(self) -> None:
        self.events.append(sys.exc_info()[1])
        self.close()

    def handle_close(self) -> None:
        self.events.append("close")
        self.close()


class Listening(asyncore.dispatcher):
    """A listener on this machine; `make` is called with each connection."""

    def __init__(self, make: Callable[[Any], Any], map: Any = None) -> None:
        super().__init__(map=map)
        self.make = make
        self.create_socket()
        self.set_reuse_addr()
        self.bind(("127.0.0.1", 0))
        self.listen(100)
        self.address = self.socket.getsockname()

    def handle_accepted(self, sock: Any, addr: Any) -> None:
        self.make(sock)


class Echo(asyncore.dispatcher_with_send):
    def handle_read(self) -> None:
        data = self.recv(8192)
        if data:
            self.send(data)
