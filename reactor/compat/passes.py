"""One pass over a socket map: who is asked, who is told, and when the reactor of the thread has its turn."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from ..defaults import find_reactor
from ..errors import ClosedReactorError
from ..eventloop import Reactor
from ..listener import PAUSE_AFTER_ERROR
from .watching import READ, get_watcher

SocketMap = MutableMapping[Any, Any]


class Pass:
    """One pass over a map: wait, tell who is ready, and give the reactor its turn.

    Arguments:
        map: as `loop` has it.

    Attributes:
        items: what was in the map when the pass began.
        interest: by descriptor, the flags that were waited for.
        reactor: the thread's, if it has one that can take a turn.
    """

    def __init__(self, map: SocketMap) -> None:
        self.items = list(map.items())
        self.interest: dict[int, int] = {}
        self.reactor, self._guest = _reactor_between_turns()
        self._map = map
        self._objects = dict(self.items)
        self._keys: dict[int, Any] = {}
        self._batch: dict[int, int] = {}
        self._seen = 0  # all that happened, to whomever
        self._watcher = get_watcher()

    def descriptor(self, key: Any) -> int:
        """Return the descriptor that stands for a key of the map: a number, or anything with a ``fileno()``.

        Raises:
            TypeError: the key is neither.
        """
        if isinstance(key, int):
            return key
        if not hasattr(key, "fileno"):
            raise TypeError(f"a key of the socket map must be a descriptor, or have a fileno(): {key!r}")
        number: int = key.fileno()
        self._keys[number] = key
        return number

    def wait(
        self,
        interest: dict[int, int],
        timeout: float | None,
        ask: Callable[[dict[int, int], float | None], dict[int, int]] | None,
    ) -> None:
        """Wait until something happens, at most `timeout` seconds.

        Arguments:
            interest: by descriptor, the flags to wait for.
            ask: asks what the program has put in the place of a function of `select`.
        """
        watcher, reactor = self._watcher, self.reactor
        if reactor is not None:
            interest[self._guest] = READ
            timeout = _earlier(timeout, reactor.next_timeout())
        elif not self._map:
            return
        for fd in watcher.take_rest(interest):
            del interest[fd]
            timeout = _earlier(timeout, PAUSE_AFTER_ERROR)
        if not self._map:
            timeout = 0
        self.interest = interest
        if ask is None:
            self._batch = watcher.wait(interest, timeout, self._guest)
        else:
            self._batch = watcher.adopt(ask(interest, timeout))
        self._seen = functools.reduce(operator.or_, self._batch.values(), 0)

    def ready(self, flags: int) -> Iterable[tuple[int, Any, int]]:
        """Return those to which one of `flags` happened: the descriptor, its object, and all that happened.

        They are looked for one by one. Left out are those that are in their place no longer, or whose descriptor was
        closed meanwhile.
        """
        return self._look_for(flags) if self._seen & flags else ()

    def _look_for(self, flags: int) -> Iterator[tuple[int, Any, int]]:
        for fd in list(self._batch):
            happened = self._batch.get(fd, 0)
            if happened & flags:
                key = self._keys.get(fd, fd)
                obj = self._map.get(key)
                if obj is not None and obj is self._objects.get(key):
                    yield fd, obj, happened

    def rest(self, fd: int) -> None:
        """Leave a descriptor out of the next wait: what happened to it will end every wait if its object just stays."""
        self._watcher.rest(fd)

    def end(self) -> None:
        """Give the reactor its turn: for its events and timers, and for what the objects of the map queued for it."""
        reactor, guest = _reactor_between_turns()  # a handler may have closed it, or forked
        if reactor is not None and (guest in self._batch or reactor.next_timeout() == 0):
            reactor.poll(0)
        if not self._map:
            self._watcher.close()


def _reactor_between_turns() -> tuple[Reactor | None, int]:
    """Return the reactor of this thread and its descriptor, if it has one that can take a turn; else None and -1.

    In the child of a fork there is none, until a new one is made. And in a handler of the reactor itself it stands in
    the middle of a turn: there, a pass is for the map alone.
    """
    reactor = find_reactor()
    if reactor is not None and not reactor.is_running:
        try:
            return reactor, reactor.fileno()
        except ClosedReactorError:
            pass
    return None, -1


def _earlier(timeout: float | None, other: float | None) -> float | None:
    return other if timeout is None else timeout if other is None else min(timeout, other)
