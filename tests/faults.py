"""What goes wrong on purpose: sockets that fail, selectors that are audited."""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reactor
from tests.conftest import ROOT, Accepting, raw_client, run_until

SELECTORS = [
    getattr(selectors, name)
    for name in ("EpollSelector", "KqueueSelector", "DevpollSelector", "PollSelector", "SelectSelector")
    if hasattr(selectors, name)
]


class AcceptingSocket(socket.socket):
    """A socket whose accepted sockets are of its own class, so that they fail as the class says."""

    def accept(self) -> tuple[socket.socket, Any]:
        number, peer = self._accept()  # type: ignore[attr-defined]
        return type(self)(fileno=number), peer


class CountingSelector(selectors.DefaultSelector):
    """Counts the events that it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.events = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self.events += len(ready)
        return ready


class Server:
    """A listener on `loop`, the channels that it made, and raw clients of it.

    Arguments:
        make: makes the channel for a connection.
        options: for the listener; by default it listens on a Unix socket of its own.
    """

    def __init__(self, loop: reactor.Reactor, make: Callable[[], reactor.Channel], **options: Any) -> None:
        self.loop = loop
        self.accepted = Accepting(make)
        self.listener = reactor.Listener(
            options.pop("address", None), options.pop("factory", self.accepted), reactor=loop, **options
        )
        self.clients: list[socket.socket] = []

    @property
    def channels(self) -> list[Any]:
        return self.accepted.channels

    def client(self) -> socket.socket:
        """Return a socket that is connected, and does not block; it may not be accepted yet."""
        client = raw_client(self.listener.address[:2] if self.is_inet else self.listener.address)
        client.setblocking(False)
        self.clients.append(client)
        return client

    @property
    def is_inet(self) -> bool:
        return isinstance(self.listener.address, tuple)

    def pair(self) -> tuple[socket.socket, Any]:
        """Return a connected client and the channel that serves it."""
        before = len(self.channels)
        client = self.client()
        run_until(self.loop, lambda: len(self.channels) > before)
        return client, self.channels[before]

    def crowd(self, count: int) -> list[socket.socket]:
        """Return so many more clients, all of which are accepted; no more at a time than a backlog holds."""
        before = len(self.channels)
        crowd: list[socket.socket] = []
        while len(crowd) < count:
            crowd.append(self.client())
            if len(crowd) % 100 == 0 or len(crowd) == count:
                run_until(self.loop, lambda: len(self.channels) - before == len(crowd))
        return crowd

    def echoes(self, client: socket.socket, data: bytes = b"ping") -> bool:
        """Return whether `client` gets back what it sends."""
        client.sendall(data)
        return receive(self.loop, client, len(data)) == data

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers; their clients are closed at the end."""
    servers: list[Server] = []

    def start(loop: reactor.Reactor, make: Callable[[], reactor.Channel], **options: Any) -> Server:
        server = Server(loop, make, **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process have 4,000 descriptors, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4000:
        pytest.skip(f"this system grants {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def receive(loop: reactor.Reactor, client: socket.socket, size: int | None = None, timeout: float = 10.0) -> bytes:
    """Run the loop until `client` has got `size` bytes, or the end of the stream; return what it got.

    A reset is taken for an end.
    """
    data = bytearray()
    deadline = time.monotonic() + timeout
    while size is None or len(data) < size:
        loop.poll(0)
        try:
            chunk = client.recv(1 << 20)
        except BlockingIOError:
            if time.monotonic() > deadline:
                pytest.fail(f"{len(data)} bytes of {size} came within {timeout} s")
            loop.poll(0.01)
            continue
        except ConnectionError:
            break
        if not chunk:
            break
        data += chunk
    return bytes(data)


def fill(client: socket.socket, data: bytes) -> int:
    """Send `data` again and again until the socket takes no more; return how many bytes it took."""
    total = 0
    try:
        while True:
            total += client.send(data)
    except BlockingIOError:
        return total


def turns(loop: reactor.Reactor, count: int) -> None:
    """Run exactly so many turns of the loop, without waiting."""
    for _ in range(count):
        loop.poll(0)


def stack_depth() -> int:
    """Return how many frames are on the stack."""
    depth = 0
    frame: Any = sys._getframe()
    while frame is not None:
        depth += 1
        frame = frame.f_back
    return depth


def in_child(name: str, timeout: float = 30.0) -> Any:
    """Run the function `name` of `tests.children` in a process of its own; return what it returned."""
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.children", name],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout.splitlines()[-1])


def scripted_accept(errors: deque[int]) -> type[socket.socket]:
    """Return a class of sockets whose accept fails with each of `errors` before it works."""

    class Scripted(AcceptingSocket):
        def accept(self) -> tuple[socket.socket, Any]:
            if errors:
                number = errors.popleft()
                raise OSError(number, os.strerror(number))
            return super().accept()

    return Scripted
