"""Which descriptors of a socket map are ready: asked anew at every pass, remembered from one to the next.

The old modules ask every object at every pass what it waits for, and their maps are edited by hand. So a `Watcher`
compares what it has registered with what it is asked for, each time. That does not tell when a number has come back
with another meaning. Dispatchers say so, with `announce` and `retire`; of other objects it is found out at every pass;
and what a dispatcher does not know, because its descriptor was closed behind its back, soon after waits end in vain.
"""

from __future__ import annotations

import errno
import math
import os
import select
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

# On Linux these are the numbers of epoll too.
READ = select.POLLIN
URGENT = select.POLLPRI
WRITE = select.POLLOUT
ERROR = select.POLLERR
HANGUP = select.POLLHUP
INVALID = select.POLLNVAL

CHECK_EVERY = 64
"""Waits from one check of all registrations to the next, where there is always something to do."""

CHECK_AFTER = 0.0001
"""Seconds waited in vain, for each registration, that are worth a check of all, which takes less than a hundredth."""

LONGEST_WAIT = 30.0
"""Seconds in one wait, after which such a check is due at the latest."""


class Pollster(Protocol):
    """What `select.epoll` makes."""

    def register(self, fd: int, eventmask: int) -> None: ...

    def modify(self, fd: int, eventmask: int) -> None: ...

    def unregister(self, fd: int) -> None: ...

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]: ...

    def close(self) -> None: ...


class Poll:
    """`select.poll` with the face of an epoll, where there is none. A kqueue would not tell of urgent data."""

    def __init__(self) -> None:
        poll = select.poll()
        self.register = poll.register
        self.modify = poll.modify
        self.unregister = poll.unregister
        self._poll = poll.poll

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        return self._poll(math.ceil(timeout * 1000))

    def close(self) -> None:
        """It has no descriptor."""


def make_pollster() -> Pollster:
    """Return an epoll, or what needs no descriptor where there is none to be had."""
    try:
        return select.epoll()
    except (AttributeError, OSError):
        return Poll()


WATCHES_NOTHING = Poll()
"""Stands in the place of a pollster that was given back."""


