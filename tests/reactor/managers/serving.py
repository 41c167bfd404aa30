"""A server in a thread of the test, and clients of the standard library, unmodified."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import managers
from multiprocessing.connection import Client
from typing import Any

import pytest

from reactor.managers import BaseManager, Server
from tests.conftest import KEY

PATIENCE = 20
"""Seconds until a test fails that waits for something."""


def registry(base: type[managers.BaseManager] = BaseManager, **types: Any) -> Any:
    """Return a manager class with these types, each given as what makes it, or as the arguments of `register`."""
    kind: Any = type("Manager", (base,), {})
    for typeid, made in types.items():
        options = made if isinstance(made, dict) else {"callable": made}
        kind.register(typeid, **options)
    return kind


@contextlib.contextmanager
def serving(kind: Any, address: Any = None, serializer: str = "pickle", **options: Any) -> Iterator[Server]:
    """Serve the types of a manager class, in a thread."""
    server = kind._Server(kind._registry, address, KEY, serializer, **options)
    thread = threading.Thread(target=server.reactor.loop)
    thread.start()
    try:
        yield server
    finally:
        server.reactor.call_threadsafe(server.reactor.stop)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        server.reactor.close()


def on_the_loop(server: Server, function: Callable[[], Any]) -> Any:
    """Return what `function` returns on the loop of `server`."""
    done = threading.Event()
    results: list[Any] = []

    def call() -> None:
        results.append(function())
        done.set()

    server.reactor.call_threadsafe(call)
    assert done.wait(PATIENCE)
    return results[0]


@contextlib.contextmanager
def held(server: Server) -> Iterator[None]:
    """Hold the loop of `server`, so that what happens meanwhile happens to it at once."""
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert over.wait(PATIENCE)

    server.reactor.call_threadsafe(hold)
    assert begun.wait(PATIENCE)
    try:
        yield
    finally:
        over.set()


def wait_until(condition: Callable[[], Any]) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {PATIENCE} s: {condition}")
        time.sleep(0.001)


def waiting(server: Server) -> int:
    """Return how many clients of `server` wait for the answer to a call, and have no thread that works for it."""

    def count() -> int:
        sessions: list[Any] = [channel for channel in server.reactor.channels if channel is not server.listener]
        return sum(session._wait is not None and session._wait.is_waiting for session in sessions)

    return int(on_the_loop(server, count))


def objects_of(server: Server) -> int:
    """Return how many objects `server` shares, apart from those that only errors in this process still name."""
    gc.collect()  # until Python 3.12 errors of calls hold their proxies in cycles
    return int(ask(server.address, "number_of_objects"))


def connected(server: Server, kind: Any) -> Any:
    """Return a manager of the class `kind` that is connected to `server`."""
    manager = kind(address=server.address, authkey=KEY)
    manager.connect()
    return manager


def ask(address: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Return the answer of the server at `address` to a request for itself."""
    with Client(address, authkey=KEY) as connection:
        return managers.dispatch(connection, None, name, args, kwargs)  # type: ignore[attr-defined]


def end(process: subprocess.Popen[str]) -> None:
    """End a process that was started in a session of its own, and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Remote:
    """What a proxy has: a connection that calls objects, and an object.

    Arguments:
        address: of the server.
        ident: of the object.
    """

    def __init__(self, address: Any, ident: str) -> None:
        self.connection = Client(address, authkey=KEY)
        self.ident = ident
        managers.dispatch(self.connection, None, "accept_connection", ("test",))  # type: ignore[attr-defined]

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def begin(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Send a request."""
        self.connection.send((self.ident, name, args, kwargs))

    def receive(self) -> tuple[str, Any]:
        """Return the kind of the next answer, and what it says."""
        assert self.connection.poll(PATIENCE), "no answer"
        kind, result = self.connection.recv()
        return kind, result

    def end(self) -> Any:
        """Return what the next answer returns, or raise what it raises."""
        kind, result = self.receive()
        if kind == "#RETURN":
            return result
        raise managers.convert_to_error(kind, result)  # type: ignore[attr-defined]

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a call returns, or raise what it raises."""
        self.begin(name, *args, **kwargs)
        return self.end()


def make(server: Server, typeid: str, *args: Any, **kwargs: Any) -> str:
    """Have the server make an object; return its ident."""
    ident, _ = ask(server.address, "create", typeid, *args, **kwargs)
    return str(ident)


class Gate:
    """Waits until it is opened from outside, and counts who waits in it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, *args: Any) -> Any:
        self.inside.release()
        assert self.opened.wait(20)
        return args

    wait = __call__


Remotes = Callable[[Server, str], Remote]
"""What the fixture `remote` is: it makes remotes for an object by its ident."""
