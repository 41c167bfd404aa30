"""Servers for tests: handlers, and a server that runs on a thread."""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from tests.conftest import raw_client

AnyServer = TypeVar("AnyServer", bound=socketserver.BaseServer)


class Echo(socketserver.StreamRequestHandler):
    """Sends each line back."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class Upper(socketserver.DatagramRequestHandler):
    """Sends a datagram back, in capital letters."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


class Held(socketserver.StreamRequestHandler):
    """Sends a line back when the server's `release` is set; the server's `begun` and `ended` keep the lines."""

    def handle(self) -> None:
        line = self.rfile.readline()
        self.server.begun.append(line)
        assert self.server.release.wait(20)
        self.server.ended.append(line)
        self.wfile.write(line)


class Holding:
    """Mixed into a server whose handlers are `Held`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.begun: list[bytes] = []
        self.ended: list[bytes] = []
        self.release = threading.Event()
        super().__init__(*args, **options)


@contextlib.contextmanager
def serving(server: AnyServer, poll_interval: float = 0.5) -> Iterator[AnyServer]:
    """Run a server on a thread, and close it at the end; what `serve_forever` raises is raised then."""
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever(poll_interval)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        if isinstance(server, Holding):
            server.release.set()
        server.shutdown()
        thread.join(20)
        server.server_close()
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def ask(address: Any, line: bytes = b"a line\n") -> bytes:
    """Send a line, and return the one that comes back."""
    with raw_client(address) as client:
        return talk(client, line)


def talk(client: socket.socket, line: bytes = b"a line\n") -> bytes:
    """Send a line, and return the one that comes back."""
    client.sendall(line)
    return receive_line(client)


def receive_line(client: socket.socket) -> bytes:
    """Return the next line; what has come before the end, if that is first."""
    received = b""
    while not received.endswith(b"\n"):
        data = client.recv(100)
        if not data:
            break
        received += data
    return received


def entrance_of(server: Any) -> Any:
    """Return the listener of a server that serves."""
    wait_until(lambda: server._service._entrance is not None)
    return server._service._entrance


def number_waiting(server: Any) -> int:
    """Return how many requests wait for a thread of the server."""
    return len(getattr(server._threads, "_waiting", ()))


def refuses(address: Any) -> bool:
    """Return whether nobody listens at `address`."""
    with socket.socket(socket.AF_INET) as client:
        return client.connect_ex(address) == errno.ECONNREFUSED


def wait_until(condition: Callable[[], Any], timeout: float = 20.0) -> None:
    """Wait until `condition` holds, which other threads or processes bring about."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it took too long")
        time.sleep(0.002)
