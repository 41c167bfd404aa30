"""Managers whose server is one reactor, for clients of ``multiprocessing.managers``, unmodified.

`BaseManager`, `SyncManager` and `SharedMemoryManager` are used as the originals are. The locks, queues and their kind
that a `SyncManager` makes are those of `waiting`: a thousand clients that wait cost no thread. Who registers types of
their own registers these too, in place of those of `threading` and `queue`.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import managers
from typing import Any, ClassVar

from .segments import SharedMemoryServer
from .server import MANAGER_LIMITS, Server
from .waiting import Barrier, BoundedSemaphore, Condition, Event, Lock, Queue, RLock, Semaphore

__all__ = [
    "MANAGER_LIMITS",
    "Barrier",
    "BaseManager",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "Queue",
    "RLock",
    "Semaphore",
    "Server",
    "SharedMemoryManager",
    "SharedMemoryServer",
    "SyncManager",
]


INITIAL = 0
"""What the original calls `State.INITIAL`."""


class BaseManager(managers.BaseManager):
    """`multiprocessing.managers.BaseManager`, with the `Server` of this package."""

    _Server = Server
    _registry: ClassVar[dict[str, Any]]
    _state: Any
    _authkey: Any
    _serializer: str

    def get_server(self) -> Any:
        """Return the server, which has `serve_forever` and `address`.

        Raises:
            ProcessError: this manager was started, connected or shut down.
        """
        if self._state.value != INITIAL:
            raise multiprocessing.ProcessError("this manager was started, connected or shut down; make another one")
        return type(self)._Server(self._registry, self.address, self._authkey, self._serializer)


class SyncManager(BaseManager, managers.SyncManager):
    """`multiprocessing.managers.SyncManager`, with the `Server` of this package."""


class SharedMemoryManager(BaseManager, managers.SharedMemoryManager):
    """`multiprocessing.managers.SharedMemoryManager`, with the `SharedMemoryServer` of this package."""

    _Server = SharedMemoryServer


_KINDS: dict[str, Any] = {
    "Queue": Queue,
    "JoinableQueue": Queue,
    "Event": Event,
    "Lock": Lock,
    "RLock": RLock,
    "Semaphore": Semaphore,
    "BoundedSemaphore": BoundedSemaphore,
    "Condition": Condition,
    "Barrier": Barrier,
}

for _name, _kind in _KINDS.items():
    SyncManager.register(_name, _kind, SyncManager._registry[_name][3])