class Watcher:
    """Waits for the descriptors of a map, on behalf of one thread.

    It is a cache: to `close` it is always right, and costs one registration for each descriptor at the next wait.
    """

    def __init__(self) -> None:
        self._pollster: Pollster = WATCHES_NOTHING
        self._is_sound = True  # whether what the pollster watches is what is registered
        self._registered: dict[int, int] = {}
        self._resting: dict[Any, int | None] = {}  # by descriptor, the flags for which it rests; None for any
        self._strangers: set[int] = set()  # nobody will say when their numbers come back
        self._always_ready: set[int] = set()  # epoll refuses files, which never block
        self._batch: dict[int, int] = {}
        self._guest = -1
        self._waits = 0
        self._waited_in_vain = 0.0
        self._thread = threading.get_ident()

    def wait(self, interest: dict[int, int], timeout: float | None, guest: int = -1) -> dict[int, int]:
        """Wait until something happens, at most `timeout` seconds.

        Arguments:
            interest: by descriptor, the flags to wait for.
            guest: the descriptor, among those of `interest`, that is in no map.
        Returns: a batch: by descriptor, what happened. It shrinks when one of them is announced or retired.
        """
        self._batch.clear()  # a pass inside a pass: what the outer one has left is told again, if it is still true
        self._guest = guest
        batch = self._reconcile(interest)
        if not self._is_sound:
            batch = self._reconcile(interest)
        if self._always_ready:
            batch.update((fd, self._registered.get(fd, 0) & (READ | WRITE)) for fd in list(self._always_ready))
        if timeout is None or timeout > LONGEST_WAIT:
            timeout = LONGEST_WAIT
        if batch and any(batch.values()):
            timeout = 0
        events = self._pollster.poll(timeout, max(1, len(self._registered)))
        batch.update(events)
        self._waits += 1
        if not events:
            self._waited_in_vain += timeout
        if self._waits >= CHECK_EVERY or self._waited_in_vain > CHECK_AFTER * len(self._registered):
            self._waits, self._waited_in_vain = 0, 0.0
            self._check(self._registered, batch)
        if len(batch) > 1:
            batch = {fd: batch[fd] for fd in interest if fd in batch}  # the order of the map, as select tells them
        return self.adopt(batch)

    def adopt(self, batch: dict[int, int]) -> dict[int, int]:
        """Make `batch` the one from which descriptors are removed, and return it."""
        self._batch = batch
        return batch

    def rest(self, fd: Any) -> None:
        """Leave the descriptor out of the next wait, if that is for the same as now."""
        self._resting[fd] = self._registered.get(fd)

    def take_rest(self, interest: dict[int, int]) -> list[int]:
        """Return those of `interest` that the next wait leaves out."""
        if not self._resting:
            return []
        resting, self._resting = self._resting, {}
        return [fd for fd, flags in list(resting.items()) if fd in interest and flags in (None, interest[fd])]

    def forget(self, fd: int) -> None:
        """What is known of the descriptor has come to an end; perhaps in another thread."""
        self._batch.pop(fd, None)
        self._resting.pop(fd, None)
        if fd not in self._registered:
            return
        # In this order: as soon as it is not registered here, a pass in the thread of the loop may register it again.
        self._unwatch(fd)
        self._registered.pop(fd, None)
        is_last = len(self._registered) <= (self._guest in self._registered)
        if is_last and self._thread == threading.get_ident():
            self.close()

    def close(self) -> None:
        """Give the descriptor back, and forget what was registered."""
        self._registered.clear()
        self._resting.clear()
        self._strangers.clear()
        self._always_ready.clear()
        self._is_sound = True
        self._waits, self._waited_in_vain = 0, 0.0
        self._pollster.close()
        self._pollster = WATCHES_NOTHING

    def _reconcile(self, interest: dict[int, int]) -> dict[int, int]:
        """Make the registrations what `interest` says; return the descriptors with which something is wrong."""
        if not self._is_sound:
            self.close()
        if self._pollster is WATCHES_NOTHING:
            self._pollster = make_pollster()
        registered = self._registered
        wrong: dict[int, int] = {}
        if interest != registered:
            for fd, flags in interest.items():
                before = registered.get(fd)
                if before is None:
                    self._add(fd, flags, wrong)
                elif before != flags:
                    registered[fd] = flags
                    self._check((fd,), wrong)
            if len(registered) > len(interest):
                for fd in registered.keys() - interest.keys():
                    registered.pop(fd, None)  # another thread may have been quicker
                    self._unwatch(fd)
        if self._strangers:
            self._check(self._strangers, wrong)
        return wrong

    def _add(self, fd: int, flags: int, wrong: dict[int, int]) -> None:
        try:
            self._pollster.register(fd, flags)
        except PermissionError:
            self._always_ready.add(fd)
        except FileExistsError:
            self._is_sound = False
        except (OSError, ValueError) as error:
            # A ValueError for a number below 0. EINVAL if it was closed in another thread, and the number has come back
            # as that of the epoll itself.
            if getattr(error, "errno", errno.EBADF) not in (errno.EBADF, errno.EINVAL):
                raise
            wrong[fd] = INVALID
            return
        self._registered[fd] = flags
        if fd not in _announced:
            self._strangers.add(fd)

    def _check(self, fds: Iterable[int], wrong: dict[int, int]) -> None:
        """Have the kernel watch for what is registered, and find out whether it still can."""
        for fd in list(fds):
            try:
                self._pollster.modify(fd, self._registered.get(fd, 0))
            except OSError as error:
                if fd in self._always_ready and error.errno == errno.EPERM:
                    continue
                self._is_sound = False
                if error.errno == errno.EBADF:
                    wrong[fd] = INVALID

    def _unwatch(self, fd: int) -> None:
        """Stop watching a descriptor that is registered no more."""
        self._strangers.discard(fd)
        if fd in self._always_ready:
            self._always_ready.discard(fd)
            return
        try:
            self._pollster.unregister(fd)
        except (OSError, KeyError, ValueError):
            # It was closed before anybody said so. If another process has it too, this epoll goes on about it.
            self._is_sound = False


_of_thread = threading.local()
_all: dict[int, weakref.ref[Watcher]] = {}
"""By id. A plain dictionary, because each single operation on it is safe between threads."""


def get_watcher() -> Watcher:
    """Return the watcher of this thread."""
    watcher: Watcher | None = getattr(_of_thread, "watcher", None)
    if watcher is None:
        watcher = _of_thread.watcher = Watcher()
        key = id(watcher)
        _all[key] = weakref.ref(watcher, lambda _: _all.pop(key, None))
    return watcher


_announced: set[Any] = set()
"""The descriptors of dispatchers."""


def announce(fd: Any) -> None:
    """A dispatcher has this descriptor from now on, and will say when it has not."""
    _announced.add(fd)
    _forget(fd)


def retire(fd: Any) -> None:
    """The descriptor is about to be closed, or to leave its map."""
    _announced.discard(fd)
    _forget(fd)


def _forget(fd: Any) -> None:
    for watcher in _watchers():
        watcher.forget(fd)


def _watchers() -> list[Watcher]:
    """Return the watchers of all threads."""
    return [watcher for reference in list(_all.values()) if (watcher := reference()) is not None]


def _abandon_after_fork() -> None:
    """In the child of a fork: what it registers must not go into the epoll of its parent."""
    for watcher in _watchers():
        watcher.close()


os.register_at_fork(after_in_child=_abandon_after_fork)
