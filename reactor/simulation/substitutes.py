"""What a simulated reactor is given in place of the system's: a selector, a waker, threads."""

from __future__ import annotations

import errno
import selectors
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..eventloop import READ
from .faults import MODIFY, REGISTER, THREAD, failure
from .network import LONGEST_DELAY, File

if TYPE_CHECKING:
    from .hosts import Host


class Batch(list[tuple[Any, int]]):
    """The events of one select. Tells the host when the last of them has been dispatched."""

    def __init__(self, host: Host, events: list[tuple[Any, int]]) -> None:
        super().__init__(events)
        self._host = host

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        host = self._host
        for key, events in super().__iter__():
            number = getattr(key, "fd", None)
            if number is not None and host.table.get(number) is not host.batch.get(number):
                host.world.violate(
                    "an event reaches the wrong object",
                    f"descriptor {number} is another one than when it was ready for {key.data}",
                )
            yield key, events
        host.batch.clear()


class SimulatedSelector(selectors.BaseSelector):
    """A selector with the semantics of epoll: level-triggered, errors and hang-ups always reported."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        host = self._host
        file = host.file_of(fileobj)
        host.draw(REGISTER, file)
        if file.number in self._keys:
            raise KeyError(f"descriptor {file.number} is registered already")
        return self._set(file, selectors.SelectorKey(fileobj, file.number, events, data))

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        host = self._host
        file = host.file_of(fileobj)
        if file.key is None:
            raise KeyError(f"descriptor {file.number} is not registered")
        host.draw(MODIFY, file)
        return self._set(file, selectors.SelectorKey(fileobj, file.number, events, data))

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        host = self._host
        host.calls += 1
        host.activity += 1
        file = host.file_of(fileobj)
        if file.key is None:
            raise KeyError(f"descriptor {file.number} is not registered")
        key, file.key = file.key, None
        host.candidates.pop(file, None)
        return self._keys.pop(key.fd)

    def select(self, timeout: float | None = None) -> Any:
        host = self._host
        if timeout is None or timeout > 0:
            host.world.wait_for(host, timeout)
        return host.collect()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        for number in self._keys:
            file = self._host.table.get(number)
            if file is not None:
                file.key = None
        self._keys.clear()

    def _set(self, file: File, key: selectors.SelectorKey) -> selectors.SelectorKey:
        self._host.activity += 1
        file.key = self._keys[key.fd] = key
        self._host.candidates[file] = None
        return key


class SimulatedWaker(File):
    """Wakes the loop: from a simulated thread, or from outside between two turns."""

    __slots__ = ("_rung",)

    def __init__(self, host: Host) -> None:
        super().__init__(host, f"{host.name}.waker")
        self._rung = False
        host.open(self)

    def readiness(self) -> int:
        return READ if self._rung else 0

    def fileno(self) -> int:
        return self.number

    def wake(self) -> None:
        if self.number < 0:
            raise failure(errno.EBADF)
        self._rung = True
        self.touch()

    def drain(self) -> None:
        self._rung = False
        self.host.activity += 1

    def close(self) -> None:
        if self.number >= 0:
            self.key = None
            self.host.release(self.number, self)


class SimulatedThreads:
    """The threads of a host: a job runs at once, or a moment later, and always on the one real thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._boots = host.boots

    def submit(self, job: Callable[[], None]) -> None:
        host = self._host
        fault, parameter = THREAD.decode(host.stream.draw(THREAD))
        if fault is not None:
            host.injected(host.name, THREAD, fault)
        host.world.schedule(parameter / 1024 * LONGEST_DELAY, self._run, job)

    def close(self) -> None:
        self._boots = -1

    def _run(self, job: Callable[[], None]) -> None:
        if self._boots == self._host.boots:
            job()
