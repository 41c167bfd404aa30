"""What the tests of managers stand on."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator

import pytest

from reactor.managers import Server, SyncManager
from tests.conftest import KEY
from tests.reactor.managers.serving import Gate, Remote, serving


@pytest.fixture
def remote() -> Iterator[Callable[[Server, str], Remote]]:
    """Make remotes for an object by its ident; each is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda server, ident: stack.enter_context(Remote(server.address, ident))


@pytest.fixture
def known_key() -> Iterator[None]:
    """Have proxies that are made in this process know the key."""
    process = multiprocessing.current_process()
    before = process.authkey
    process.authkey = KEY
    yield
    process.authkey = before


@pytest.fixture
def sync() -> Iterator[Server]:
    """A server for the types of a `SyncManager`."""
    with serving(SyncManager) as server:
        yield server


@pytest.fixture
def at_home(sync: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same, and its process knows that it is its server."""
    monkeypatch.setattr(multiprocessing.current_process(), "_manager_server", sync, raising=False)
    return sync


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()
