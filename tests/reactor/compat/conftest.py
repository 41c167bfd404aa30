"""What the tests of the drop-in modules stand on."""

from __future__ import annotations

import importlib
import importlib.util
import select
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import reactor
from reactor.compat import asyncore, watching
from reactor.defaults import use_reactor

from .dispatchers import peers


@pytest.fixture(autouse=True)
def nothing_stays_in_the_map(nothing_is_leaked: Any) -> Iterator[None]:
    """Fail a test that leaves an object in the socket map."""
    yield
    left = list(asyncore.socket_map.values())
    asyncore.close_all(ignore_all=True)
    assert left == []


@pytest.fixture
def default_reactor() -> Iterator[reactor.Reactor]:
    """A reactor that is this thread's default one, closed at the end."""
    with reactor.Reactor() as fresh:
        before = use_reactor(fresh)
        yield fresh
        use_reactor(before)


@pytest.fixture(params=["epoll", "poll"])
def pollster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the watcher waits with: what there is on Linux, and what there is elsewhere."""
    name: str = request.param
    if name == "poll":
        monkeypatch.setattr(watching, "make_pollster", watching.Poll)
    elif not hasattr(select, "epoll"):
        pytest.skip("this system has no epoll")
    return name


@pytest.fixture(params=[False, True], ids=["select", "use_poll"])
def use_poll(request: pytest.FixtureRequest) -> bool:
    """Whether the loop runs `poll2`."""
    return bool(request.param)


@pytest.fixture
def pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes pairs of connected sockets; whatever is still open at the end is closed."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        made.extend((ours, theirs))
        peers[ours.fileno()] = theirs
        theirs.settimeout(10)
        return ours, theirs

    yield make
    peers.clear()
    for sock in made:
        try:
            sock.close()
        except OSError:
            pass  # the test has closed its descriptor


def run_until(condition: Callable[[], Any], timeout: float = 10.0, **options: Any) -> None:
    """Run `asyncore.loop` until `condition` holds; fail the test if it does not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {condition}")
        asyncore.loop(timeout=0.01, count=1, **options)


def original(name: str) -> ModuleType:
    """Return the module of that name as CPython has it: in the standard library, or later for its own tests.

    The test is skipped where it has neither.
    """
    for place in (name, f"test.support.{name}"):
        if importlib.util.find_spec(place.partition(".")[0]) is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return importlib.import_module(place)
        except ImportError:
            continue
    pytest.skip(f"Python {sys.version_info[0]}.{sys.version_info[1]} here comes without {name} and its tests")
