"""The default reactor: one for each thread, made when it is first asked for."""

from __future__ import annotations

import atexit
import threading
import weakref

from .eventloop import Reactor

_of_thread = threading.local()
_all: weakref.WeakSet[Reactor] = weakref.WeakSet()


def get_reactor() -> Reactor:
    """Return the default reactor of this thread; a new one where the last one was closed.

    Whoever makes a `Reactor` closes it. Nobody made this one, so it is closed when the program ends.
    """
    reactor = find_reactor()
    if reactor is None or reactor.is_closed:
        reactor = _of_thread.reactor = Reactor()
        _all.add(reactor)
    return reactor


def find_reactor() -> Reactor | None:
    """Return the default reactor of this thread, if it has one already; it may be closed."""
    found: Reactor | None = getattr(_of_thread, "reactor", None)
    return found


def use_reactor(reactor: Reactor | None) -> Reactor | None:
    """Make `reactor` the default one of this thread, and return the one before it; None for either is "none yet"."""
    before = find_reactor()
    _of_thread.reactor = reactor
    return before


@atexit.register
def _close_all() -> None:
    for reactor in list(_all):
        if not reactor.is_running:
            reactor.close()
