"""The default reactor: one for each thread, made when it is first asked for."""

from __future__ import annotations

import threading

from .eventloop import Reactor

_of_thread = threading.local()


def get_reactor() -> Reactor:
    """Return the default reactor of this thread; a new one where the last one was closed."""
    reactor: Reactor | None = getattr(_of_thread, "reactor", None)
    if reactor is None or reactor.is_closed:
        reactor = _of_thread.reactor = Reactor()
    return reactor
